"""The load, which offers compression, and sends JSON.

Run as ``python -m benchmarks._load_deflate``, and asked like `benchmarks._load`. It inflates
nothing: what comes is counted as it comes.
"""

from __future__ import annotations

import gc
import json
import random
import time
import zlib
from typing import Any, Final

from ._client import Address, Client
from ._frames import frame
from ._load import Generator

_END: Final = b"\r\n\r\n"
#: What browsers offer.
_OFFER: Final = b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits" + _END
_RSV1: Final = 0x40


def document(number: int, size: int) -> bytes:
    """JSON of so many bytes: quotes of some instruments, the same for the same number."""
    chance = random.Random(number)
    quotes: list[str] = []
    length = 2
    while length < size:
        quote = {
            "symbol": f"INST{chance.randrange(500):03d}",
            "bid": round(chance.uniform(1, 500), 2),
            "ask": round(chance.uniform(1, 500), 2),
            "size": chance.randrange(1, 5000),
            "time": 1_700_000_000_000 + chance.randrange(10**9),
        }
        quotes.append(json.dumps(quote))
        length += len(quotes[-1]) + 2
    return ("[" + ", ".join(quotes))[: size - 1].encode() + b"]"


def compressed_frame(payload: bytes) -> bytes:
    """A client's text frame, compressed (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    plain = frame(1, data[:-4])
    return bytes((plain[0] | _RSV1,)) + plain[1:]


class DeflateGenerator(Generator):
    """Knows some commands more."""

    def __init__(self) -> None:
        super().__init__()
        self._offers = False

    def offer(self) -> dict[str, Any]:
        """From now on offer compression."""
        self._offers = True
        return {}

    def exchange(self, size: int) -> dict[str, Any]:
        """Send a message on every connection, and wait for as many."""
        text = document(0, size)
        message = compressed_frame(text) if self._offers else frame(1, text)
        clients = [client for client in self._clients.values() if client.open]
        left = len(clients)

        def received(client: Client, data: memoryview, begin: int, finish: int) -> None:
            nonlocal left
            left -= 1

        self._received = received
        for client in clients:
            self._send(client, message)
        self._turn_until(lambda: left == 0)
        self._received = self._ignore
        return {}

    def broadcast(self, publisher: str, first: int, count: int, size: int) -> dict[str, Any]:
        """Publish messages, each when all have the one before.

        Args:
            publisher: target of the connection that publishes.
            first: number of the first message.
            count: of messages.
            size: bytes of each.
        """
        subscribers = [c for c in self._clients.values() if c.target != publisher]
        source = next(c for c in self._clients.values() if c.target == publisher)
        missing = delivered = wire = 0

        def received(client: Client, data: memoryview, begin: int, finish: int) -> None:
            nonlocal missing, delivered, wire
            missing -= 1
            delivered += 1
            wire += finish - begin

        def all_have_it() -> bool:
            return missing <= 0

        self._received = received
        begun, cpu = time.monotonic(), time.process_time()
        for number in range(first, first + count):
            missing = len(subscribers)
            self._send(source, frame(1, document(number, size)))
            self._turn_until(all_have_it)
        took = time.monotonic() - begun
        self._received = self._ignore
        return {
            "delivered": delivered,
            "bytes": wire / delivered,
            "busy": (time.process_time() - cpu) / took,
        }

    def _dial(self, address: Address, target: str, receive_buffer: int | None) -> Client:
        client = super()._dial(address, target, receive_buffer)
        if self._offers and client.outgoing is not None:
            client.outgoing = client.outgoing.replace(_END, _OFFER)
        return client


def main() -> None:
    """Serve commands."""
    # As in `benchmarks._load`.
    gc.disable()
    DeflateGenerator().run()


if __name__ == "__main__":
    main()
