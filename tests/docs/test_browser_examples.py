"""The documentation's examples for a page, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium import webdriver

from tests.support.browser import chromium, wait_for
from tests.support.command import command
from tests.support.documents import examples

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]


def test_a_page_chats(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    (example,) = examples("clients", "javascript")
    with command(tmp_path) as running:
        # The server's policy lets no script run that stands in a page itself.
        chromium.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
        chromium.get(running.page + "healthz")
        address = "ws://127.0.0.1:8000/"
        assert example.count(address) == 1
        script = example.replace(address, running.page.replace("http", "ws", 1))
        # A module of the page's own: `import` stands at its top level.
        module = "document.head.append(Object.assign(document.createElement('script'), "
        chromium.execute_script(module + "{ type: 'module', textContent: arguments[0] }))", script)
        logged: list[str] = []

        def received(chrome: webdriver.Chrome) -> bool:
            entries = chrome.get_log("browser")  # type: ignore[no-untyped-call]
            logged.extend(str(entry["message"]) for entry in entries)
            return any("received: hello from a page" in message for message in logged)

        wait_for(chromium, received)
        assert any('"open"' in message for message in logged)
