"""Where frames begin and end in the bytes of a peer that another implementation parses.

What comes is handed on as it is, except that (RFC 6455, section 5):

1. A head is handed on whole: what has come of one waits.
2. A close frame is not handed on. It is an event, and what comes behind it does not count.
3. A text heartbeat that comes whole is left out. A PONG is handed on, unless it is all that came
   and answers the beat that was sent last. Where the implementation above sends PINGs of its
   own, it gets each PONG.
"""

from __future__ import annotations

from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import Close, Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it is not compiled
    from websockets.utils import apply_mask

from .._protocol.events import Failure, PeerClose, Pong
from .._protocol.frames import MOST_CONTROL, PING_SIZE
from .._protocol.messages import make_close

_FIN: Final = 0x80
_MASKED: Final = 0x80
#: Bytes of a masked frame's head, by the length that its second byte tells.
_HEADS: Final = {126: 8, 127: 14}
_SHORTEST_HEAD: Final = 6
#: A whole PONG of ours: its first two bytes.
_ANSWER: Final = bytes([_FIN | Opcode.PONG, _MASKED | PING_SIZE])


class Frames:
    """The frames of a peer.

    Args:
        message: the text heartbeat; None: there is none.
    """

    __slots__ = ("_held", "_left", "_message", "number", "over")

    def __init__(self, message: str | None) -> None:
        self._message = None if message is None else message.encode()
        #: The begin of a head that is not whole yet, or of a close frame.
        self._held = b""
        #: Bytes that are yet to come of the frame whose head has come.
        self._left = 0
        #: The number of the PING that was sent last, or -1. None: the implementation above sends
        #: PINGs, too, which may carry the same number: it gets all PONGs.
        self.number: int | None = -1
        #: The peer has closed, or broken the rules.
        self.over = False

    @property
    def between(self) -> bool:
        """Whether the last byte that came was the last of its frame."""
        return not self._left and not self._held

    @property
    def aligned(self) -> bool:
        """Whether what was handed on ends where a frame does."""
        return not self._left

    def pinged(self, number: int) -> None:
        """A PING of ours is sent."""
        if self.number is not None:
            self.number = number

    def answer(self, data: bytes | bytearray | memoryview) -> int | None:
        """The number of the PING that was sent last, if this is all that came, and answers it."""
        if len(data) != _SHORTEST_HEAD + PING_SIZE or data[:2] != _ANSWER or not self.between:
            return None
        return self.number if _number(data, 0) == self.number else None

    def take(self, data: bytes) -> tuple[bytes, list[Pong | PeerClose | Failure]]:
        """Go on over bytes that have come.

        Returns:
            What is to be handed on, and what it tells of. `PeerClose` and `Failure` are the last.
        """
        events: list[Pong | PeerClose | Failure] = []
        if self.over:
            return b"", events
        if self._held:
            data, self._held = self._held + data, b""
        if len(data) <= self._left:
            self._left -= len(data)
            return data, events
        pieces: list[bytes] = []
        begin, at, self._left = 0, self._left, 0
        while at < len(data):
            size = _head_size(data, at)
            if size is None or at + size > len(data):
                break
            length = _length(data, at)
            end = at + size + length
            opcode = data[at] & 0x0F
            if opcode == Opcode.CLOSE:
                masked = data[at + 1] & _MASKED
                if masked and length <= MOST_CONTROL and end > len(data):
                    break
                self.over = True
                events.append(_closing(data[at:end]))
                pieces.append(data[begin:at])
                return b"".join(pieces), events
            if opcode == Opcode.PONG and length == PING_SIZE and end <= len(data):
                events.append(Pong(_number(data, at)))
            elif self._is_heartbeat(data, at, end):
                pieces.append(data[begin:at])
                begin = end
            at = end
        if at < len(data):
            self._held = data[at:]
        else:
            self._left = at - len(data)
        pieces.append(data[begin:at])
        return b"".join(pieces), events

    def _is_heartbeat(self, data: bytes, at: int, end: int) -> bool:
        message = self._message
        if message is None or data[at] != _FIN | Opcode.TEXT or end > len(data):
            return False
        if end - at - len(message) not in (_SHORTEST_HEAD, *_HEADS.values()):
            return False
        return _payload(data[at:end]) == message


def _head_size(data: bytes, at: int) -> int | None:
    """Bytes of the head of the frame that begins here; None: that has not come.

    A peer must mask; a head without a mask is too short by four bytes here, and the implementation
    above ends the connection because of it.
    """
    if at + 2 > len(data):
        return None
    return _HEADS.get(data[at + 1] & 0x7F, _SHORTEST_HEAD)


def _length(data: bytes, at: int) -> int:
    """Bytes of the payload of a frame whose head has come."""
    length = data[at + 1] & 0x7F
    if length < 126:
        return length
    return int.from_bytes(data[at + 2 : at + (4 if length == 126 else 10)], "big")


def _payload(frame: bytes) -> bytes:
    size = _head_size(frame, 0)
    assert size is not None
    return apply_mask(frame[size:], frame[size - 4 : size])


def _number(data: bytes | bytearray | memoryview, at: int) -> int:
    """The number in a PONG of ours."""
    mask = int.from_bytes(data[at + 2 : at + 6], "big")
    return mask ^ int.from_bytes(data[at + 6 : at + 10], "big")


def _closing(frame: bytes) -> PeerClose | Failure:
    """What a close frame says (section 5.5.1)."""
    if frame[0] != _FIN | Opcode.CLOSE or frame[1] & 0x7F > MOST_CONTROL:
        return _failure(1002, "close frame is too long, in fragments, or has reserved bits")
    if not frame[1] & _MASKED:
        return _failure(1002, "incorrect masking")
    try:
        close = Close.parse(_payload(frame))
    except ProtocolError as exc:
        return _failure(1002, str(exc))
    except UnicodeDecodeError as exc:
        return _failure(1007, f"{exc.reason} at position {exc.start}")
    code = int(close.code)
    return PeerClose(code, close.reason, make_close(code, close.reason))


def _failure(code: int, reason: str) -> Failure:
    return Failure(code, reason, make_close(code, reason))
