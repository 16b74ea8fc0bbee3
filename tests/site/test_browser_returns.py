"""The browser's client between two connections: what it sends, and when it comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from selenium import webdriver

from tests.support.browser import chromium, wait_for
from tests.support.fake_server import accept_handshake
from tests.support.http import HEARTBEAT, log, open_clients, state
from tests.support.page import drive, page_of, serving_page
from tests.support.peer import Peer
from trio_beat import Connection

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

#: The client's sockets, which it keeps for itself.
_WATCH = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...rest) {
    super(...rest);
    sockets.push(this);
  }
};
"""
#: Sends as soon as the server has begun to close, and before it has ended.
_SEND_LATE = """
const [message, done] = arguments;
const timer = setInterval(() => {
  if (sockets[0].readyState < WebSocket.CLOSING) return;
  clearInterval(timer);
  let error = null;
  try { clients[0].send(message); } catch (caught) { error = `${caught.name}: ${caught.message}`; }
  done([sockets[0].readyState, clients[0].state, error]);
}, 5);
"""
#: Pauses are as long as they can be.
_LONGEST = "Math.random = () => 0.999999"


async def idle(_: Connection) -> None:
    await trio.sleep_forever()


async def playing(
    nursery: trio.Nursery, *plays: Callable[[Peer], Awaitable[object]]
) -> tuple[str, list[Peer]]:
    """Serve one connection after the other; gives the URL, and the peers that came."""
    came: list[Peer] = []

    async def serve(stream: trio.SocketStream) -> None:
        peer = await accept_handshake(stream)
        came.append(peer)
        await plays[min(len(came), len(plays)) - 1](peer)

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    return f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/", came


@pytest.mark.parametrize("queue", [0, 1])
async def test_what_is_sent_while_the_server_closes_is_not_lost(
    chromium: webdriver.Chrome, queue: int
) -> None:
    heard: list[str] = []

    async def close(peer: Peer) -> None:
        await peer.send_close(1001)
        await trio.sleep(1.5)  # the browser waits for the end of the stream, for two seconds

    async def listen(peer: Peer) -> None:
        heard.append(await peer.text())
        await trio.sleep_forever()

    async with serving_page(idle) as server, trio.open_nursery() as nursery:
        url, _ = await playing(nursery, close, listen)

        def use() -> None:
            chromium.execute_script(_WATCH)
            open_clients(chromium, url, queue=queue)
            ready, told, error = chromium.execute_async_script(_SEND_LATE, "late")
            assert (ready, told) == (2, "open")
            if queue:
                assert error is None
                wait_for(chromium, lambda _: heard == ["late"], 10)
            else:
                text = "InvalidStateError: the WebSocket is closing, and nothing was sent"
                assert error == text
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)
        nursery.cancel_scope.cancel()


async def busy(connection: Connection) -> None:
    await connection.aclose(1013)


async def test_a_page_that_becomes_visible_does_not_wait_out_a_pause(
    chromium: webdriver.Chrome,
) -> None:
    async with serving_page(busy) as server:

        def use() -> None:
            chromium.execute_script(_LONGEST)
            open_clients(chromium, f"ws://127.0.0.1:{server.port}/ws/")
            wait_for(chromium, lambda c: state(c) == "reconnecting")
            (lost,) = log(chromium, "reconnecting")
            assert lost.detail["pause"] > 15
            first = chromium.current_window_handle
            chromium.switch_to.new_window("tab")
            chromium.switch_to.window(first)
            wait_for(chromium, lambda c: len(log(c, "open")) == 2, 5)
            assert log(chromium, "open")[1].at - lost.at < 10
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)


@pytest.mark.parametrize("waiting", [False, True], ids=["open", "in a pause"])
async def test_a_page_from_the_back_forward_cache_comes_back_at_once(
    chromium: webdriver.Chrome, waiting: bool
) -> None:
    async with serving_page(busy if waiting else idle) as server:

        def use() -> None:
            # A page that may be kept, unlike the one before.
            chromium.get(page_of(server) + "trio-beat.js")
            chromium.execute_script(_LONGEST)
            open_clients(chromium, f"ws://127.0.0.1:{server.port}/ws/")
            wait_for(chromium, lambda c: state(c) == ("reconnecting" if waiting else "open"))
            chromium.execute_script(
                "window.shown = []; addEventListener('pageshow', (e) => shown.push(e.persisted))"
            )
            chromium.get(page_of(server) + "healthz")
            chromium.back()
            wait_for(chromium, lambda c: len(log(c, "open")) == 2, 5)
            assert chromium.execute_script("return shown") == [True]
            lost = log(chromium, "reconnecting")[0]
            assert log(chromium, "open")[1].at - lost.at < lost.detail["pause"]
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)


