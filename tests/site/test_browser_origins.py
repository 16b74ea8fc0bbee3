"""A page that uses a visitor's cookie for another server, in a real browser.

The page is of the same host and another port. Cookies know no ports, and both are the same site, so
the browser sends each cookie; it would keep some of them from a page of another site, and such
a page would prove nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from selenium import webdriver

from tests.support.browser import chromium
from tests.support.command import Command, command
from tests.support.harness import idle
from tests.support.page import page_of, serving_page
from tests.support.tokens import SECRET, token

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

#: Tells what a page learns of a WebSocket: what it has sent and heard, or the code of its end.
_CONNECT = """
const [url, done] = arguments;
const socket = new WebSocket(url);
socket.onopen = () => socket.send("secret");
socket.onmessage = ({ data }) => { done(data); socket.close(); };
socket.onclose = ({ code }) => done(code);
"""


async def test_a_page_of_another_port_cannot_use_a_visitors_cookie(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_bytes(SECRET + b"\n")
    options = ["--auth=jwt", f"--jwt-key={key}", "--jwt-cookie=token"]

    def connect(running: Command) -> Any:
        """What the page that is shown learns of a channel that is the visitor's own."""
        url = running.websocket("news?subscribe-user&publish-user&echo")
        return chromium.execute_async_script(_CONNECT, url)

    def use(foreign: str) -> None:
        with command(tmp_path, *options) as running:
            chromium.get(running.page + "healthz")
            assert connect(running) == 1006  # without the cookie
            cookie = {"name": "token", "value": token(), "httpOnly": True, "sameSite": "Strict"}
            chromium.add_cookie(cookie)
            assert connect(running) == "secret"  # its own page
            chromium.get(foreign)
            assert connect(running) == 1006
            assert running.health()["refused"] == {"401": 1, "403": 1}
            origin = foreign.rstrip("/")
            said = f"Origin {origin} is not allowed: Host is 127.0.0.1:{running.port};"
            assert said in running.log()
        with command(tmp_path, *options, f"--allowed-origin={origin}") as running:
            # The browser sent the cookie: nothing but the check of the origin stood in the way.
            assert connect(running) == "secret"
            assert running.health()["refused"] == {}

    async with serving_page(idle) as server:
        await trio.to_thread.run_sync(use, page_of(server))
