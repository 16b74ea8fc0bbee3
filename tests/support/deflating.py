"""What a peer compresses, and what is compressed for it."""

from __future__ import annotations

import json
import random
import zlib

from trio_beat import Compression
from trio_beat._protocol.compression import Counts
from trio_beat._protocol.deflate import PIECE as PIECE
from trio_beat._protocol.deflate import STEP as STEP
from trio_beat._protocol.deflate import Deflate as Deflate
from trio_beat._protocol.messages import Deflated as Deflated

#: What stands for the end of a compressed message, and is not sent (RFC 7692, section 7.2.1).
END = b"\x00\x00\xff\xff"


def make_deflate(level: int = 6, window_bits: int = 15, threshold: int = 0) -> Deflate:
    """What a handshake may have agreed on."""
    chosen = Compression(level=level, window_bits=window_bits, threshold=threshold)
    return Deflate(chosen, window_bits, Counts())


def compressed(data: bytes, *, bits: int = 15, level: int = 6) -> bytes:
    """The payload that a peer sends for a message."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(END)


def some_json(size: int) -> str:
    """JSON of so many bytes, different in each part."""
    chance = random.Random(size)
    words = ("open", "close", "trade", "order", "price", "market", "user")
    rows: list[dict[str, object]] = []
    while len(rows) * 30 < size:
        rows.append({"id": chance.randrange(10**6), "kind": chance.choice(words)})
    return json.dumps(rows)[:size]
