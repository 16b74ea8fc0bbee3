"""A client's frames (RFC 6455, section 5.2)."""

from __future__ import annotations

import random


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame, masked with a key by chance (RFC 6455, section 5.3)."""
    key = random.randbytes(4)
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
    return frame_head(opcode, size) + key + masked


def frame_head(opcode: int, size: int) -> bytes:
    """First byte and length of a client's frame (RFC 6455, section 5.2)."""
    first = bytes((0x80 | opcode,))
    if size < 126:
        return first + bytes((0x80 | size,))
    if size < 65536:
        return first + b"\xfe" + size.to_bytes(2, "big")
    return first + b"\xff" + size.to_bytes(8, "big")
