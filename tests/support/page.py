"""A server of WebSockets with a page of its own that can import the browser's client.

So the page's origin is that of its WebSockets, as in most sites.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio
from selenium import webdriver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

import trio_beat
from tests.support.serving import serving

_CLIENT: Final = Path(trio_beat.__file__).parent / "_site" / "static" / "trio-beat.js"


async def _client(_: Request) -> Response:
    return FileResponse(_CLIENT)


async def _empty(_: Request) -> Response:
    return PlainTextResponse("")


@asynccontextmanager
async def serving_page(
    handler: Callable[[trio_beat.Connection], Any], **options: Any
) -> AsyncIterator[trio_beat.Server]:
    """Serve a page, and a handler below ``/ws/``, while the context lasts.

    Args:
        handler, options: those of `serving`.
    """
    app = Starlette(routes=[Route("/trio-beat.js", _client), Route("/{path:path}", _empty)])
    async with serving(handler, app=app, **options) as server:
        yield server


def page_of(server: trio_beat.Server) -> str:
    """The URL of its page, with a slash at the end."""
    return f"http://127.0.0.1:{server.port}/"


async def drive(
    chrome: webdriver.Chrome, server: trio_beat.Server, use: Callable[[], None]
) -> None:
    """Use the browser in a thread, beginning with a server's page."""

    def begin() -> None:
        chrome.get(page_of(server))
        use()

    await trio.to_thread.run_sync(begin)
