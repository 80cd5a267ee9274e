"""An echo server of several processes on one port, each with something of its own."""

import contextlib
import sys

import dtls
import dtls.asyncio


def say(text):
    print(text + "\n", end="", flush=True)  # in one piece: other processes print too


async def echo(connection):
    async for message in connection:
        await connection.send(message)


@contextlib.asynccontextmanager
async def lifespan(server):  # in each process: here a database would be connected
    say(f"listening on port {server.sockets[0].getsockname()[1]}")
    yield
    say(f"{server.statistics['cookies_accepted']} handshakes begun here")


context = dtls.create_default_context(dtls.Purpose.CLIENT_AUTH)
context.load_cert_chain("server.pem", "server.key")
context.session_tickets = True  # whichever process gave a ticket, each resumes the session
port = int(sys.argv[1]) if len(sys.argv) > 1 else 4433
dtls.asyncio.run_server(echo, None, port, context=context, workers=2, lifespan=lifespan)
