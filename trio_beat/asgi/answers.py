"""Answers of an ASGI application that are no connections."""

from __future__ import annotations

from typing import Final

from .._exceptions import Refused
from .._protocol.refusal import refusal_fields
from .._transports.asgi import Receive, Send
from .scopes import Scope

#: The extension by which a server takes any answer to a handshake (ASGI, WebSocket 2.3).
_DENIAL: Final = "websocket.http.response"
#: What is said where Trio does not run.
NOT_TRIO: Final = (
    "trio_beat.asgi runs under Trio, and this server runs asyncio: start it with "
    "'hypercorn --worker-class trio', or use another server that runs Trio"
)


async def refuse(scope: Scope, send: Send, refusal: Refused) -> None:
    """Answer a handshake, or a request, with a refusal.

    A server without the extension answers each handshake that is not accepted with 403.

    Args:
        scope: of the handshake, whose ``websocket.connect`` was received, or of the request.
        send: the server's.
        refusal: the answer.
    """
    websocket = scope["type"] == "websocket"
    if websocket and _DENIAL not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    kind = _DENIAL if websocket else "http.response"
    headers, body = refusal_fields(refusal)
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers]
    # The server adds its own, and a response has one (RFC 9110, sections 5.3 and 6.6.1).
    pairs = [pair for pair in pairs if pair[0] != b"date"]
    if scope.get("http_version", "1.1") >= "2":
        # HTTP/2 has no headers for the connection (RFC 9113, section 8.2.2).
        pairs = [pair for pair in pairs if pair[0] != b"connection"]
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": pairs})
    await send({"type": f"{kind}.body", "body": body})


async def refuse_asyncio(scope: Scope, receive: Receive, send: Send) -> None:
    """Say that Trio is needed; this runs under another event loop."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": NOT_TRIO})
        return
    if scope["type"] == "websocket":
        await receive()
    await refuse(scope, send, Refused(500, NOT_TRIO))
