"""The answer to a request that is refused: an HTTP response, or a WebSocket that is closed."""

from __future__ import annotations

import email.utils
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Response

from .._exceptions import Refused
from .frames import MOST_CONTROL, UNAUTHORIZED
from .messages import make_close
from .statuses import phrase

#: IANA has 3003 for "Forbidden", but a client would come back (`frames.forbids`).
_CODES: Final = {401: UNAUTHORIZED, 403: 4003}

#: What goes with every answer of the server's own.
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def unauthorized(text: str, *, error: str | None = None) -> Refused:
    """Make the refusal of a credential that is missing or not right (RFC 6750, section 3).

    Args:
        text: for the peer; it must not quote the credential.
        error: ``invalid_token`` or ``invalid_request``; None: there was no credential.
    """
    challenge = "Bearer" if error is None else f'Bearer error="{error}"'
    return Refused(401, text, {"WWW-Authenticate": challenge})


def refusal_fields(refused: Refused) -> tuple[list[tuple[str, str]], bytes]:
    """Make the headers and the body of a refusal; its connection is closed behind it."""
    body = f"{refused.text}\n".encode()
    headers = {
        "Date": email.utils.formatdate(usegmt=True),
        "Connection": "close",
        "Content-Length": str(len(body)),
        "Content-Type": "text/plain; charset=utf-8",
        **SECURITY_HEADERS,
    }
    given = {name.lower() for name, _ in refused.headers}
    kept = [(name, value) for name, value in headers.items() if name.lower() not in given]
    return [*kept, *refused.headers], body


def refusal_response(refused: Refused) -> bytes:
    """Make the response to send; its connection is closed behind it."""
    fields, body = refusal_fields(refused)
    headers = Headers()
    for name, value in fields:
        headers[name] = value  # adds to those of the same name
    return Response(refused.status, phrase(refused.status), headers, body).serialize()


def closing(refused: Refused) -> tuple[int, str]:
    """The close code and reason by which a refused WebSocket is closed once it is open.

    A page sees no HTTP status of a WebSocket, but a close code: 3000 for 401, 4003 for 403.

    Args:
        refused: with one of these statuses; its text is the reason, as far as there is room.
    """
    reason = refused.text.encode()[: MOST_CONTROL - 2].decode(errors="ignore")
    return _CODES[refused.status], reason


def closing_response(refused: Refused) -> bytes:
    """Make the close frame that goes behind the response to a handshake, as by `closing`."""
    return make_close(*closing(refused)).frame
