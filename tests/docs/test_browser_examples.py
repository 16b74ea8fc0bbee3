"""The documentation's examples for a page, in a real browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from selenium import webdriver

from tests.support.browser import chromium, wait_for
from tests.support.command import Command, command
from tests.support.documents import examples

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]


#: The application's answer: a token that is soon to expire, and then one that is not.
_FETCH = """
const tokens = arguments[0];
window.fetch = async () => new Response(tokens.shift());
"""


def run_in_page(chrome: webdriver.Chrome, example: str, running: Command, *before: Any) -> None:
    """Run an example in a page of the server's.

    Args:
        before: a script that runs first, and its arguments.
    """
    # The server's policy lets no script run that stands in a page itself.
    chrome.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    chrome.get(running.page + "healthz")
    if before:
        chrome.execute_script(*before)
    address = "ws://127.0.0.1:8000/"
    assert example.count(address) == 1
    script = example.replace(address, running.page.replace("http", "ws", 1))
    # A module of the page's own: `import` stands at its top level.
    module = "document.head.append(Object.assign(document.createElement('script'), "
    chrome.execute_script(module + "{ type: 'module', textContent: arguments[0] }))", script)


def test_a_page_chats(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    example, _ = examples("clients", "javascript")
    with command(tmp_path) as running:
        run_in_page(chromium, example, running)
        logged: list[str] = []

        def received(chrome: webdriver.Chrome) -> bool:
            entries = chrome.get_log("browser")  # type: ignore[no-untyped-call]
            logged.extend(str(entry["message"]) for entry in entries)
            return any("received: hello from a page" in message for message in logged)

        wait_for(chromium, received)
        assert any('"open"' in message for message in logged)


def test_a_page_comes_back_with_a_fresh_token(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    _, example = examples("clients", "javascript")
    key = tmp_path / "key"
    key.write_text("k" * 32)

    def token(seconds: float) -> str:
        return jwt.encode({"sub": "bob", "exp": time.time() + seconds}, "k" * 32, "HS256")

    with command(tmp_path, "--auth=jwt", f"--jwt-key={key}", "--jwt-leeway=0") as running:
        # Where the first one has expired before it is used, the page comes back as well.
        run_in_page(chromium, example, running, _FETCH, [token(5), token(600)])
        wait_for(chromium, lambda _: running.health()["connections"] == 1, 30)
        wait_for(chromium, lambda _: running.health()["ended"]["expired"] == 1, 30)
        wait_for(chromium, lambda _: running.health()["connections"] == 1, 30)
