"""The pages and the API of the bundled server."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from .._channels.grammar import ChannelError, below, parse_facility
from .._channels.hub import Hub
from .._channels.keys import channel_key
from .._exceptions import BackendError
from .._heartbeat import Heartbeat
from .._protocol.refusal import SECURITY_HEADERS

_PUBLISH: Final = "/api/publish/"
#: Read once: requests are answered without a free file descriptor, too.
_VERSION: Final = version("trio-beat")
_TEXT_TYPES: Final = frozenset(
    {
        "",
        "application/json",
        "application/xml",
        # curl's default; the body is taken as it is.
        "application/x-www-form-urlencoded",
    }
)
_FRESH: Final = {"Cache-Control": "no-store"}
_LATER: Final = {"Retry-After": "5"}
_STATIC: Final = {
    "/page.js": ("page.js", "text/javascript"),
    "/trio-beat.js": ("trio-beat.js", "text/javascript"),
    "/trio-beat.d.ts": ("trio-beat.d.ts", "text/plain"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the pages and the API serve and use.

    Args:
        hub: where the API publishes.
        draining: returns whether the server is shutting down.
        statistics: returns the server's counts, by name.
        heartbeat: the server's; the page shows it.
        path_prefix: what the path of a WebSocket begins with.
        publish_token: bearer token for publishing; None: there is no publishing over HTTP.
        max_message_size: most bytes of a published message.
        worker: the number of this process among those that share the port, from 1.
        workers: how many there are.
    """

    hub: Hub
    draining: Callable[[], bool]
    statistics: Callable[[], dict[str, Any]]
    heartbeat: Heartbeat
    path_prefix: str
    publish_token: str | None
    max_message_size: int
    worker: int = 1
    workers: int = 1


def make_app(site: Site) -> ASGIApp:
    """Make the ASGI application."""
    static = files("trio_beat._site") / "static"
    routes: list[Route | WebSocketRoute] = [
        Route("/", _page(site, (static / "index.html").read_text("utf-8"))),
        Route("/healthz", _health(site)),
        Route("/readyz", _ready(site)),
        WebSocketRoute(site.path_prefix + "{facility:path}", _misdirected),
        WebSocketRoute("/{path:path}", _nowhere(site)),
    ]
    for path, (name, media_type) in _STATIC.items():
        routes.append(Route(path, _static((static / name).read_bytes(), media_type)))
    if site.publish_token is not None:
        routes.append(Route(_PUBLISH + "{facility:path}", _publish(site), methods=["POST"]))
    # Outermost, since Starlette answers an exception outside of its middleware.
    return _Secured(Starlette(routes=routes, exception_handlers={HTTPException: _plain_error}))


class _Secured:
    """Adds the security headers to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(event: Message) -> None:
            if event["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=event).update(SECURITY_HEADERS)
            await send(event)

        await self._app(scope, receive, send_secured)


Endpoint = Callable[[Request], Awaitable[Response]]


def _page(site: Site, template: str) -> Endpoint:
    config = {
        "version": _VERSION,
        "pathPrefix": site.path_prefix,
        "interval": site.heartbeat.interval,
        "misses": site.heartbeat.misses,
        "heartbeatMessage": site.heartbeat.message,
    }
    # A "<" in the heartbeat message could end the script element around it.
    text = json.dumps(config).replace("<", "\\u003c")
    return _static(template.replace("{{config}}", text).encode(), "text/html")


def _static(body: bytes, media_type: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Response(body, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return endpoint


def _health(site: Site) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        body = {
            "status": "ok",
            "version": _VERSION,
            "worker": site.worker,
            "workers": site.workers,
            **site.statistics(),
            "hub": site.hub.statistics()._asdict(),
        }
        return JSONResponse(body, headers=_FRESH)

    return endpoint


def _ready(site: Site) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        if site.draining():
            return PlainTextResponse("server is shutting down\n", 503, _FRESH | _LATER)
        if not site.hub.available:
            return PlainTextResponse("backend is away\n", 503, _FRESH | _LATER)
        return PlainTextResponse("ready\n", headers=_FRESH)

    return endpoint


def _publish(site: Site) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        _authorize(request, site.publish_token)
        quoted = below(request.scope["raw_path"].decode("latin-1"), _PUBLISH)
        assert quoted is not None
        try:
            facility = parse_facility(quoted)
        except ChannelError as exc:
            raise HTTPException(exc.status, str(exc)) from exc
        body = await _body(request, site.max_message_size)
        message = _message(body, request.headers.get("content-type", ""))
        try:
            await site.hub.publish(channel_key("broadcast", facility), message)
        except BackendError as exc:
            raise HTTPException(503, f"{exc}, try again later", _LATER) from exc
        return Response(status_code=204)

    return endpoint


def _authorize(request: Request, token: str | None) -> None:
    assert token is not None
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() != "bearer" or not right:
        text = "publishing needs the header Authorization: Bearer <token>"
        raise HTTPException(401, text, {"WWW-Authenticate": "Bearer"})


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    raise HTTPException(413, f"message is over {limit} bytes")
    except ClientDisconnect as exc:
        raise HTTPException(400, "message ended early") from exc
    return bytes(body)


def _message(body: bytes, content_type: str) -> str | bytes:
    """The message as text or binary, by its content type."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _TEXT_TYPES and not media_type.startswith("text/"):
        return body
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        text = "message is not UTF-8; for binary send it as application/octet-stream"
        raise HTTPException(400, text) from exc


def _nowhere(site: Site) -> Callable[[WebSocket], Awaitable[None]]:
    async def endpoint(websocket: WebSocket) -> None:
        text = f"no WebSocket at this path, expected {site.path_prefix}<facility>\n"
        await websocket.send_denial_response(PlainTextResponse(text, 404))

    return endpoint


async def _misdirected(websocket: WebSocket) -> None:
    """Only the first request of a connection can be a WebSocket's (RFC 9110, 15.5.20)."""
    text = "open a WebSocket on a connection of its own\n"
    await websocket.send_denial_response(PlainTextResponse(text, 421))


async def _plain_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return PlainTextResponse(f"{exc.detail}\n", exc.status_code, exc.headers)
