"""A ``socketserver``: a handler is called for each message, in a thread of its own."""

import socketserver
import sys

import dtls
import dtls.socketserver


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        message, sock = self.request
        sock.sendto(message, self.client_address)


port = int(sys.argv[1]) if len(sys.argv) > 1 else 4433
context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
context.load_cert_chain("server.pem", "server.key")
with dtls.socketserver.ThreadingDTLSServer(("", port), Echo, context=context) as server:
    print("listening on port", server.server_address[1], flush=True)
    server.serve_forever()
