"""Frames that are sent: messages, beats and close frames, serialized (RFC 6455, section 5)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode

from .._checks import check_kind, check_text, check_whole, encode

#: The payload of our PINGs is a number of this many bytes.
PING_SIZE: Final = 4
#: A control frame's payload is no longer than this (RFC 6455, section 5.5), and neither is that of
#: a message whose length takes 7 bits (section 5.2).
MOST_CONTROL: Final = 125


def message_frame(message: str | bytes) -> bytes:
    """Serialize a message as one frame (RFC 6455, section 5.6).

    Raises:
        TypeError: it is neither text nor bytes.
        ValueError: it is a text with surrogates, which cannot be encoded.
    """
    if isinstance(message, str):
        return Frame(Opcode.TEXT, encode("message", message)).serialize(mask=False)
    check_kind("message", message, (bytes, bytearray, memoryview), "text or bytes")
    return Frame(Opcode.BINARY, message).serialize(mask=False)


@lru_cache(maxsize=64)
def beat_frames(number: int, message: str | None) -> bytes:
    """The frames of one beat; all connections of a metronome's slot send the same ones.

    Args:
        number: the PING's payload, below 2**32.
        message: the text heartbeat, or None.
    """
    ping = Frame(Opcode.PING, number.to_bytes(PING_SIZE, "big")).serialize(mask=False)
    return ping if message is None else ping + message_frame(message)


def close_frame(code: int, reason: str) -> bytes:
    """The close frame of a code and reason; an empty one for 1005 (RFC 6455, section 5.5.1)."""
    empty = code == CloseCode.NO_STATUS_RCVD
    payload = b"" if empty else Close(code, reason).serialize()
    return Frame(Opcode.CLOSE, payload).serialize(mask=False)


def check_close(code: int, reason: str) -> None:
    """Check a close code and reason before they are needed.

    Raises:
        TypeError: the code is no whole number, or the reason no text.
        ValueError: the code may not be sent (RFC 6455, section 7.4), or the reason is longer
            than 123 bytes of UTF-8, or cannot be encoded.
    """
    check_whole("close code", code)
    check_text("close reason", reason)
    try:
        payload = Close(code, reason).serialize()
    except ProtocolError as exc:
        raise ValueError(f"close code {code} may not be sent; 1000 to 4999, see RFC 6455") from exc
    if len(payload) > MOST_CONTROL:
        raise ValueError(f"close reason takes {len(payload) - 2} bytes; at most 123 are allowed")
