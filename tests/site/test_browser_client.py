"""The browser's client, in a real browser and against real servers."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import textwrap
import time
from pathlib import Path

import pytest
import trio
from selenium import webdriver
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket

from tests.support.browser import chromium, wait_for
from tests.support.command import command
from tests.support.http import HEARTBEAT, busiest_second, log, open_clients, opened, state

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

README = Path(__file__).parent.parent.parent / "README.rst"


def test_heartbeats_keep_it_open(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    with command(tmp_path, "--interval=0.3", f"--heartbeat-message={HEARTBEAT}") as running:
        opened(chromium, running, interval=1, misses=3)
        wait_for(chromium, lambda c: len(log(c, "beat")) >= 12)
        assert log(chromium, "reconnecting") == []
        assert log(chromium, "message") == []
        chromium.execute_script("clients[0].send('hello')")
        wait_for(chromium, lambda c: [entry.detail for entry in log(c, "message")] == ["hello"])
        assert chromium.execute_script("return clients[0].latency") > 0
        assert sum(running.health()["ended"].values()) == 0


def test_a_frozen_server_is_given_up_and_found_again(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, "--interval=0.3", f"--heartbeat-message={HEARTBEAT}") as running:
        opened(chromium, running, interval=0.5, misses=3)
        wait_for(chromium, lambda c: len(log(c, "beat")) >= 2)
        with running.frozen():
            wait_for(chromium, lambda c: state(c) == "reconnecting", 5)
            lost = log(chromium, "reconnecting")[0]
            assert lost.detail["reason"] == "silent"
            silence = lost.at - log(chromium, "beat")[-1].at
            assert silence >= 3 * 0.5 - 0.05
            with pytest.raises(Exception, match="the WebSocket is reconnecting"):
                chromium.execute_script("clients[0].send('lost?')")
        wait_for(chromium, lambda c: state(c) == "open", 30)


def test_a_quiet_server_without_text_heartbeats_is_not_given_up(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, "--interval=0.3") as running:
        opened(chromium, running, interval=0.1, misses=1)
        time.sleep(2)
        assert state(chromium) == "open"
        assert log(chromium, "reconnecting") == []


def test_what_is_sent_meanwhile_waits_for_a_restarted_server(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, "--interval=0.3") as running:
        opened(chromium, running, queue=2)
        port = running.port
        running.end()
        wait_for(chromium, lambda c: state(c) == "reconnecting")
        detail = log(chromium, "reconnecting")[0].detail
        assert detail["code"] == 1001
        assert 1 <= detail["pause"] <= 4
        chromium.execute_script("clients[0].send('one'); clients[0].send('two')")
        with pytest.raises(Exception, match="and 2 messages wait already"):
            chromium.execute_script("clients[0].send('three')")
    with command(tmp_path, "--interval=0.3", port=port):
        wait_for(chromium, lambda c: state(c) == "open", 30)
        wait_for(chromium, lambda c: [e.detail for e in log(c, "message")] == ["one", "two"])


def test_fifty_do_not_come_back_in_the_same_second(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path) as running:
        chromium.get(running.page + "healthz")
        open_clients(chromium, running.websocket("news"), 50)
        wait_for(chromium, lambda c: len(log(c, "open")) == 50)
        port = running.port
        # All of them at once, and not one after the other as when it drains.
        running.end(signal.SIGKILL)
        wait_for(chromium, lambda c: len(log(c, "reconnecting")) >= 50)
        pauses = [entry.detail["pause"] for entry in log(chromium, "reconnecting")[:50]]
        assert all(1 <= pause <= 4 for pause in pauses)
        assert busiest_second(pauses) <= 35
    with command(tmp_path, port=port) as restarted:
        wait_for(chromium, lambda c: len(log(c, "open")) == 100, 30)
        arrivals = log(chromium, "open")[50:]
        assert {entry.client for entry in arrivals} == set(range(50))
        assert busiest_second([entry.at for entry in arrivals]) <= 35
        assert restarted.health()["connections"] == 50
        chromium.execute_script("clients.forEach((client) => client.close())")


async def test_a_server_that_beats_after_every_event_is_no_endless_loop(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    received: list[str] = []

    async def like_ws4redis(request: WebSocketRequest) -> None:
        connection = await request.accept()
        try:
            while True:
                with trio.move_on_after(0.4):
                    received.append(str(await connection.get_message()))
                await connection.send_message(HEARTBEAT)
        except ConnectionClosed:
            pass

    with command(tmp_path) as running:
        async with trio.open_nursery() as nursery:
            serve = functools.partial(serve_websocket, like_ws4redis, "127.0.0.1", 0, None)
            server = await nursery.start(serve)

            def use() -> None:
                chromium.get(running.page + "healthz")
                url = f"ws://127.0.0.1:{server.port}/"
                open_clients(chromium, url, interval=0.5, misses=3, watchdog=True)
                wait_for(chromium, lambda c: len(log(c, "beat")) >= 10)
                assert log(chromium, "reconnecting") == []
                chromium.execute_script("clients[0].close()")

            begun = trio.current_time()
            await trio.to_thread.run_sync(use)
            took = trio.current_time() - begun
            nursery.cancel_scope.cancel()
    assert set(received) == {HEARTBEAT}
    # One answer in an eighth of a second at the most.
    assert 3 <= len(received) <= took / 0.125 + 1


async def test_a_network_that_swallows_everything_is_noticed(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    swallowing = False

    async def forward(source: trio.SocketStream, target: trio.SocketStream) -> None:
        # An end is nothing that gets through, either: neither side hears of the other's.
        with contextlib.suppress(trio.BrokenResourceError):
            async for chunk in source:
                if not swallowing:
                    await target.send_all(chunk)
        if swallowing:
            await trio.sleep_forever()

    async def proxy(port: int, stream: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as other, stream:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(forward, stream, other)
                nursery.start_soon(forward, other, stream)

    def use(address: str) -> None:
        nonlocal swallowing
        chromium.get(f"http://{address}/healthz")
        open_clients(chromium, f"ws://{address}/ws/news", interval=0.5, misses=3)
        wait_for(chromium, lambda c: len(log(c, "beat")) >= 2)
        swallowing = True
        wait_for(chromium, lambda c: state(c) == "reconnecting", 10)
        assert log(chromium, "reconnecting")[0].detail["reason"] == "silent"
        swallowing = False
        wait_for(chromium, lambda c: state(c) == "open", 30)
        chromium.execute_script("clients[0].close()")

    with command(tmp_path, "--interval=0.3", f"--heartbeat-message={HEARTBEAT}") as running:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                functools.partial(
                    trio.serve_tcp, functools.partial(proxy, running.port), 0, host="127.0.0.1"
                )
            )
            host, port = listeners[0].socket.getsockname()
            await trio.to_thread.run_sync(use, f"{host}:{port}")
            nursery.cancel_scope.cancel()


def test_the_readme_example_logs_what_is_published(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    (example,) = re.findall(r"code-block:: javascript\n\n((?:    .*\n|\n)+)", README.read_text())
    with command(tmp_path) as running:
        # What stands in a page itself our policy lets run nowhere.
        chromium.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
        chromium.get(running.page + "healthz")
        address = "ws://127.0.0.1:8000/ws/news?subscribe-broadcast"
        assert example.count(address) == 1
        script = textwrap.dedent(example).replace(
            address, running.websocket("news?subscribe-broadcast")
        )
        # A module of the page's own: `import` and `for await` stand at its top level.
        module = "document.head.append(Object.assign(document.createElement('script'), "
        chromium.execute_script(module + "{ type: 'module', textContent: arguments[0] }))", script)
        wait_for(chromium, lambda _: running.health()["connections"] == 1)
        open_clients(chromium, running.websocket("news?publish-broadcast"))
        wait_for(chromium, lambda c: state(c) == "open")
        chromium.execute_script("clients[0].send('hello from the README')")
        heard: list[str] = []

        def logged(chrome: webdriver.Chrome) -> bool:
            entries = chrome.get_log("browser")  # type: ignore[no-untyped-call]
            heard.extend(str(entry["message"]) for entry in entries)
            return any("hello from the README" in message for message in heard)

        wait_for(chromium, logged)
