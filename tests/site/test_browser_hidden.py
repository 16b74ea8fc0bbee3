"""A page in the background: its timers are slow, its messages are not.

Two minutes are twenty-four of the client's default intervals; here it is thirty-six shorter ones.
A hidden page's timers fire once a minute after some seconds and not after five minutes: all the
rest is Chromium's own throttling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from selenium import webdriver

from tests.support.browser import open_chromium, wait_for
from tests.support.command import command
from tests.support.http import HEARTBEAT, log, now, open_each, state
from tests.support.serving import serving
from trio_beat import Connection, ConnectionClosed

pytestmark = [pytest.mark.real, pytest.mark.browser]

INTERVAL = 0.5
MISSES = 3
#: The shortest time that the page is hidden, and that its timers are slow meanwhile.
HIDDEN = 18.0
SLOW = 8.0
_UNANSWERED = 4001
#: A socket that answers heartbeats from a timer, and a note of what timers do.
_WATCH = f"""
window.ticks = [];
setInterval(() => ticks.push(performance.now() / 1000), 100);
window.seen = [];
document.addEventListener("visibilitychange", () => seen.push(document.visibilityState));
window.naive = new WebSocket(arguments[0]);
naive.onclose = ({{ code }}) => (window.naive.code = code);
let heard = false;
naive.onmessage = () => (heard = true);
setInterval(() => heard && naive.send("{HEARTBEAT}"), 100);
"""


@pytest.fixture
def throttling(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    """A browser that slows hidden pages as a person's does, only sooner."""
    with open_chromium(
        tmp_path,
        "--enable-features=IntensiveWakeUpThrottling:grace_period_seconds/2",
        "--intensive-wake-up-throttling-policy=1",
        without=["disable-background-timer-throttling", "disable-backgrounding-occluded-windows"],
    ) as chrome:
        yield chrome


async def test_a_hidden_page_with_slow_timers_is_kept(
    throttling: webdriver.Chrome, tmp_path: Path
) -> None:
    chromium = throttling
    dropped: list[str] = []

    async def demand_answers(connection: Connection) -> None:
        async def beat() -> None:
            with suppress(ConnectionClosed):
                while True:
                    await connection.send(HEARTBEAT)
                    await trio.sleep(INTERVAL)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            with suppress(ConnectionClosed):
                while True:
                    with trio.move_on_after((MISSES + 1) * INTERVAL) as silence:
                        await connection.receive()
                    if silence.cancelled_caught:
                        dropped.append(connection.path)
                        await connection.aclose(_UNANSWERED)
            nursery.cancel_scope.cancel()

    async def wait_for_slow_timers() -> float:
        """Returns how long that took: some seconds, and a minute on a busy machine."""
        begun = trio.current_time()
        with trio.fail_after(90):
            while not dropped:  # noqa: ASYNC110 - the browser has no event
                await trio.sleep(0.1)
        return trio.current_time() - begun

    def use(page: str, demanding: str, hub: str) -> None:
        chromium.get(page + "healthz")
        open_each(chromium, [demanding + "ours", hub], interval=INTERVAL, misses=MISSES)
        wait_for(chromium, lambda c: state(c, 0) == state(c, 1) == "open")
        chromium.execute_script(_WATCH, demanding + "naive")
        wait_for(chromium, lambda c: all(log(c, "beat", client=i) for i in range(2)))
        assert not dropped
        first = chromium.current_window_handle
        begun = now(chromium)
        chromium.switch_to.new_window("tab")
        waited = trio.from_thread.run(wait_for_slow_timers)
        trio.from_thread.run(trio.sleep, max(SLOW, HIDDEN - waited))
        chromium.switch_to.window(first)
        assert chromium.execute_script("return seen") == ["hidden", "visible"]
        ended = now(chromium)
        assert ended - begun >= HIDDEN

        # The timers were so slow: a page that depends upon them is lost.
        ticks = chromium.execute_script("return ticks")
        assert max(b - a for a, b in pairwise([*ticks, ended])) >= 2 * (MISSES + 1) * INTERVAL
        assert chromium.execute_script("return naive.code") == _UNANSWERED
        assert dropped == ["/ws/naive"]

        for client in range(2):
            assert log(chromium, "reconnecting", "close", client=client) == []
            assert state(chromium, client) == "open"
            beats = [e.at for e in log(chromium, "beat", client=client) if begun <= e.at <= ended]
            assert len(beats) >= HIDDEN / INTERVAL / 2
        # It is watched as before, and it can be used.
        wait_for(chromium, lambda c: log(c, "beat", client=1)[-1].at > ended + INTERVAL)
        chromium.execute_script("clients[1].send('still here')")
        wait_for(chromium, lambda c: [e.detail for e in log(c, "message")] == ["still here"])
        chromium.execute_script("clients.forEach((client) => client.close())")

    options = [f"--interval={INTERVAL}", f"--misses={MISSES}", f"--heartbeat-message={HEARTBEAT}"]
    with command(tmp_path, *options) as running:
        # The page is from the other server.
        origin = running.page.rstrip("/")
        async with serving(demand_answers, allowed_origins=[origin]) as server:
            demanding = f"ws://127.0.0.1:{server.port}/ws/"
            hub = running.websocket("news?subscribe-broadcast&publish-broadcast&echo")
            await trio.to_thread.run_sync(use, running.page, demanding, hub)
            assert running.health()["ended"]["missed-beats"] == 0
