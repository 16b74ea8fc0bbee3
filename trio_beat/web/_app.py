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

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from .._channels import ChannelError, channel_key, parse_facility
from .._exceptions import BackendError
from .._heartbeat import Heartbeat
from .._hub import Hub

_PUBLISH: Final = "/api/publish/"
#: Seconds in which the body of a request must have come.
_BODY_TIMEOUT: Final = 30.0
_TEXT_TYPES: Final = frozenset(
    {
        "",
        "application/json",
        "application/xml",
        # What curl sends unless told otherwise; the body is taken as it is.
        "application/x-www-form-urlencoded",
    }
)
_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_STATIC: Final = {
    "/page.js": ("page.js", "text/javascript"),
    "/trio-beat.js": ("trio-beat.js", "text/javascript"),
    "/trio-beat.d.ts": ("trio-beat.d.ts", "text/plain"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the pages and the API need to know.

    Args:
        hub: where to publish.
        statistics: counts of the server, by name.
        heartbeat: the server's, for the page.
        path_prefix: what the path of a WebSocket begins with.
        publish_token: bearer token that allows to publish; None: nobody can.
        max_message_size: bytes of a message that is published.
    """

    hub: Hub
    statistics: Callable[[], dict[str, Any]]
    heartbeat: Heartbeat
    path_prefix: str
    publish_token: str | None
    max_message_size: int


def make_app(site: Site) -> Starlette:
    """Make the ASGI application."""
    static = files("trio_beat.web") / "static"
    routes: list[Route | WebSocketRoute] = [
        Route("/", _page(site, (static / "index.html").read_text())),
        Route("/healthz", _health(site)),
        WebSocketRoute(site.path_prefix + "{facility:path}", _misdirected),
        WebSocketRoute("/{path:path}", _nowhere(site)),
    ]
    for path, (name, media_type) in _STATIC.items():
        routes.append(Route(path, _static((static / name).read_bytes(), media_type)))
    if site.publish_token is not None:
        routes.append(Route(_PUBLISH + "{facility:path}", _publish(site), methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _plain_error})


Endpoint = Callable[[Request], Awaitable[Response]]


def _page(site: Site, template: str) -> Endpoint:
    config = {
        "version": version("trio-beat"),
        "pathPrefix": site.path_prefix,
        "interval": site.heartbeat.interval,
        "misses": site.heartbeat.misses,
        "heartbeatMessage": site.heartbeat.message,
    }
    # A "<" in the heartbeat message could end the script element that this stands in.
    text = json.dumps(config).replace("<", "\\u003c")
    return _static(template.replace("{{config}}", text).encode(), "text/html")


def _static(body: bytes, media_type: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Response(body, media_type=media_type, headers=_HEADERS)

    return endpoint


def _health(site: Site) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        body = {
            "status": "ok",
            "version": version("trio-beat"),
            **site.statistics(),
            "hub": site.hub.statistics()._asdict(),
        }
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    return endpoint


def _publish(site: Site) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        _authorize(request, site.publish_token)
        quoted = request.scope["raw_path"].decode("latin-1").removeprefix(_PUBLISH)
        try:
            facility = parse_facility(quoted)
        except ChannelError as exc:
            raise HTTPException(exc.status, str(exc)) from exc
        body = await _body(request, site.max_message_size)
        message = _message(body, request.headers.get("content-type", ""))
        try:
            delivered = await site.hub.publish(channel_key("broadcast", facility), message)
        except BackendError as exc:
            raise HTTPException(503, f"{exc}, try again later") from exc
        return JSONResponse({"delivered": delivered})

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
        with trio.fail_after(_BODY_TIMEOUT):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit:
                        raise HTTPException(413, f"message is over {limit} bytes")
    except trio.TooSlowError as exc:
        raise HTTPException(408, f"message did not come within {_BODY_TIMEOUT:g} s") from exc
    except ClientDisconnect as exc:
        raise HTTPException(400, "message ended early") from exc
    return bytes(body)


def _message(body: bytes, content_type: str) -> str | bytes:
    """Text or binary, by the content type."""
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
    """The native engine takes the first request of a connection only (RFC 9110, 15.5.20)."""
    text = "open a WebSocket on a connection of its own\n"
    await websocket.send_denial_response(PlainTextResponse(text, 421))


async def _plain_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return PlainTextResponse(f"{exc.detail}\n", exc.status_code, exc.headers)
