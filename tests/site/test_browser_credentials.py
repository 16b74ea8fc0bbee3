"""The browser's client with functions, and how it comes back to a server that closes with 3000."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from selenium import webdriver

from tests.support import page
from tests.support.browser import chromium, wait_for
from tests.support.http import log, open_scripted, state
from tests.support.page import serving_page
from trio_beat import Connection, Refused, Request, Server

__all__ = ["chromium"]  # a fixture

pytestmark = [pytest.mark.real, pytest.mark.browser]

#: Every pause is as short as it can be.
_SHORTEST = "Math.random = () => 0"
#: A new token for each attempt.
_FRESH = "async () => ['bearer', `token-${window.asked = (window.asked ?? 0) + 1}`]"
#: Pauses end at once.
_NO_PAUSES = """
clients[0].addEventListener("reconnecting", () => {
  setTimeout(() => dispatchEvent(new Event("online")));
});
"""
#: Seconds of the page's clock.
_WAIT_UNTIL = "const [at, done] = arguments; setTimeout(done, at * 1000 - performance.now())"
_PATIENCE = 30


async def drive(chrome: webdriver.Chrome, server: Server, use: Callable[[], None]) -> None:
    """Use the browser in a thread, beginning with a server's page."""

    def begin() -> None:
        chrome.execute_script(_SHORTEST)
        use()

    await page.drive(chrome, server, begin)


def wait_opened(chrome: webdriver.Chrome, count: int) -> None:
    """Wait until a client has been open so many times."""
    wait_for(chrome, lambda c: len(log(c, "open")) == count, _PATIENCE)


async def expire_when_told(connection: Connection) -> None:
    async for _ in connection:
        await connection.aclose(3000, "expired")


async def expire_at_once(connection: Connection) -> None:
    await connection.aclose(3000, "expired")


async def test_comes_back_with_a_fresh_token(chromium: webdriver.Chrome) -> None:
    tokens: list[str] = []

    async def admit(request: Request) -> None:
        scheme, token = request.subprotocols
        assert scheme == "bearer"
        if token in tokens:
            raise Refused(401, "this token was used before")
        tokens.append(token)

    async with serving_page(expire_when_told, admit=admit, subprotocols=["bearer"]) as server:

        def use() -> None:
            url = f"'ws://127.0.0.1:{server.port}/ws/'"
            open_scripted(chromium, url, protocols=_FRESH, interval="0.5")
            # Each of them lives for an interval: there may be more than three.
            for count in range(1, 5):
                wait_opened(chromium, count)
                opened = log(chromium, "open")[-1].at
                chromium.execute_async_script(_WAIT_UNTIL, opened + 0.55)
                chromium.execute_script("clients[0].send('expire')")
            wait_opened(chromium, 5)
            for lost in log(chromium, "reconnecting"):
                assert (lost.detail["code"], lost.detail["reason"]) == (3000, "expired")
            assert log(chromium, "close") == []
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)
    assert tokens == [f"token-{number}" for number in range(1, 6)]


async def test_refusals_that_a_page_can_see_end_it(chromium: webdriver.Chrome) -> None:
    async def refuse(request: Request) -> None:
        status = int(request.path.rpartition("/")[2])
        raise Refused(status, f"this is {status}")

    async with serving_page(expire_at_once, admit=refuse, refuse_by="close") as server:

        def use() -> None:
            url = f"ws://127.0.0.1:{server.port}/ws/"
            urls = [f"() => '{url}401'", f"'{url}401'", f"() => '{url}403'"]
            open_scripted(chromium, *urls, interval="600")
            wait_for(chromium, lambda c: len(log(c, "close")) == len(urls), _PATIENCE)
            for client, attempts in enumerate([4, 1, 1]):
                entries = log(chromium, "open", "reconnecting", "close", client=client)
                expected = [*["open", "reconnecting"] * (attempts - 1), "open", "close"]
                assert [entry.kind for entry in entries] == expected
                status = 403 if client == 2 else 401
                code = 4003 if client == 2 else 3000
                told = {"code": code, "reason": f"this is {status}", "unsent": []}
                assert entries[-1].detail == told
                assert state(chromium, client) == "closed"

        await drive(chromium, server, use)


async def test_a_refusal_that_a_page_cannot_see_is_tried_again(chromium: webdriver.Chrome) -> None:
    async def refuse(request: Request) -> None:
        raise Refused(401, "who are you?")

    async with serving_page(expire_at_once, admit=refuse) as server:

        def use() -> None:
            open_scripted(chromium, f"() => 'ws://127.0.0.1:{server.port}/ws/'")
            chromium.execute_script(_NO_PAUSES)
            wait_for(chromium, lambda c: len(log(c, "reconnecting")) > 4, _PATIENCE)
            assert {entry.detail["code"] for entry in log(chromium, "reconnecting")} == {1006}
            assert log(chromium, "open", "close") == []
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)


