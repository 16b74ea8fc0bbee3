"""The HTTP response of a refusal."""

from __future__ import annotations

import email.utils
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Response

from .._exceptions import Refused
from .statuses import phrase

#: What goes with every answer of the server's own.
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def refusal_response(refused: Refused) -> bytes:
    """Make the response to send; its connection is closed behind it."""
    body = f"{refused.text}\n".encode()
    headers = Headers(
        {
            "Date": email.utils.formatdate(usegmt=True),
            "Connection": "close",
            "Content-Length": str(len(body)),
            "Content-Type": "text/plain; charset=utf-8",
            **SECURITY_HEADERS,
        }
    )
    for name in {name.lower() for name, _ in refused.headers} & {name.lower() for name in headers}:
        del headers[name]
    for name, value in refused.headers:
        headers[name] = value  # adds to those of the same name
    return Response(refused.status, phrase(refused.status), headers, body).serialize()
