"""A browser whose network goes away, and a server that does."""

from __future__ import annotations

import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from selenium import webdriver

from tests.support.browser import chromium, wait_for
from tests.support.command import command
from tests.support.http import HEARTBEAT, log, now, opened, state

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

BEATING = ("--interval=0.3", f"--heartbeat-message={HEARTBEAT}")
#: Nothing else is limited.
_AS_FAST_AS_IT_IS = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
#: The drawn pauses: the first is as short as it can be, the others are as long.
_DRAW = "const draws = [0]; Math.random = () => draws.shift() ?? 0.999999"
#: What remains of the pause that was announced last, by the page's clock.
_REMAINS = """
const [, at, { pause }] = log.filter(([kind]) => kind === "reconnecting").at(-1);
return at + pause - performance.now() / 1000;
"""


def offline(chrome: webdriver.Chrome, offline: bool) -> None:
    """Swallow what is sent and received, refuse what is opened, and tell the page.

    Sockets that were opened before the browser's debugger watched the network are left alone.
    """
    conditions = {"offline": offline, **_AS_FAST_AS_IT_IS}
    chrome.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)


def tell_online(chrome: webdriver.Chrome) -> None:
    """Tell the page that it was offline and is online again; nothing happens to the network."""
    chrome.execute_cdp_cmd("Network.enable", {})
    for off in (True, False):
        state = {"offline": off, **_AS_FAST_AS_IT_IS}
        chrome.execute_cdp_cmd("Network.overrideNetworkState", state)


def remains(chrome: webdriver.Chrome) -> float:
    seconds: float = chrome.execute_script(_REMAINS)
    return seconds


def test_twenty_seconds_offline_are_noticed_and_end_at_once(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, *BEATING) as running:
        chromium.execute_cdp_cmd("Network.enable", {})
        opened(chromium, running, interval=0.5, misses=3)
        wait_for(chromium, lambda c: len(log(c, "beat")) >= 2)
        # Of 4, 8 and 16 seconds the last is the one that is cut short.
        chromium.execute_script("Math.random = () => 0.999999")
        begun = now(chromium)
        offline(chromium, True)
        assert chromium.execute_script("return navigator.onLine") is False
        time.sleep(20)
        assert state(chromium) == "reconnecting"
        assert len(log(chromium, "open")) == 1
        attempts = log(chromium, "reconnecting")
        assert attempts[0].detail["reason"] == "silent"
        assert attempts[0].at - begun <= 5 * 0.5 + 1
        # It has tried meanwhile, in vain.
        assert len(attempts) >= 3
        assert running.health()["connections"] == 0
        assert remains(chromium) > 5
        back = now(chromium)
        offline(chromium, False)
        wait_for(chromium, lambda c: state(c) == "open")
        assert log(chromium, "open")[-1].at - back < 2
        assert len(log(chromium, "reconnecting")) == len(attempts)
        chromium.execute_script("clients[0].send('hello')")
        wait_for(chromium, lambda c: [e.detail for e in log(c, "message")] == ["hello"])
        assert running.health()["connections"] == 1


def test_a_pause_ends_at_once_where_the_browser_is_told_that_it_is_online(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path) as running:
        opened(chromium, running)
        chromium.execute_script(_DRAW)
        port = running.port
        running.end(signal.SIGKILL)
        # A second, and then as long as eight.
        wait_for(chromium, lambda c: len(log(c, "reconnecting")) == 2)
    with command(tmp_path, port=port):
        assert remains(chromium) > 2
        told = now(chromium)
        tell_online(chromium)
        wait_for(chromium, lambda c: state(c) == "open")
        assert log(chromium, "open")[-1].at - told < 1.5
        assert remains(chromium) > 0
        assert len(log(chromium, "reconnecting")) == 2


def test_an_attempt_that_is_overtaken_leaves_no_second_connection(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, *BEATING) as running:
        opened(chromium, running, interval=0.5, misses=3)
        wait_for(chromium, lambda c: len(log(c, "beat")) >= 2)
        chromium.execute_script("Math.random = () => 0")
        with running.frozen():
            wait_for(chromium, lambda c: state(c) == "reconnecting")
            # The attempt is made, and gets no answer.
            wait_for(chromium, lambda c: remains(c) < -0.3)
            tell_online(chromium)
        wait_for(chromium, lambda c: state(c) == "open")
        beats = len(log(chromium, "beat"))
        wait_for(chromium, lambda c: len(log(c, "beat")) >= beats + 3)
        assert len(log(chromium, "open")) == 2
        wait_for(chromium, lambda _: running.health()["connections"] == 1)


def test_a_killed_server_is_found_again_when_the_pause_is_over(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, *BEATING) as running:
        opened(chromium, running, interval=0.5, misses=3)
        port = running.port
        running.end(signal.SIGKILL)
        wait_for(chromium, lambda c: state(c) == "reconnecting")
    with command(tmp_path, *BEATING, port=port):
        wait_for(chromium, lambda c: len(log(c, "open")) == 2, 30)
        steps = log(chromium, "open", "reconnecting")
        assert [step.kind for step in steps[1:-1]] == ["reconnecting"] * (len(steps) - 2)
        for before, after in pairwise(steps[1:]):
            waited = after.at - before.at
            assert before.detail["pause"] - 0.01 <= waited <= before.detail["pause"] + 1.5
