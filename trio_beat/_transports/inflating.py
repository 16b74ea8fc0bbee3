"""A compressed message that has come, and is inflated in steps (RFC 7692, section 7.2.2).

It waits where the rest of a read does: others get a turn, and then it goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from websockets.frames import Opcode

from .._protocol.compression import Counts
from .._protocol.deflate import Inflater


class Inflating:
    """A compressed message that has come.

    Args:
        opcode: the message's.
        data: its payload, as it came.
        limit: bytes that it may have when it is inflated.
        counts: counts it.
    """

    __slots__ = ("_counts", "_inflater", "_opcode", "_size", "frames", "rest")

    def __init__(self, opcode: Opcode, data: bytes | bytearray, limit: int, counts: Counts) -> None:
        self._opcode = opcode
        self._size = len(data)
        self._inflater = Inflater(data, limit)
        self._counts = counts
        #: What came behind it: frames, and bytes behind those.
        self.frames: Sequence[object] = ()
        self.rest = b""

    @property
    def held(self) -> int:
        """Bytes that it holds."""
        return self._inflater.held

    def step(self, budget: int) -> int:
        """See `Inflater.step`."""
        return self._inflater.step(budget)

    def message(self) -> str | bytes:
        """The message, once it is whole; raises UnicodeDecodeError."""
        counts, data = self._counts, self._inflater.whole()
        message = data.decode() if self._opcode is Opcode.TEXT else data
        counts.inflated += 1
        counts.inflated_before += self._size
        counts.inflated_after += len(data)
        return message