async def test_without_a_function_it_comes_back_once_where_it_has_lived(
    chromium: webdriver.Chrome,
) -> None:
    came = 0

    async def expire(connection: Connection) -> None:
        nonlocal came
        came += 1
        await (expire_when_told if came == 1 else expire_at_once)(connection)

    async with serving_page(expire) as server:

        def use() -> None:
            url = f"'ws://127.0.0.1:{server.port}/ws/'"
            open_scripted(chromium, url, interval="1")
            wait_opened(chromium, 1)
            chromium.execute_async_script(_WAIT_UNTIL, log(chromium, "open")[0].at + 1.05)
            # From now on, every connection is too short.
            chromium.execute_script("clients[0].send('expire')")
            wait_for(chromium, lambda c: state(c) == "closed", _PATIENCE)
            kinds = [entry.kind for entry in log(chromium, "open", "reconnecting", "close")]
            assert kinds == ["open", "reconnecting", "open", "close"]

        await drive(chromium, server, use)


async def test_a_function_that_hangs_is_asked_again_and_its_late_answer_ignored(
    chromium: webdriver.Chrome,
) -> None:
    paths: list[str] = []

    async def stay(connection: Connection) -> None:
        paths.append(connection.path)
        await trio.sleep_forever()

    async with serving_page(stay) as server:

        def use() -> None:
            url = f"ws://127.0.0.1:{server.port}/ws/"
            # The first answer never comes within its attempt, the second at once.
            ask = (
                "() => new Promise((resolve, reject) => { const first = !window.late;"
                f" window.late ??= [resolve, reject]; if (!first) resolve('{url}second'); }})"
            )
            # Time enough for the second attempt on a slow machine.
            open_scripted(chromium, ask, interval="1", misses="4")
            assert chromium.execute_script("return [clients[0].url, clients[0].state]") == [
                "",
                "connecting",
            ]
            wait_opened(chromium, 1)
            (lost,) = log(chromium, "reconnecting")
            assert (lost.detail["code"], lost.detail["reason"]) == (1006, "no answer")
            chromium.execute_script(f"late[0]('{url}first')")
            chromium.execute_async_script("setTimeout(arguments[0], 100)")
            assert chromium.execute_script("return clients[0].url") == f"{url}second"
            assert len(log(chromium, "open", "reconnecting", "close")) == 2
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)
    assert paths == ["/ws/second"]


async def test_a_function_that_fails_is_a_failed_attempt(chromium: webdriver.Chrome) -> None:
    async with serving_page(expire_when_told) as server:

        def use() -> None:
            url = f"ws://127.0.0.1:{server.port}/ws/"
            answers = (
                "[() => { throw new Error('no') }, () => Promise.reject(new Error('not now')),"
                " () => undefined, async () => null, () => 'ftp://host/',"
                f" async () => new URL('{url}')]"
            )
            chromium.execute_script(f"window.answers = {answers}")
            open_scripted(chromium, "() => answers.shift()()", protocols="() => undefined")
            chromium.execute_script(_NO_PAUSES)
            wait_for(chromium, lambda c: state(c) == "open", _PATIENCE)
            lost = [entry.detail for entry in log(chromium, "reconnecting")]
            assert [detail["code"] for detail in lost] == [1006] * 5
            *reasons, last = [detail["reason"] for detail in lost]
            assert reasons == [
                "Error: no",
                "Error: not now",
                "TypeError: the URL is undefined",
                "TypeError: the URL is null",
            ]
            assert last.startswith("SyntaxError: ")
            assert chromium.execute_script("return clients[0].url") == url
            chromium.execute_script("clients[0].close()")

        await drive(chromium, server, use)


@pytest.mark.parametrize("late", ["resolve", "reject"])
async def test_a_close_while_a_function_is_asked_ends_it(
    chromium: webdriver.Chrome, late: str
) -> None:
    came: list[str] = []

    async def note(connection: Connection) -> None:
        came.append(connection.path)

    async with serving_page(note) as server:

        def use() -> None:
            url = f"ws://127.0.0.1:{server.port}/ws/"
            chromium.execute_script(
                "window.unhandled = [];"
                "onunhandledrejection = ({ reason }) => unhandled.push(`${reason}`);"
            )
            open_scripted(
                chromium,
                "() => new Promise((resolve, reject) => window.late = { resolve, reject })",
            )
            wait_for(chromium, lambda c: bool(c.execute_script("return 'late' in window")))
            chromium.execute_script("clients[0].close(4000, 'enough')")
            assert state(chromium) == "closed"
            chromium.execute_script(f"late.{late}('{url}')")
            chromium.execute_async_script("setTimeout(arguments[0], 300)")
            (end,) = log(chromium, "open", "reconnecting", "close")
            assert end.kind == "close"
            assert end.detail == {"code": 4000, "reason": "enough", "unsent": []}
            assert chromium.execute_script("return [unhandled, clients[0].url]") == [[], ""]

        await drive(chromium, server, use)
    assert came == []


_AT_ONCE = """
const [done] = arguments;
import("/trio-beat.js").then(({ TrioBeat }) => {
  const asked = [];
  // It may use what the constructor returns.
  const open = new TrioBeat(() => { asked.push(open.state); return "ftp://host/"; });
  const never = new TrioBeat(() => { asked.push("never"); });
  never.close();
  open.addEventListener("reconnecting", ({ detail }) => {
    open.close();
    done([asked, detail.reason.slice(0, 11), open.state, never.state]);
  });
});
"""


async def test_a_function_is_not_called_within_the_constructor(chromium: webdriver.Chrome) -> None:
    def use() -> None:
        expected = [["connecting"], "SyntaxError", "closed", "closed"]
        assert chromium.execute_async_script(_AT_ONCE) == expected

    async with serving_page(expire_at_once) as server:
        await drive(chromium, server, use)
