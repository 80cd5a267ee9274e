"""The engine "openssl": DTLS 1.0 and 1.2 by OpenSSL's state machine, as the ``cryptography`` wheels carry it.

OpenSSL keeps the keys and judges the messages. Records, fragments, flights and their timers are ours: OpenSSL sees
whole handshake messages in order and nothing that a stranger could use against it (see ``docs/architecture.md``).
"""
