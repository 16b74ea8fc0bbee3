"""What is sent: messages and control frames, each with its frame (RFC 6455, section 5).

A plain frame is unmasked and not compressed. What is sent travels as these objects, not as bytes:

1. A `Message` makes its frame when it is first asked for it, and keeps that in place of its
   payload. A fan-out serializes a message once.
   It keeps what it was compressed to likewise (`deflate`).
2. A control item is made with its frame.
3. Only messages may be dropped, compressed or not; the type tells, not the bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias

from websockets.frames import Close, CloseCode, Frame, Opcode

from .._checks import check_kind, encode
from .frames import PING_SIZE

#: The bits of a frame's first byte that are its opcode, and the first one that extensions may use;
#: and the bytes before its payload, by its second byte (RFC 6455, section 5.2).
_OPCODE: Final = 0x0F
RSV1: Final = 0x40
_SHORTEST_HEAD: Final = 2
_HEADS: Final = {126: 4, 127: 10}
#: Characters or bytes of a payload that `repr` shows.
_SHOWN: Final = 40
#: Bytes that a message's objects take beside the bytes of its frame: the message itself, and its
#: payload or frame.
_OBJECTS: Final = 56 + 33
#: Bytes of the dictionary of what it is compressed to, and of each result beside its frame.
_DICTIONARY: Final = 232
_RESULT: Final = 48 + 33 + 32


def _frame(opcode: Opcode, payload: bytes) -> bytes:
    """Serialize a plain frame."""
    return Frame(opcode, payload).serialize(mask=False)


def _payload(frame: bytes) -> str | bytes:
    """Take the payload out of a message's plain frame (RFC 6455, section 5.2)."""
    payload = frame[_HEADS.get(frame[1], _SHORTEST_HEAD) :]
    return payload.decode() if frame[0] & _OPCODE == Opcode.TEXT else payload


class Deflated:
    """What is sent in place of a message: its payload, compressed, in one frame.

    Args:
        opcode: the message's.
        payload: compressed (RFC 7692, section 7.2.1).
    """

    __slots__ = ("frame", "size")

    def __init__(self, opcode: Opcode, payload: bytes) -> None:
        plain = _frame(opcode, payload)
        # "Per-Message Compressed" (RFC 7692, section 6).
        self.frame: Final = bytes((plain[0] | RSV1,)) + plain[1:]
        #: Bytes of the frame.
        self.size: Final = len(self.frame)


class Message:
    """A text or binary message, whose frame is made at most once. It is not to be changed.

    `trio_beat.Connection.send` takes one as well as a plain text or bytes: an application that
    sends the same to many connections makes its frame once. Two are equal when payload and kind
    are.

    A message holds its payload until its frame is made, and from then on its frame.

    Args:
        payload: text or binary by its type; a bytearray or memoryview is copied.

    Attributes:
        payload: the text or bytes; once the frame is made, each access takes it out of that.
        frame: the message as one plain frame (RFC 6455, section 5.6), made at the first access.
        deflated: what it was compressed to, by how (`Deflate.key`); None: it goes as it is.

    Raises:
        TypeError: the payload is neither text nor bytes.
        ValueError: it is a text with surrogates, which cannot be encoded.
    """

    # Invariant: exactly one of `frame` and `payload` is filled.
    __slots__ = ("deflated", "frame", "payload")

    frame: bytes
    payload: str | bytes
    deflated: dict[int, Deflated | None]

    def __init__(self, payload: str | bytes) -> None:
        if isinstance(payload, str):
            if type(payload) is not str:  # a member of an enumeration, for example
                payload = str.__str__(payload)
            if payload.isascii():
                self.payload = payload
            else:  # only encoding tells whether it can be encoded, so that is not done twice
                self.frame = _frame(Opcode.TEXT, encode("message", payload))
            return
        if type(payload) is not bytes:
            check_kind("message", payload, (bytes, bytearray, memoryview), "text or bytes")
            payload = bytes(memoryview(payload))
        self.payload = payload

    def __getattr__(self, name: str) -> str | bytes | dict[int, Deflated | None]:
        # Called where a slot is empty; a frame that is made is read without this.
        if name == "frame":
            payload = self.payload
            if isinstance(payload, str):
                self.frame = frame = _frame(Opcode.TEXT, payload.encode())
            else:
                self.frame = frame = _frame(Opcode.BINARY, payload)
            try:  # noqa: SIM105 - without a context manager, on the way of each message
                del self.payload
            except AttributeError:  # another thread has made the frame as well
                pass
            return frame
        if name == "payload":
            return _payload(object.__getattribute__(self, "frame"))
        if name == "deflated":
            self.deflated = {}
            return self.deflated
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __reduce__(self) -> tuple[type[Message], tuple[str | bytes]]:
        # A copy is made of one of both slots, not of both.
        return type(self), (self.payload,)

    @property
    def kind(self) -> Literal["text", "binary"]:
        """Which of both it is."""
        return "text" if isinstance(self.payload, str) else "binary"

    @property
    def size(self) -> int:
        """Bytes of its frame, be that made or not."""
        try:
            payload = object.__getattribute__(self, "payload")
        except AttributeError:
            return len(self.frame)
        size = len(payload)  # a text is ASCII here
        for head, least in ((10, 2**16), (4, 126)):
            if size >= least:
                return head + size
        return _SHORTEST_HEAD + size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self.frame == other.frame

    def __hash__(self) -> int:
        return hash(self.frame)

    def __repr__(self) -> str:
        whole = self.payload
        payload, more = whole[:_SHOWN], len(whole) - _SHOWN
        shown = f"{payload!r}" + (f" and {more} more" if more > 0 else "")
        return f"<Message {shown}>"


