"""What a message is at the broker: raw bytes that other programs write and read as well.

1. Text is its UTF-8 bytes.
2. Binary that is not UTF-8 is as it is.
3. Binary that could be taken for text, or begins with the mark, has the mark before it.

So whatever bytes others publish are a message: text where they are UTF-8, otherwise binary.
"""

from __future__ import annotations

from typing import Final

from ..._protocol.messages import Message

#: Its bytes occur nowhere in UTF-8 (RFC 3629, section 3). No known format begins with it: the first
#: byte is none of MessagePack's, and CBOR's tag 1 is not followed by a boolean.
MARK: Final = b"\xc1\xf5\xc0\xfa"


def to_payload(message: Message) -> bytes:
    """The bytes of a message."""
    payload = message.payload
    if isinstance(payload, str):
        return payload.encode()
    return MARK + payload if payload.startswith(MARK) or _is_text(payload) else payload


def to_message(payload: bytes) -> Message:
    """The message that any bytes are."""
    if payload.startswith(MARK):
        return Message(payload[len(MARK) :])
    try:
        return Message(payload.decode())
    except UnicodeDecodeError:
        return Message(payload)


def _is_text(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
