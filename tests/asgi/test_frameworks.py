"""The application mounted in others: the same target, the lifespan, and an endpoint's connection.

How an application is put into each framework is taken from the documentation, see
`tests/docs/test_asgi_examples.py`; here are the targets that they make of a path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from fastapi import Depends, FastAPI, WebSocket
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from litestar import Litestar, asgi
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.support.asgi import answering, hypercorn
from tests.support.harness import echo
from trio_beat import Connection, HandshakeRefused, Identity, Request, open_hub
from trio_beat.asgi import Application, application

pytestmark = pytest.mark.real


def _starlette(app: Application) -> Any:
    return Starlette(routes=[Mount("/live", app=app)], lifespan=app.lifespan)


def _starlette_nested(app: Application) -> Any:
    inner = Mount("/live", app=app)
    return Starlette(routes=[Mount("/api", routes=[inner])], lifespan=app.lifespan)


def _fastapi(app: Application) -> Any:
    outer = FastAPI(lifespan=app.lifespan)
    outer.mount("/live", app)
    return outer


def _quart(app: Application) -> Any:
    mounts: Any = {"/live": app, "/": QuartTrio("outer")}
    return TrioDispatcherMiddleware(mounts)


def _litestar(app: Application) -> Any:
    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    handler = asgi("/live", is_mount=True, copy_scope=True)(mounted)
    # Its own configuration of logging would be that of all tests that follow.
    return Litestar(route_handlers=[handler], lifespan=[app.lifespan], logging_config=None)


@pytest.mark.parametrize(
    ("mount", "place", "root_path"),
    [
        (_starlette, "/live", ""),
        (_starlette, "/live", "/proxy"),
        # Behind a proxy that cuts its path off, Starlette itself finds no mount in a mount.
        (_starlette_nested, "/api/live", ""),
        (_fastapi, "/live", "/proxy"),
        (_quart, "/live", "/proxy"),
        (_litestar, "/live", ""),
        (_litestar, "/live", "/proxy"),
    ],
)
async def test_targets_are_the_same(
    mount: Callable[[Application], Any], place: str, root_path: str
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.send(connection.path)
        await trio.sleep_forever()

    async with hypercorn(mount(application(handler)), root_path=root_path) as port:
        url = f"ws://127.0.0.1:{port}{place}/ws/caf%C3%A9?x=%41"
        async with answering(url) as connection:
            assert await connection.receive() == "/ws/caf%C3%A9?x=%41"


@pytest.mark.parametrize("mount", [_starlette, _fastapi])
async def test_the_mount_without_its_slash_is_no_place(
    mount: Callable[[Application], Any],
) -> None:
    async with hypercorn(mount(application(echo))) as port:
        url = f"ws://127.0.0.1:{port}/live"
        async with answering(f"{url}/") as connection:
            await connection.send("hello")
            assert await connection.receive() == "hello"
        with pytest.raises(HandshakeRefused, match="403"):
            async with answering(url):
                raise AssertionError


async def test_what_a_dependency_found_out_is_an_identity() -> None:
    async def admit(request: Request) -> Identity:
        assert request.scope is not None
        return Identity(user=request.scope["state"]["user"])

    async def user(websocket: WebSocket) -> None:
        websocket.state.user = "alice"

    live = application(hub=open_hub(), admit=admit)
    app = FastAPI(lifespan=live.lifespan)

    @app.websocket("/feed", dependencies=[Depends(user)])
    async def feed(websocket: WebSocket) -> None:
        scope, receive, send = websocket.scope, websocket.receive, websocket.send
        async with live.connection(scope, receive, send) as connection:
            assert connection.identity is not None
            await connection.send(connection.identity.user or "")
            await trio.sleep_forever()

    async with (
        hypercorn(app) as port,
        answering(f"ws://127.0.0.1:{port}/feed") as connection,
    ):
        assert await connection.receive() == "alice"
        await live.hub.disconnect(user="alice")
        assert (await connection.wait_closed()).code == 4003
