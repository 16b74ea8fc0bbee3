"""What a request identifies its peer with (RFC 6750).

A page cannot set headers for a WebSocket, but it can offer subprotocols: of
``new WebSocket(url, ["bearer", token])`` the second one is the token. The server answers with
``bearer``, or another one that both speak, and never with the token.
"""

from __future__ import annotations

from typing import Final

from .._protocol.refusal import unauthorized
from .._protocol.request import Request

#: The subprotocol behind which a token is offered. A server lists it last among its own, so that
#: the offer is answered.
BEARER: Final = "bearer"


def offered_token(request: Request) -> str | None:
    """The token that a request offers behind the subprotocol `BEARER`; None: it offers none.

    Raises:
        Refused: 401; it offers `BEARER` with nothing behind it.
    """
    offered = request.subprotocols
    if BEARER not in offered:
        return None
    behind = offered[offered.index(BEARER) + 1 :]
    if not behind:
        text = "subprotocol 'bearer' without a token behind it"
        raise unauthorized(text, error="invalid_request")
    return behind[0]
