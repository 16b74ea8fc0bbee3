"""The browser's client in a page, and what happened to it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from selenium import webdriver

from tests.support.browser import wait_for
from tests.support.command import Command

HEARTBEAT = "--heartbeat--"
_ARGUMENTS = "const [urls, options, done] = arguments;"
_OPEN = """
import("/trio-beat.js").then(({ TrioBeat }) => {
  window.log = [];
  window.clients = urls.map((url, index) => {
    const client = new TrioBeat(url, options);
    for (const type of ["open", "message", "beat", "reconnecting", "close"]) {
      client.addEventListener(type, (event) => {
        log.push([type, performance.now() / 1000, event.detail ?? event.data ?? null, index]);
      });
    }
    return client;
  });
  done();
});
"""


class Entry(NamedTuple):
    """An event of a client; `at` is in seconds, by the page's clock."""

    kind: str
    at: float
    detail: Any
    client: int


def open_each(chrome: webdriver.Chrome, urls: Sequence[str], **options: Any) -> None:
    """Open a client to each URL, and begin a new log."""
    chrome.execute_async_script(_ARGUMENTS + _OPEN, urls, options)


def open_scripted(chrome: webdriver.Chrome, *urls: str, **options: str) -> None:
    """Open a client to each URL, and begin a new log; all of them are expressions of JavaScript."""
    pairs = ", ".join(f"{name}: {value}" for name, value in options.items())
    arguments = f"const [done] = arguments, urls = [{', '.join(urls)}], options = {{ {pairs} }};"
    chrome.execute_async_script(arguments + _OPEN)


def open_clients(chrome: webdriver.Chrome, url: str, count: int = 1, **options: Any) -> None:
    """Open clients to the same URL, and begin a new log."""
    open_each(chrome, [url] * count, **options)


def opened(chrome: webdriver.Chrome, running: Command, **options: Any) -> None:
    """Open one client to the server, from a page of its origin that has no other."""
    chrome.get(running.page + "healthz")
    open_clients(
        chrome, running.websocket("news?subscribe-broadcast&publish-broadcast&echo"), **options
    )
    wait_for(chrome, lambda c: state(c) == "open")


def state(chrome: webdriver.Chrome, client: int = 0) -> str:
    """A client's state."""
    told: str = chrome.execute_script("return clients[arguments[0]].state", client)
    return told


def log(chrome: webdriver.Chrome, *kinds: str, client: int | None = None) -> list[Entry]:
    """The events of some kinds, of one client or of all."""
    entries = [Entry(*entry) for entry in chrome.execute_script("return log")]
    return [e for e in entries if e.kind in kinds and client in (None, e.client)]


def now(chrome: webdriver.Chrome) -> float:
    """The page's clock."""
    seconds: float = chrome.execute_script("return performance.now() / 1000")
    return seconds


def busiest_second(moments: Sequence[float]) -> int:
    """How many of them are in the same second, wherever that begins."""
    return max(sum(begin <= moment < begin + 1 for moment in moments) for begin in moments)
