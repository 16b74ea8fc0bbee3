"""The JavaScript client of django-websocket-redis, unchanged, against our server.

`ws4redis.js` is that of release 0.6.0, see `ws4redis.LICENSE`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.support.browser import chromium, wait_for
from tests.support.command import Command, command
from tests.support.http import HEARTBEAT, log, open_clients, state

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

SCRIPT = Path(__file__).with_name("ws4redis.js")
DIGEST = "c5080ddfe216d6961b5f4a1befa91df6393b86cfb0aaf7e8958fe9646d1ce92d"
#: It beats every five seconds; the page's clock makes a quarter of a second of them.
_FASTER = """
const real = window.setInterval;
window.sent = 0;
window.setInterval = (callback, delay) => real(() => { sent += 1; callback(); }, delay / 20);
"""
#: As much of jQuery as it calls; it never looks at what becomes of its deferreds.
_JQUERY = """
window.jQuery = {
  extend: Object.assign,
  type: (value) => typeof value,
  Deferred: () => ({ resolve() {}, reject() {} }),
};
"""
_LOAD = "document.head.append(Object.assign(document.createElement('script'), "
_LOAD += "{ textContent: arguments[0] }))"
_USE = """
window.received = [];
window.lost = 0;
window.theirs = WS4Redis({
  uri: arguments[0],
  heartbeat_msg: arguments[1],
  receive_message: (message) => received.push(message),
  disconnected: () => { lost += 1; },
}, jQuery);
"""


def told(chrome: webdriver.Chrome, expression: str) -> Any:
    return chrome.execute_script(f"return {expression}")


def use(chrome: webdriver.Chrome, running: Command, heartbeat: str | None) -> None:
    """Open their client and one of ours that hears whatever theirs publishes."""
    source = SCRIPT.read_bytes()
    assert hashlib.sha256(source).hexdigest() == DIGEST
    # Their pages are not ours, whose policy lets no script of another origin in.
    chrome.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    chrome.get(running.page + "healthz")
    url = running.websocket("news?subscribe-broadcast&publish-broadcast")
    open_clients(chrome, url, heartbeat=heartbeat)
    wait_for(chrome, lambda c: state(c) == "open")
    chrome.execute_script(_FASTER + _JQUERY)
    chrome.execute_script(_LOAD, source.decode())
    chrome.execute_script(_USE, url, HEARTBEAT)
    wait_for(chrome, lambda c: bool(told(c, "theirs.is_connected()")))


def test_it_stays_and_its_heartbeats_are_no_messages(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, "--interval=0.2", f"--heartbeat-message={HEARTBEAT}") as running:
        use(chromium, running, HEARTBEAT)
        wait_for(chromium, lambda c: bool(told(c, "sent > 5")))
        assert told(chromium, "theirs.is_connected()")
        chromium.execute_script("clients[0].send('from ours'); theirs.send_message('from theirs')")
        wait_for(chromium, lambda c: bool(log(c, "message") and told(c, "received.length > 0")))
        wait_for(chromium, lambda c: bool(told(c, "sent > 8")))
        assert told(chromium, "received") == ["from ours"]
        assert [entry.detail for entry in log(chromium, "message")] == ["from theirs"]
        # Ours takes every heartbeat for the server's, so that the hub is asked, too.
        assert running.health()["hub"]["published"] == 2
        assert told(chromium, "lost") == 0
        assert told(chromium, "theirs.is_connected()")
        assert sum(running.health()["ended"].values()) == 0


def test_it_leaves_a_server_that_sends_no_heartbeats(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, "--interval=0.2") as running:
        # Ours would answer a heartbeat that it hears, and theirs would hear the answer.
        use(chromium, running, None)
        wait_for(chromium, lambda c: bool(told(c, "lost > 0")))
        assert told(chromium, "sent") == 4
        # Those that it sent are messages like any other.
        assert running.health()["hub"]["published"] == 3
        assert [entry.detail for entry in log(chromium, "message")] == [HEARTBEAT] * 3
