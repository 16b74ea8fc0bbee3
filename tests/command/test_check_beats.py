"""How soon a dead peer is noticed, and what proxies make of the beats."""

from __future__ import annotations

import sys

import pytest

from tests.support.checks import found, row
from trio_beat import Heartbeat
from trio_beat._command.checks.beats import PROXIES, check_beats, check_proxies
from trio_beat._command.settings import load_settings


def test_each_way_has_its_time() -> None:
    section = check_beats(load_settings(["--interval=10", "--misses=2"]))
    data = section.data
    assert (data["silent_least"], data["silent_most"], data["lossy_most"]) == (20, 30, 50)
    assert row(section, "silent peer") == "gone 20 to 30 s after its last byte"
    assert row(section, "on a bad network") == "at most 50 s, where packets are lost"
    assert data["client_most"] == Heartbeat().patience
    assert found(section) == []


def test_without_a_text_heartbeat_nothing_else_is_promised() -> None:
    section = check_beats(load_settings([]))
    assert section.data["browser_most"] is section.data["asgi_most"] is None
    assert "without --heartbeat-message" in row(section, "browser client")
    assert "without --heartbeat-message" in row(section, "over ASGI")


def test_a_text_heartbeat_is_for_pages_and_asgi() -> None:
    section = check_beats(load_settings(["--heartbeat-message=--heartbeat--"]))
    assert (section.data["browser_most"], section.data["asgi_most"]) == (20, 16)
    assert found(section) == []


@pytest.mark.parametrize(("interval", "levels"), [("14.9", []), ("15", [("warning", "watchdog")])])
def test_pages_give_up_a_server_that_beats_too_rarely(
    interval: str, levels: list[tuple[str, str]]
) -> None:
    flags = ["--heartbeat-message=--heartbeat--", f"--interval={interval}"]
    assert found(check_beats(load_settings(flags))) == levels


def test_a_page_has_to_know_another_text() -> None:
    section = check_beats(load_settings(["--heartbeat-message=still here"]))
    assert found(section) == [("info", "watchdog")]


def test_elsewhere_the_kernel_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_beats(load_settings([])).data["unread_most"] == 24
    monkeypatch.setattr(sys, "platform", "darwin")
    section = check_beats(load_settings([]))
    assert section.data["unread_most"] is None
    assert "in minutes" in row(section, "while unread")


@pytest.mark.parametrize("name", PROXIES)
def test_beats_keep_a_connection_open_behind_each_proxy(name: str) -> None:
    proxied = ["--trusted-proxy=10.0.0.0/8"]
    section = check_proxies(load_settings(proxied), name, None)
    assert found(section) == []
    assert row(section, "beats") == "often enough: one every 4 s"
    idle = PROXIES[name].idle
    for share, level in ((0.75, None), (0.76, "warning"), (0.99, "warning"), (1, "error")):
        settings = load_settings([*proxied, f"--interval={share * idle}"])
        levels = [] if level is None else [(level, "proxy")]
        assert found(check_proxies(settings, name, None)) == levels, share


def test_a_limit_of_ones_own_goes_before_the_proxys() -> None:
    settings = load_settings(["--trusted-proxy=10.0.0.0/8", "--interval=20"])
    for behind in ("nginx", None):
        assert found(check_proxies(settings, behind, 20)) == [("error", "proxy")]
        assert found(check_proxies(settings, behind, 3600)) == []
        assert check_proxies(settings, behind, 3600).data["idle_timeout"] == 3600


def test_a_proxy_that_is_not_trusted_has_all_peers() -> None:
    section = check_proxies(load_settings([]), "nginx", None)
    assert found(section) == [("warning", "forwarding")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--uds=x", "--trusted-proxy=127.0.0.1,::1"], "does not name unix"),
        (["--uds=x", "--trusted-proxy=127.0.0.1,unix"], None),
        (["--uds=x", "--port=1", "--trusted-proxy=127.0.0.1"], None),
        (["--uds=x", "--fd=3", "--trusted-proxy=127.0.0.1"], None),
        (["--fd=3", "--trusted-proxy=unix"], None),
        (["--uds=x", "--port=1", "--trusted-proxy=unix"], None),
        (["--trusted-proxy=unix"], None),  # systemd may open the socket
    ],
)
def test_a_trusted_proxy_is_where_peers_come_from(options: list[str], words: str | None) -> None:
    for behind, idle in (("nginx", None), (None, 60), (None, None)):
        section = check_proxies(load_settings(options), behind, idle)
        assert found(section) == ([] if words is None else [("warning", "forwarding")])
        assert all(words in it.text for it in section.findings if words is not None)


@pytest.mark.parametrize(
    ("interval", "names"),
    [("4", ""), ("40", "HAProxy (50 s)"), ("50", "nginx (60 s), HAProxy (50 s), AWS ALB (60 s)")],
)
def test_without_a_proxy_the_usual_ones_are_told_of(interval: str, names: str) -> None:
    section = check_proxies(load_settings([f"--interval={interval}"]), None, None)
    assert found(section) == ([("warning", "proxy")] if names else [])
    if names:
        assert f"the defaults of {names};" in section.findings[0].text


def test_rare_beats_are_for_none_of_them() -> None:
    section = check_proxies(load_settings(["--interval=200"]), None, None)
    assert row(section, "often enough for") == "none of the usual ones"