class BeatFrames(NamedTuple):
    """The frames of one beat: a PING, and the text heartbeat behind it where there is one."""

    number: int  #: the PING's payload
    message: str | None  #: the text heartbeat
    frame: bytes  #: of both

    @property
    def size(self) -> int:
        """Bytes of the frame."""
        return len(self.frame)


class Reply(NamedTuple):
    """What the protocol demands to be sent: one PONG or several (RFC 6455, section 5.5.3)."""

    frame: bytes

    @property
    def size(self) -> int:
        """Bytes of the frame."""
        return len(self.frame)


class CloseFrame(NamedTuple):
    """A close frame (RFC 6455, section 5.5.1); nothing is sent behind it."""

    code: int
    reason: str
    frame: bytes

    @property
    def size(self) -> int:
        """Bytes of the frame."""
        return len(self.frame)


class Response(NamedTuple):
    """A server's response to the opening handshake (RFC 6455, section 4.2.2)."""

    frame: bytes

    @property
    def size(self) -> int:
        """Bytes of the frame."""
        return len(self.frame)


class OtherFrames(NamedTuple):
    """Whole frames that another implementation of the protocol has made; they are not dropped."""

    frame: bytes

    @property
    def size(self) -> int:
        """Bytes of the frames."""
        return len(self.frame)


#: What can be sent.
Outgoing: TypeAlias = Message | Deflated | BeatFrames | Reply | CloseFrame | Response | OtherFrames


@lru_cache(maxsize=64)
def make_beat(number: int, message: str | None) -> BeatFrames:
    """Make what is sent at a beat; all connections of a metronome's slot send the same one.

    Args:
        number: the PING's payload, below 2**32.
        message: the text heartbeat, or None.
    """
    ping = _frame(Opcode.PING, number.to_bytes(PING_SIZE, "big"))
    return BeatFrames(number, message, ping if message is None else ping + Message(message).frame)


def make_close(code: int, reason: str) -> CloseFrame:
    """Make a close frame; for 1005 an empty one (RFC 6455, section 5.5.1).

    Args:
        code: close code (RFC 6455, section 7.4).
        reason: at most 123 bytes of UTF-8.
    """
    empty = code == CloseCode.NO_STATUS_RCVD
    payload = b"" if empty else Close(code, reason).serialize()
    return CloseFrame(code, reason, _frame(Opcode.CLOSE, payload))


def content(message: Message) -> tuple[Opcode, bytes]:
    """The opcode and the payload of a message, as bytes."""
    try:
        payload = object.__getattribute__(message, "payload")
    except AttributeError:
        frame = message.frame
        return Opcode(frame[0] & _OPCODE), frame[_HEADS.get(frame[1], _SHORTEST_HEAD) :]
    if isinstance(payload, str):
        return Opcode.TEXT, payload.encode()
    return Opcode.BINARY, payload


def is_compressed(message: Message) -> bool:
    """Whether it keeps what it was compressed to."""
    try:
        return bool(object.__getattribute__(message, "deflated"))
    except AttributeError:
        return False


def bytes_held(message: Message) -> int:
    """Bytes of memory that a message takes, be its frame made or not, and what it is compressed to.

    That is kept with it, and may grow when it is sent.
    """
    size = _OBJECTS + message.size
    try:
        deflated: dict[int, Deflated | None] = object.__getattribute__(message, "deflated")
    except AttributeError:
        return size
    kept = (result.size for result in deflated.values() if result is not None)
    return size + _DICTIONARY + sum(_RESULT + size for size in kept)
