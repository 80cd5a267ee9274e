"""A client as Hue Entertainment has it: a pre-shared key, one suite, and a stream of messages without an answer."""

import sys
import time
from pathlib import Path

import dtls

BRIDGE, APPLICATION, AREA = "localhost", "sensor 1", "1a8d99cc-967b-44f2-9202-43f976c0fa6b"


def frame(sequence, red, green, blue):
    header = b"HueStream" + bytes([2, 0, sequence % 256, 0, 0, 0, 0]) + AREA.encode()
    colours = b"".join((colour * 257).to_bytes(2, "big") for colour in (red, green, blue))
    return header + bytes([0]) + colours  # for channel 0


context = dtls.create_default_context()
context.set_psk(APPLICATION, Path("psk.key").read_bytes())  # the bridge's clientkey: bytes.fromhex(...)
context.set_ciphers("PSK-AES128-GCM-SHA256")
port = int(sys.argv[1]) if len(sys.argv) > 1 else 2100
with dtls.create_connection((BRIDGE, port), 10, context=context) as light:
    print("connected:", light.version(), light.cipher()[0])
    for sequence in range(25):
        light.send(frame(sequence, 10 * sequence, 0, 255 - 10 * sequence))
        time.sleep(0.02)
print("streamed", sequence + 1, "frames")
