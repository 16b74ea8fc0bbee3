"""Messages that are compressed, without a memory of earlier ones (RFC 7692, section 7).

1. Each message is compressed and inflated by itself (``no_context_takeover``). So what is
   compressed for one connection serves all whose granted window is as large, and is kept with the
   `Message`.
2. Small messages are compressed where they are sent. One that takes long is compressed in pieces
   before it is sent; where that was not done, it goes as it is.
3. What is inflated is bounded before it is held, and comes in steps.
4. A message must end where its last block does. A final empty block behind it, which must end the
   stream, finds what is cut off.
5. zlib inflates. ISA-L compresses where it is installed, up to the level at which it makes results
   that are about as small (`FAST`).
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Mapping
from typing import Final, Protocol

from websockets.frames import Opcode

try:
    from isal import isal_zlib
except ImportError:
    FAST: Mapping[int, int] = {}
else:
    #: ISA-L's levels, by those of zlib in whose place they are used. Of 4 KiB of JSON it makes no
    #: more than 5 % more, in a half to a third of the time.
    FAST = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3}

from .compression import MOST_BITS, Compression, Counts
from .messages import Deflated, Message, content

#: Bytes of a message that are compressed at once, which takes about 0.3 ms.
PIECE: Final = 2**14
#: What stands for the end of a message, and is not sent (section 7.2.1).
_EMPTY: Final = b"\x00\x00\xff\xff"
#: What is put behind a message: its end, and an empty block that ends the stream (RFC 1951,
#: sections 3.2.3 and 3.2.4).
_END: Final = _EMPTY + b"\x01" + _EMPTY
#: Compressed bytes that zlib gets at a time: what it does not use it copies.
_FEED: Final = 4096
#: Bytes that are inflated in one step, which takes less than a millisecond.
STEP: Final = 2**18
#: As many bytes of a step each call of zlib counts for.
_CALL: Final = 2048
#: Results that a message keeps, one for each window in use: peers choose among seven. Further ones
#: are not made, so that no message is compressed more often.
_MOST_KEPT: Final = 8


class Compressor(Protocol):
    """An object of zlib's, or one of ISA-L's that does the same."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """Take bytes, and give what is ready."""

    def flush(self, mode: int = ..., /) -> bytes:
        """Give all."""


class MalformedError(Exception):
    """A compressed message is not one (RFC 7692, section 7.2.2)."""


class TooLargeError(Exception):
    """A message would be larger than allowed when it is inflated."""


class Inflater:
    """A compressed message that is being inflated.

    Args:
        data: the message's payload, whole.
        limit: bytes that it may have when it is inflated.
    """

    __slots__ = ("_at", "_data", "_limit", "_parts", "_zlib", "size")

    def __init__(self, data: bytes | bytearray, limit: int) -> None:
        self._data = memoryview(data + _END)
        self._at = 0
        self._limit = limit
        self._parts: list[bytes] = []
        self._zlib = zlib.decompressobj(-MOST_BITS)
        #: Bytes that are inflated so far.
        self.size = 0

    @property
    def held(self) -> int:
        """Bytes that it holds: what came, and what is inflated of it."""
        return len(self._data) + self.size

    def step(self, budget: int = STEP) -> int:
        """Inflate some of it.

        Args:
            budget: about how many bytes.

        Returns:
            What is left of the budget; more than 0: the message is whole. Not more: call again.

        Raises:
            MalformedError: it is no compressed message, or is cut off.
            TooLargeError: it is larger than the limit.
        """
        data = self._data
        while budget > 0:
            most = min(self._limit + 1 - self.size, budget)
            end = min(self._at + _FEED, len(data))
            try:
                part = self._zlib.decompress(data[self._at : end], most)
            except zlib.error as exc:
                raise MalformedError("compressed message is malformed") from exc
            if part:
                self._parts.append(part)
                self.size += len(part)
                if self.size > self._limit:
                    raise TooLargeError(f"inflated message exceeds limit of {self._limit} bytes")
            budget -= len(part) + _CALL
            if self._zlib.eof:
                self._at = end - len(self._zlib.unused_data)
                if self._at == len(data):
                    # The message may be whole where the budget is spent.
                    return max(budget, 1)
                # Blocks behind a final one begin a stream of their own (section 7.2.3.4).
                self._zlib = zlib.decompressobj(-MOST_BITS)
            else:
                self._at = end - len(self._zlib.unconsumed_tail)
                if self._at == len(data) and len(part) < most:
                    raise MalformedError("compressed message is cut off")
        return 0

    def whole(self) -> bytes:
        """The message, once it is whole."""
        return b"".join(self._parts)


class Deflate:
    """How the messages of connections are compressed, as their handshakes agreed.

    One serves all connections of a server to which the same window is granted, or all of clients
    that asked for the same and got it.

    Args:
        compression: level and threshold.
        window_bits: of the granted window, 9 to 15.
        counts: counts what is compressed.
    """

    __slots__ = ("__weakref__", "_spare", "_threshold", "compression", "counts", "key")

    def __init__(self, compression: Compression, window_bits: int, counts: Counts) -> None:
        self.compression: Final = Compression(
            level=compression.level, window_bits=window_bits, threshold=compression.threshold
        )
        self.counts = counts
        self._threshold = compression.threshold
        #: Two with the same key make the same of a message.
        self.key: Final = compression.threshold << 8 | compression.level << 4 | window_bits
        # Invariant: it has been flushed, so that nothing of a message is left in it, and nothing
        # refers to what went through it (zlib's "full flush"). To make one takes five times as
        # long as to compress a small message.
        self._spare: Compressor | None = None

    def _make(self) -> Compressor:
        chosen = self.compression
        if (level := FAST.get(chosen.level)) is not None:
            return isal_zlib.compressobj(level, isal_zlib.DEFLATED, -chosen.window_bits)
        return zlib.compressobj(chosen.level, zlib.DEFLATED, -chosen.window_bits)

    def of(self, message: Message) -> Message | Deflated:
        """Give what is to be sent for a message.

        Returns:
            It compressed; or itself, where that brings nothing, or would take too long now: it has
            more than `PIECE` bytes, and was not prepared.
        """
        kept = message.deflated
        try:
            return kept[self.key] or message
        except KeyError:
            if len(kept) == _MOST_KEPT:
                return message
        kind, data = content(message)
        if len(data) > PIECE:
            return message
        if len(data) < self._threshold:
            return self._keep(message, None)
        compressor, self._spare = self._spare or self._make(), None
        compressed = compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)
        self._spare = compressor
        return self._made(message, kind, len(data), compressed)

    def wants(self, message: Message) -> bool:
        """Whether a message is to be prepared: it is large, and was not."""
        if message.size <= PIECE:
            return False
        kept = message.deflated
        return self.key not in kept and len(kept) < _MOST_KEPT

    def prepare(self, message: Message) -> Generator[None, None, None]:
        """Compress a large message in pieces, and keep the result with it.

        Yields:
            After each piece: others may do something meanwhile.
        """
        kind, data = content(message)
        if len(data) < self._threshold:
            self._keep(message, None)
            return
        compressor, view = self._make(), memoryview(data)
        parts = []
        for begin in range(0, len(data), PIECE):
            parts.append(compressor.compress(view[begin : begin + PIECE]))
            yield
        parts.append(compressor.flush(zlib.Z_SYNC_FLUSH))
        self._made(message, kind, len(data), b"".join(parts))

    def _made(
        self, message: Message, kind: Opcode, before: int, compressed: bytes
    ) -> Message | Deflated:
        after = len(compressed) - len(_EMPTY)
        if after >= before:
            self.counts.larger += 1
            return self._keep(message, None)
        self.counts.compressed += 1
        self.counts.bytes_before += before
        self.counts.bytes_after += after
        return self._keep(message, Deflated(kind, compressed[:after]))

    def _keep(self, message: Message, result: Deflated | None) -> Message | Deflated:
        message.deflated[self.key] = result
        return result or message