async def test_a_server_that_has_beaten_once_is_watched_from_the_start(
    chromium: webdriver.Chrome,
) -> None:
    async def beat(peer: Peer) -> None:
        await peer.send_text(HEARTBEAT)
        assert await peer.text() == HEARTBEAT
        await peer.send_close(1001)

    async def be_silent(peer: Peer) -> None:
        await trio.sleep_forever()

    async with serving_page(idle) as server, trio.open_nursery() as nursery:
        url, came = await playing(nursery, beat, be_silent)

        def use() -> None:
            open_clients(chromium, url, interval=0.3, misses=2)
            wait_for(chromium, lambda c: len(log(c, "reconnecting")) >= 2, 15)
            reasons = [entry.detail["reason"] for entry in log(chromium, "reconnecting")]
            assert reasons[1] == "silent"
            assert len(came) == 2
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)
        nursery.cancel_scope.cancel()


_COUNT = """
window.listeners = 0;
for (const target of [window, document]) {
  const { addEventListener, removeEventListener } = target;
  target.addEventListener = (...rest) => { listeners += 1; addEventListener.apply(target, rest); };
  target.removeEventListener = (...rest) => {
    listeners -= 1;
    removeEventListener.apply(target, rest);
  };
}
"""
_CONSTRUCT = """
const [url, options, done] = arguments;
import("/trio-beat.js").then(({ TrioBeat }) => {
  let error = null;
  try { window.client = new TrioBeat(url, options); } catch (caught) { error = caught.name; }
  done([error, listeners]);
});
"""


async def test_a_constructor_that_throws_leaves_no_listeners(chromium: webdriver.Chrome) -> None:
    async with serving_page(busy) as server:
        url = f"ws://127.0.0.1:{server.port}/ws/"

        def construct(url: str, **options: Any) -> list[Any]:
            made: list[Any] = chromium.execute_async_script(_CONSTRUCT, url, options)
            return made

        def use() -> None:
            chromium.execute_script(_COUNT)
            assert construct("ftp://127.0.0.1/") == ["SyntaxError", 0]
            assert construct("ws://[") == ["SyntaxError", 0]
            assert construct(url, protocols=["a b"]) == ["SyntaxError", 0]
            assert construct(url, interval=0) == ["RangeError", 0]
            assert construct(url) == [None, 3]
            assert chromium.execute_script("client.close(); return listeners") == 0

        await drive(chromium, server, use)


async def test_an_attempt_that_throws_is_not_the_last(chromium: webdriver.Chrome) -> None:
    """A policy of the page's, for example, may come to forbid it, and allow it later."""
    async with serving_page(busy) as server:

        def use() -> None:
            open_clients(chromium, f"ws://127.0.0.1:{server.port}/ws/")
            wait_for(chromium, lambda c: state(c) == "reconnecting")
            chromium.execute_script(
                "window.real = WebSocket;"
                "window.WebSocket = function () { throw new Error('no'); };"
                "dispatchEvent(new Event('online'))"
            )
            assert log(chromium, "reconnecting")[1].detail["reason"] == "Error: no"
            chromium.execute_script("WebSocket = real; dispatchEvent(new Event('online'))")
            wait_for(chromium, lambda c: len(log(c, "open")) == 2, 5)
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)


_CLOSE = """
try { clients[0].close(...arguments); } catch (error) { return error.name; }
return clients[0].state;
"""


@pytest.mark.parametrize("waiting", [False, True], ids=["open", "in a pause"])
async def test_a_close_that_cannot_be_changes_nothing(
    chromium: webdriver.Chrome, waiting: bool
) -> None:
    async with serving_page(busy if waiting else idle) as server:

        def use() -> None:
            open_clients(chromium, f"ws://127.0.0.1:{server.port}/ws/")
            expected = "reconnecting" if waiting else "open"
            wait_for(chromium, lambda c: state(c) == expected)
            for wrong in ([1001], [2999], [5000], ["x"]):
                assert chromium.execute_script(_CLOSE, *wrong) == "InvalidAccessError"
            assert chromium.execute_script(_CLOSE, 1000, "é" * 62) == "SyntaxError"
            assert state(chromium) == expected
            assert chromium.execute_script(_CLOSE, 4000, "é" * 61) == "closed"

        await drive(chromium, server, use)
