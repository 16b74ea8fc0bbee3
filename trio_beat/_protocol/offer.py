"""What a client offers of compression, and what a server may answer (RFC 7692, section 7.1).

1. A client of ours keeps no window of the server's, so it asks for ``server_no_context_takeover``.
   An answer without that cannot be served, and the handshake fails. Without any, the connection is
   plain.
2. Its own window it gives up in any case, as ``client_no_context_takeover`` promises. The server
   may ask for a smaller one (``client_max_window_bits``).
3. What the server sends is inflated with the largest window. Where the application wants a smaller
   one, the server is asked for that, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_extension

from .._exceptions import HandshakeFailed
from .compression import LEAST_BITS, MOST_BITS, Compression
from .headers import EXTENSIONS

DEFLATE: Final = "permessage-deflate"
SERVER_NO_TAKEOVER: Final = "server_no_context_takeover"
CLIENT_NO_TAKEOVER: Final = "client_no_context_takeover"
SERVER_BITS: Final = "server_max_window_bits"
CLIENT_BITS: Final = "client_max_window_bits"
#: What a window may be: 8 to 15, "without leading zeros" (section 7.1.2.1).
BITS: Final = re.compile("[89]|1[0-5]")


def make_offer(compression: Compression) -> str:
    """Make the value of the request's header.

    Args:
        compression: what the client does at most. The largest window needs no name.
    """
    bits = compression.window_bits
    smaller = bits < MOST_BITS
    windows = [f"{CLIENT_BITS}={bits}", f"{SERVER_BITS}={bits}"] if smaller else [CLIENT_BITS]
    return "; ".join((DEFLATE, CLIENT_NO_TAKEOVER, SERVER_NO_TAKEOVER, *windows))


def agreed_bits(compression: Compression, values: Sequence[str]) -> int | None:
    """Check a server's answer to the offer.

    Args:
        compression: what was offered.
        values: of the answer's headers ``Sec-WebSocket-Extensions``, one for each line.

    Returns:
        The base-2 logarithm of the window for what the client sends, 9 to 15; None: nothing was
        agreed on, and the connection is plain.

    Raises:
        HandshakeFailed: the answer is none to the offer, or cannot be served. It quotes none of it.
    """
    extensions = []
    for value in values:
        try:
            extensions += parse_extension(value)
        except InvalidHeaderFormat:
            extensions = []
            break
    else:
        if not values:
            return None
    if not extensions:
        raise HandshakeFailed(f"the server's answer has a malformed {EXTENSIONS}")
    if any(name != DEFLATE for name, _ in extensions):
        raise _failed(f"an extension that was not offered; it may be {DEFLATE}")
    if len(extensions) > 1:
        raise _failed(f"{DEFLATE} several times; it may be there once")
    return _check(extensions[0][1], compression.window_bits)


def _check(parameters: Sequence[tuple[str, str | None]], most: int) -> int:
    seen: dict[str, str | None] = {}
    for name, value in parameters:
        if name in seen:
            raise _failed(f"{name} several times; it may be there once")
        if name in (SERVER_NO_TAKEOVER, CLIENT_NO_TAKEOVER):
            if value is not None:
                raise _failed(f"{name} with a value; it has none")
        elif name in (SERVER_BITS, CLIENT_BITS):
            if value is None or not BITS.fullmatch(value):
                raise _failed(f"{name} without a value of 8 to 15")
            if int(value) > most:
                raise _failed(f"{name}={value}; at most {most} was offered")
        else:
            raise _failed(f"an unknown parameter of {DEFLATE}")
        seen[name] = value
    if SERVER_NO_TAKEOVER not in seen:
        raise _failed(f"no {SERVER_NO_TAKEOVER}, which was asked for")
    if most < MOST_BITS and SERVER_BITS not in seen:
        raise _failed(f"no {SERVER_BITS}, which was asked for")
    bits = int(seen.get(CLIENT_BITS) or most)
    if bits < LEAST_BITS:
        raise _failed(f"{CLIENT_BITS}={bits}; zlib has no window below {LEAST_BITS}")
    return bits


def _failed(what: str) -> HandshakeFailed:
    return HandshakeFailed(f"the server's answer has {what} (RFC 7692, section 7.1)")
