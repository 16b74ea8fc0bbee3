"""What the bundled server answers over HTTP: pages, health, and the API (`api`)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from .._channels.hub import Hub
from .._heartbeat import Heartbeat
from .._protocol.refusal import SECURITY_HEADERS
from .api import API, LATER, Endpoint, api_routes

#: Read once: requests are answered without a free file descriptor, too.
_VERSION: Final = version("trio-beat")
#: Part of the page where health is beside it.
_HEALTH: Final = ' · <a href="/healthz">health</a>'
_FRESH: Final = {"Cache-Control": "no-store"}
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
        hub: whose state health tells.
        draining: returns whether the server is shutting down.
        statistics: returns the server's counts, by name.
        heartbeat: the server's; the page shows it.
        path_prefix: what the path of a WebSocket begins with.
        api: the API; None: there is none.
        internal: health and the API are elsewhere, see `make_internal_app`.
        worker: the number of this process among those that share the port, from 1.
        workers: how many there are.
    """

    hub: Hub
    draining: Callable[[], bool]
    statistics: Callable[[], dict[str, Any]]
    heartbeat: Heartbeat
    path_prefix: str
    api: API | None = None
    internal: bool = False
    worker: int = 1
    workers: int = 1


def make_app(site: Site) -> ASGIApp:
    """Make the ASGI application for everybody."""
    static = files("trio_beat._site") / "static"
    routes: list[Route | WebSocketRoute] = [
        Route("/", _page(site, (static / "index.html").read_text("utf-8"))),
        WebSocketRoute(site.path_prefix + "{facility:path}", _misdirected),
        WebSocketRoute("/{path:path}", _nowhere(f"expected {site.path_prefix}<facility>")),
    ]
    for path, (name, media_type) in _STATIC.items():
        routes.append(Route(path, _static((static / name).read_bytes(), media_type)))
    if not site.internal:
        routes += _internal_routes(site)
    return _app(routes)


def make_internal_app(site: Site) -> ASGIApp:
    """Make the ASGI application of a listener of its own: health and the API, and no pages."""
    nowhere = WebSocketRoute("/{path:path}", _nowhere("this listener has health and the API"))
    return _app([*_internal_routes(site), nowhere])


def _internal_routes(site: Site) -> list[Route]:
    routes = [Route("/healthz", _health(site)), Route("/readyz", _ready(site))]
    return routes if site.api is None else [*routes, *api_routes(site.api)]


def _app(routes: Sequence[Route | WebSocketRoute]) -> ASGIApp:
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
    health = "" if site.internal else _HEALTH
    page = template.replace("{{health}}", health).replace("{{config}}", text)
    return _static(page.encode(), "text/html")


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
        if site.api is not None:
            body["api"] = dict(site.api.answers)
        return JSONResponse(body, headers=_FRESH)

    return endpoint


def _ready(site: Site) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        if site.draining():
            return PlainTextResponse("server is shutting down\n", 503, _FRESH | LATER)
        if not site.hub.available:
            return PlainTextResponse("backend is away\n", 503, _FRESH | LATER)
        return PlainTextResponse("ready\n", headers=_FRESH)

    return endpoint


def _nowhere(why: str) -> Callable[[WebSocket], Awaitable[None]]:
    async def endpoint(websocket: WebSocket) -> None:
        text = f"no WebSocket at this path, {why}\n"
        await websocket.send_denial_response(PlainTextResponse(text, 404))

    return endpoint


async def _misdirected(websocket: WebSocket) -> None:
    """Only the first request of a connection can be a WebSocket's (RFC 9110, 15.5.20)."""
    text = "open a WebSocket on a connection of its own\n"
    await websocket.send_denial_response(PlainTextResponse(text, 421))


async def _plain_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return PlainTextResponse(f"{exc.detail}\n", exc.status_code, exc.headers)
