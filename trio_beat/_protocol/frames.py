"""What frames may hold (RFC 6455, section 5)."""

from __future__ import annotations

from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import Close

from .._checks import check_text, check_whole

#: The payload of our PINGs is a number of this many bytes.
PING_SIZE: Final = 4
#: A control frame's payload is no longer than this (RFC 6455, section 5.5), and neither is that of
#: a message whose length takes 7 bits (section 5.2).
MOST_CONTROL: Final = 125
#: "Unauthorized", a close code (https://www.iana.org/assignments/websocket).
UNAUTHORIZED: Final = 3000


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


def forbids(code: int) -> bool:
    """Whether a close code forbids a client to reconnect: 1008, and 4000 to 4099.

    Both clients of this package obey it. Codes from 4000 on are for private use (RFC 6455, section
    7.4.2).
    """
    return code == 1008 or 4000 <= code < 4100
