"""A real browser, and the browser's client in it, over a server that compresses."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium import webdriver

from tests.support.browser import chromium, wait_for
from tests.support.command import command
from tests.support.http import HEARTBEAT, log, open_clients, state

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

#: Texts of all kinds: small, large, in many languages, and what does not get smaller.
_SEND = """
const texts = ["hi", "", "x".repeat(1000), "\\u00e9\\u4e16\\u{1f600}".repeat(3000),
    JSON.stringify(Array.from({length: 9000}, (_, i) => ({id: i, name: "item " + i * 7919})))];
let noise = "";
for (let i = 0; i < 20000; i++) noise += String.fromCharCode(33 + Math.random() * 90);
texts.push(noise);
window.sent = texts;
for (const text of texts) clients[0].send(text);
"""


def test_messages_come_whole_both_ways(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    options = ["--interval=0.3", f"--heartbeat-message={HEARTBEAT}", "--compression=on"]
    with command(tmp_path, *options) as running:
        chromium.get(running.page + "healthz")
        url = running.websocket("news?subscribe-broadcast&publish-broadcast&echo")
        open_clients(chromium, url, 2, interval=1, misses=3)
        wait_for(chromium, lambda c: [state(c, 0), state(c, 1)] == ["open", "open"])
        wait_for(chromium, lambda c: running.health()["connections"] == 2)
        chromium.execute_script(_SEND)
        wait_for(chromium, lambda c: len(log(c, "message")) >= 12, 30)
        sent = chromium.execute_script("return window.sent")
        came = [entry.detail for entry in log(chromium, "message")]
        assert sorted(came) == sorted(sent * 2)
        # Beats go on, and nothing was lost.
        seen = len(log(chromium, "beat"))
        wait_for(chromium, lambda c: len(log(c, "beat")) > seen + 4)
        assert log(chromium, "reconnecting") == []
        counts = running.health()["compression"]
        assert (counts["accepted"], counts["declined"]) == (2, 0)
        assert counts["inflated"] >= 4
        assert counts["inflated_after"] > 4 * counts["inflated_before"]
        assert counts["compressed"] >= 3
        assert counts["bytes_before"] > 4 * counts["bytes_after"]
