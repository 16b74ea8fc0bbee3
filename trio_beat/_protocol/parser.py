"""The parser of websockets' Sans-I/O layer, with what it leaves out.

It keeps what came of a large frame in one buffer that is moved as it grows; it reads a frame's
length as it stands; it inflates messages as soon as a frame has come; and it refers to itself, so
that only the cyclic collector would find it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, cast

from websockets.exceptions import ProtocolError
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol, Side
from websockets.streams import StreamReader

from .._log import get_logger

_log = get_logger("trio_beat.frames")

#: Bytes that are collected before they become a piece of their own.
_PIECE: Final = 16384
_LARGE: Final = 4 * _PIECE
#: The smallest lengths that need two and eight bytes (RFC 6455, section 5.2).
_NEEDS: Final = {2: 126, 8: 65536}


class Pieces:
    """Bytes that come little by little, and take no more memory than they are."""

    __slots__ = ("_last", "_size", "_whole")

    def __init__(self) -> None:
        self._whole: list[bytes | bytearray] = []
        self._last = bytearray()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes | bytearray) -> None:
        """Add bytes at the end."""
        self._size += len(data)
        if len(data) >= _PIECE and not self._last:
            self._whole.append(data)
            return
        self._last += data
        if len(self._last) >= _PIECE:
            self._whole.append(bytes(self._last))
            self._last = bytearray()

    def join(self) -> bytes:
        """All bytes."""
        return b"".join((*self._whole, self._last))


class _FrameReader(StreamReader):
    """Reads what `Frame.parse` asks for, and checks a frame's length as soon as it is known."""

    def __init__(self) -> None:
        super().__init__()
        #: What is read next: the first two bytes of a frame, or the rest of its length.
        self._head = self._length = False
        #: What has come of a large frame.
        self._pieces: Pieces | None = None

    @property
    def held(self) -> int:
        """Bytes that came and are not a frame yet."""
        return len(self.buffer) + (0 if self._pieces is None else len(self._pieces))

    def at_eof(self) -> Generator[None, None, bool]:
        self._head = True
        while not self.buffer:
            if self.eof:
                return True
            yield
        return False

    def read_exact(self, n: int) -> Generator[None, None, bytearray]:
        if len(self.buffer) < n > _PIECE:
            return (yield from self._read_large(n))
        while len(self.buffer) < n:
            if self.eof:
                raise EOFError("stream ends in a frame")
            yield
        data = self.buffer[:n]
        del self.buffer[:n]
        if self._head:
            self._check_head(data)
        elif self._length:
            self._check_length(data)
        return data

    def _read_large(self, n: int) -> Generator[None, None, bytearray]:
        self._pieces = pieces = Pieces()
        while self.held < n:
            if self.eof:
                raise EOFError("stream ends in a frame")
            if len(self.buffer) >= _PIECE:
                # A buffer that was filled at once has no room to grow, and need not be copied.
                pieces.append(self.buffer if len(self.buffer) >= _LARGE else bytes(self.buffer))
                self.buffer = bytearray()
            yield
        rest = n - len(pieces)
        pieces.append(self.buffer[:rest])
        del self.buffer[:rest]
        self._pieces = None
        return cast("bytearray", pieces.join())  # `Frame.parse` takes either

    def _check_head(self, head: bytearray) -> None:
        self._head = False
        self._length = head[1] & 0x7F > 125
        # Section 5.5; the rest of such a frame need not be waited for.
        if self._length and head[0] & 0x08:
            raise ProtocolError("control frame too long")

    def _check_length(self, length: bytearray) -> None:
        self._length = False
        # Section 5.2: "the minimal number of bytes MUST be used", "the most significant bit MUST
        # be 0".
        if length[0] & 0x80 and len(length) == 8:
            raise ProtocolError("frame length has its highest bit set")
        if int.from_bytes(length, "big") < _NEEDS[len(length)]:
            raise ProtocolError("frame length takes more bytes than it needs")


class CompressedFrame(Frame):
    """The first or only frame of a compressed message (RFC 7692, section 6)."""


class _Compressed(Extension):
    """Lets the bit pass that tells of compression, where a message begins.

    On a control frame, or a fragment that continues one, it is an error (section 6.1).
    """

    name = "permessage-deflate"  # type: ignore[assignment]

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.rsv1 and (frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY):
            rsv2, rsv3 = frame.rsv2, frame.rsv3
            return CompressedFrame(frame.opcode, frame.data, frame.fin, rsv2=rsv2, rsv3=rsv3)
        return frame

    def encode(self, frame: Frame) -> Frame:
        return frame


_AT_BOUNDARY: Final = _FrameReader.at_eof.__code__


_COMPRESSED: Final = _Compressed()


class Parser(Protocol):
    """Takes the bytes of a peer apart.

    It is over once `close_sent` is set: a close frame has come, or what came was wrong. (Only a
    server's side then wants an end of the stream as well.)

    Args:
        max_size: largest message, in bytes.
        side: our own; a client's frames are masked, and a server's are not.
        compressed: whether messages may be compressed.
    """

    reader: _FrameReader

    def __init__(self, max_size: int, side: Side = SERVER, *, compressed: bool = False) -> None:
        super().__init__(side, state=OPEN, max_size=max_size, logger=_log)
        if compressed:
            self.extensions = [_COMPRESSED]
        self.reader = _FrameReader()
        self.parser = self.parse()
        next(self.parser)

    @property
    def at_boundary(self) -> bool:
        """Whether it waits for the first byte of a frame.

        It says so nowhere; but a generator tells what it is waiting in.
        """
        inner = getattr(self.parser, "gi_yieldfrom", None)
        return getattr(inner, "gi_code", None) is _AT_BOUNDARY

    def close(self) -> None:
        """Free what it holds; it cannot be used any more."""
        # Its generator holds it, and so does the traceback of what ended that.
        self.parser.close()
        self.parser_exc = None
        del self.parser, self.reader
