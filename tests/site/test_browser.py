"""What a person's browser does with the server."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import trustme
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.support.browser import chromium, wait_for
from tests.support.command import Command, command
from tests.support.tokens import SECRET, token

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

SCRIPT = Path(__file__).with_name("heartbeats.html")
ADDRESS = "ws://www.example.com/ws/foobar?subscribe-broadcast"


def warnings_of(chrome: webdriver.Chrome) -> str:
    entries = chrome.get_log("browser")  # type: ignore[no-untyped-call]
    return "\n".join(entry["message"] for entry in entries)


def state(chrome: webdriver.Chrome) -> str:
    return chrome.find_element(By.ID, "state").text


def beats(chrome: webdriver.Chrome) -> int:
    return int(chrome.find_element(By.ID, "beats").text)


def text_heartbeats(chrome: webdriver.Chrome) -> int:
    text = chrome.find_element(By.ID, "server-beat").text
    sent = re.search(r"has sent (\d+) text heartbeats", text)
    return 0 if sent is None else int(sent[1])


def say(chrome: webdriver.Chrome, text: str) -> None:
    chrome.find_element(By.ID, "text").send_keys(text)
    chrome.find_element(By.CSS_SELECTOR, "#form button").click()


def heard(chrome: webdriver.Chrome) -> str:
    return chrome.find_element(By.ID, "messages").text


def test_the_heartbeat_script_of_the_documentation(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    options = ["--heartbeat-message=--heartbeat--", "--allowed-origin=null"]  # it is a file
    with command(tmp_path, *options) as running:
        page = tmp_path / "page.html"
        address = running.websocket("foobar?subscribe-broadcast&publish-broadcast")
        text = SCRIPT.read_text()
        assert text.count(ADDRESS) == 1
        page.write_text(text.replace(ADDRESS, address))
        begun = time.monotonic()
        chromium.get(page.as_uri())
        time.sleep(31)
        assert chromium.execute_script("return ws.readyState") == 1
        received = chromium.execute_script("return received")
        assert set(received) == {"--heartbeat--"}
        beats_at_least = int((time.monotonic() - begun - 1) / 4)
        assert beats_at_least <= len(received) <= beats_at_least + 2
        assert warnings_of(chromium) == ""
        # Six of its own were sent meanwhile, on a channel that it may publish to.
        assert running.health()["hub"]["published"] == 0

        with running.frozen():
            closed = "return ws.readyState >= 2"
            wait_for(chromium, lambda c: bool(c.execute_script(closed)), 21)
            warning = "Closing connection. Reason: Too many missed heartbeats."
            assert warning in warnings_of(chromium)


def test_page_shows_a_live_connection_and_tabs_hear_each_other(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    with command(tmp_path, "--interval=0.5") as running:
        chromium.get(running.page)
        wait_for(chromium, lambda c: state(c) == "open")
        first = chromium.current_window_handle
        chromium.switch_to.new_window("tab")
        chromium.get(running.page)
        wait_for(chromium, lambda c: state(c) == "open" and beats(c) >= 3)
        assert "ms" in chromium.find_element(By.ID, "last").text
        assert len(chromium.find_elements(By.CSS_SELECTOR, "#chart .dot")) >= 3
        say(chromium, "hello <b>from</b> the second tab")
        wait_for(chromium, lambda c: "hello <b>from</b> the second tab" in heard(c))
        chromium.switch_to.window(first)
        wait_for(chromium, lambda c: "hello <b>from</b> the second tab" in heard(c))
        assert warnings_of(chromium) == ""


def test_page_shows_the_text_heartbeats(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    with command(tmp_path, "--interval=0.5", "--heartbeat-message=thump") as running:
        chromium.get(running.page)
        wait_for(chromium, lambda c: text_heartbeats(c) >= 4)
        assert "thump" not in heard(chromium)


def test_page_finds_its_way_back(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    with command(tmp_path, "--interval=0.5") as running:
        chromium.get(running.page)
        wait_for(chromium, lambda c: state(c) == "open" and beats(c) >= 1)
        with running.frozen():
            wait_for(chromium, lambda c: state(c) == "reconnecting")
            assert chromium.find_elements(By.CSS_SELECTOR, "#chart .missed")
        wait_for(chromium, lambda c: state(c) == "open", 20)
        before = beats(chromium)
        wait_for(chromium, lambda c: beats(c) > before)
        port = running.port
        running.end()
        wait_for(chromium, lambda c: state(c) == "reconnecting")
    with command(tmp_path, "--interval=0.5", port=port):
        wait_for(chromium, lambda c: state(c) == "open", 30)


def test_page_has_a_token_or_is_refused(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    options = ["--auth=jwt", f"--jwt-key={file}", "--refuse-by=close"]
    with command(tmp_path, *options) as running:
        chromium.get(running.page)
        wait_for(chromium, lambda chrome: state(chrome) == "refused")
        why = chromium.find_element(By.ID, "state").get_attribute("title")
        assert why == "this server lets nobody in without a credential"
        chromium.get("about:blank")  # another fragment alone would load nothing
        chromium.get(f"{running.page}#token={token()}")
        wait_for(chromium, lambda chrome: state(chrome) == "open")
        wait_for(chromium, lambda chrome: beats(chrome) > 0)
        assert token().partition(".")[0] not in running.log()


def test_page_over_tls_comes_by_http_1_1_and_its_sockets_by_the_native_engine(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    certificate = tmp_path / "both.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with command(tmp_path, "--interval=0.5", f"--tls-cert={certificate}") as running:
        chromium.get(running.page)
        wait_for(chromium, lambda c: state(c) == "open" and beats(c) >= 2)
        entry = "return performance.getEntriesByType('navigation')[0].nextHopProtocol"
        assert chromium.execute_script(entry) == "http/1.1"
        assert _two_sockets(running, chromium)


def _two_sockets(running: Command, chrome: webdriver.Chrome) -> bool:
    script = "return fetch('/healthz').then((answer) => answer.json())"
    connections: int = chrome.execute_script(script)["connections"]
    return connections == 2
