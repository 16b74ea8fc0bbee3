"""What is sent: messages and control frames, each with its plain frame (RFC 6455, section 5).

A plain frame is unmasked and not compressed. What is sent travels as these objects, not as bytes:

1. A `Message` makes its frame when it is first asked for it, and keeps it. A fan-out serializes
   a message once.
2. A control item is made with its frame.
3. Only messages may be dropped; the type tells, not the bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias

from websockets.frames import Close, CloseCode, Frame, Opcode

from .._checks import check_kind, encode
from .._text import character_width
from .frames import PING_SIZE

#: Characters or bytes of a payload that `repr` shows.
_SHOWN: Final = 40
#: Bytes that a message's objects take without what they hold: itself, payload, frame and id.
_OBJECTS: Final = 64 + 80 + 48 + 48


def _frame(opcode: Opcode, payload: bytes) -> bytes:
    """Serialize a plain frame."""
    return Frame(opcode, payload).serialize(mask=False)


class Message:
    """A text or binary message, whose frame is made at most once. Do not change it.

    `trio_beat.Connection.send` takes one as well as a plain text or bytes: an application that
    sends the same to many frames it once. Two are equal when payload, kind and id are.

    Args:
        payload: text or binary by its type; a bytearray or memoryview is copied.
        id: names the message among those of all hubs; empty: it has no name.

    Attributes:
        payload: the text or bytes.
        id: see above.
        frame: the message as one plain frame (RFC 6455, section 5.6).

    Raises:
        TypeError: the payload is neither text nor bytes, or the id is not bytes.
        ValueError: it is a text with surrogates, which cannot be encoded.
    """

    __slots__ = ("frame", "id", "payload")

    frame: bytes
    payload: str | bytes
    id: bytes

    def __init__(self, payload: str | bytes, id: bytes = b"") -> None:
        if type(id) is not bytes:
            check_kind("id", id, bytes, "bytes")
        self.id = id
        if isinstance(payload, str):
            self.payload = payload
            if not payload.isascii():
                # Only encoding tells whether it can be encoded, so that is not done twice.
                self.frame = _frame(Opcode.TEXT, encode("message", payload))
            return
        if not isinstance(payload, bytes):
            check_kind("message", payload, (bytearray, memoryview), "text or bytes")
            payload = bytes(payload)
        self.payload = payload

    def __getattr__(self, name: str) -> bytes:
        # Called where a slot is empty; once it is filled, `frame` is read without this.
        if name != "frame":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        payload = self.payload
        if isinstance(payload, str):
            self.frame = frame = _frame(Opcode.TEXT, payload.encode())
        else:
            self.frame = frame = _frame(Opcode.BINARY, payload)
        return frame

    @property
    def kind(self) -> Literal["text", "binary"]:
        """Which of both it is."""
        return "text" if isinstance(self.payload, str) else "binary"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        # With -bb it is an error to compare bytes with a text.
        return (self.id, self.kind) == (other.id, other.kind) and self.payload == other.payload

    def __hash__(self) -> int:
        return hash((self.payload, self.id))

    def __repr__(self) -> str:
        payload, more = self.payload[:_SHOWN], len(self.payload) - _SHOWN
        shown = f"{payload!r}" + (f" and {more} more" if more > 0 else "")
        return f"<Message {shown}, id={self.id.hex()}>" if self.id else f"<Message {shown}>"


class Beat(NamedTuple):
    """The frames of one beat: a PING, and the text heartbeat behind it where there is one."""

    number: int  #: the PING's payload
    message: str | None  #: the text heartbeat
    frame: bytes  #: of both


class Reply(NamedTuple):
    """What the protocol demands to be sent: one PONG or several (RFC 6455, section 5.5.3)."""

    frame: bytes


class CloseFrame(NamedTuple):
    """A close frame (RFC 6455, section 5.5.1); nothing is sent behind it."""

    code: int
    reason: str
    frame: bytes


class Response(NamedTuple):
    """A server's response to the opening handshake (RFC 6455, section 4.2.2)."""

    frame: bytes


#: What can be sent.
Outgoing: TypeAlias = Message | Beat | Reply | CloseFrame | Response


@lru_cache(maxsize=64)
def make_beat(number: int, message: str | None) -> Beat:
    """Make what is sent at a beat; all connections of a metronome's slot send the same one.

    Args:
        number: the PING's payload, below 2**32.
        message: the text heartbeat, or None.
    """
    ping = _frame(Opcode.PING, number.to_bytes(PING_SIZE, "big"))
    return Beat(number, message, ping if message is None else ping + Message(message).frame)


def make_close(code: int, reason: str) -> CloseFrame:
    """Make a close frame; for 1005 an empty one (RFC 6455, section 5.5.1).

    Args:
        code: close code (RFC 6455, section 7.4).
        reason: at most 123 bytes of UTF-8.
    """
    empty = code == CloseCode.NO_STATUS_RCVD
    payload = b"" if empty else Close(code, reason).serialize()
    return CloseFrame(code, reason, _frame(Opcode.CLOSE, payload))


def bytes_held(message: Message) -> int:
    """Bytes of memory that a message takes, together with its frame, be that made or not."""
    payload = message.payload
    if isinstance(payload, bytes) or payload.isascii():
        held = 2 * len(payload)
    else:  # its frame was made with it
        held = len(payload) * character_width(payload) + len(message.frame)
    return _OBJECTS + held + len(message.id)
