"""`url` and `headers` as callables: when they are asked, and what they may give."""

from __future__ import annotations

import re
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from trio_beat import ConnectFailed, ConnectTimeout, Unreachable, connect, reconnecting
from trio_beat._client.destination import Destination

__all__ = ["fake_server"]  # a fixture


def giving(value: Any) -> Callable[[], Awaitable[Any]]:
    async def give() -> Any:
        await trio.lowlevel.checkpoint()
        return value

    return give


def raising(error: BaseException) -> Callable[[], Awaitable[Any]]:
    async def fail() -> Any:
        await trio.lowlevel.checkpoint()
        raise error

    return fail


async def enter(url: Any = URL, **options: Any) -> None:
    async with connect(url, **options):
        pass


class TestAsked:
    async def test_is_sent(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        url = giving("ws://example.com/ws/news?token=fresh")
        async with connect(url, headers=giving({"X-Token": "fresh"})) as connection:
            assert connection.path == "/ws/news?token=fresh"
        lines = fake_server.request.split("\r\n")
        assert lines[0] == "GET /ws/news?token=fresh HTTP/1.1"
        assert "Host: example.com" in lines
        assert "X-Token: fresh" in lines

    async def test_is_asked_at_each_attempt(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        asked: list[str] = []

        async def url() -> str:
            asked.append("url")
            return f"{URL}&attempt={len(asked)}"

        async def headers() -> list[tuple[str, str]]:
            asked.append("headers")
            return [("X-Attempt", str(len(asked)))]

        nursery.start_soon(fake_server.play, answer_pings)
        fake_server.errors = [Unreachable("no route")]
        async with reconnecting(url, headers=headers) as connections:
            assert asked == []
            async for _ in connections:
                break
        assert asked == ["url", "headers"] * 2
        assert "&attempt=3 HTTP/1.1\r\n" in fake_server.request
        assert "\r\nX-Attempt: 4\r\n" in fake_server.request

    async def test_headers_that_are_given_once_are_kept(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        fake_server.errors = [Unreachable("no route")]
        headers = iter([("X-Name", "value")])
        async with reconnecting(giving(URL), headers=headers) as connections:
            async for _ in connections:
                break
        assert "\r\nX-Name: value\r\n" in fake_server.request

    async def test_makes_one_tls_context_for_all_attempts(self) -> None:
        destination = Destination(giving("wss://localhost/"), (), (), None)
        first, second = await destination.address(), await destination.address()
        assert first.ssl_context is not None
        assert first.ssl_context is second.ssl_context

    async def test_may_change_between_secure_and_not(self) -> None:
        urls = iter(["wss://localhost/", "ws://localhost/"])

        async def url() -> str:
            return next(urls)

        destination = Destination(url, (), (), None)
        secure, other = await destination.address(), await destination.address()
        assert (secure.uri.secure, other.uri.secure) == (True, False)
        assert other.ssl_context is None


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"headers": {"Host": "x"}}, "the handshake's own"),
            ({"subprotocols": ["a b"]}, "is not a token"),
            ({"ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "ssl_context is a server's"),
        ],
    )
    def test_that_are_plain_are_checked_at_once(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            connect(giving(URL), **options)

    def test_of_a_plain_url_are_checked_at_once(self) -> None:
        with pytest.raises(ValueError, match="is not the URL of a WebSocket"):
            connect("http://localhost/", headers=giving({}))
        with pytest.raises(ValueError, match="is not secure"):
            connect(URL, headers=giving({}), ssl_context=ssl.create_default_context())

    @pytest.mark.parametrize("client", ["connect", "reconnecting"])
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"url": giving("http://host/?token=s3cret")}, "^'http://host/' is not the URL"),
            ({"url": giving(None)}, "^url is a NoneType; it must be a text$"),
            ({"url": giving(b"ws://host/?s3cret")}, "^url is a bytes; it must be a text$"),
            ({"url": lambda: "ws://host/?s3cret"}, r"^url\(\) gave a str at once; it must be an "),
            ({"headers": giving({"Host": "s3cret"})}, "^header 'Host' is the handshake's own$"),
            ({"headers": giving({"A": "s3cret\n"})}, "^header 'A' or its value cannot be sent"),
            ({"headers": giving(None)}, "^headers is a NoneType; it must be a mapping, or pairs"),
            ({"headers": lambda: {"A": "s3cret"}}, r"^headers\(\) gave a dict at once; it must be"),
            (
                {"url": giving("ws://host/?s3cret"), "ssl_context": ssl.create_default_context()},
                "^ssl_context is given, but 'ws://host/' is not secure",
            ),
        ],
    )
    async def test_that_are_asked_for_are_checked_then(
        self,
        fake_server: FakeServer,
        autojump_clock: MockClock,
        client: str,
        options: dict[str, Any],
        text: str,
    ) -> None:
        options = {"url": URL, **options}
        with pytest.raises((TypeError, ValueError), match=text) as caught:
            if client == "connect":
                await enter(**options)
            else:
                async with reconnecting(**options) as connections:
                    await anext(connections)
        assert not re.search("s3cret", str(caught.value))
        assert fake_server.times == []


class TestTime:
    @pytest.mark.parametrize(
        ("names", "text"),
        [
            (["url"], "url() did not return within 10 s"),
            (["headers"], "headers() did not return within 10 s"),
            (["url", "headers"], "url() and headers() did not return within 10 s"),
        ],
    )
    async def test_is_limited(
        self, fake_server: FakeServer, autojump_clock: MockClock, names: list[str], text: str
    ) -> None:
        with pytest.raises(ConnectTimeout) as caught:
            await enter(**dict.fromkeys(names, trio.sleep_forever))
        assert str(caught.value) == text
        assert trio.current_time() == 10

    async def test_is_that_of_the_whole_attempt(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        async def headers() -> dict[str, str]:
            await trio.sleep(6)
            return {}

        with pytest.raises(ConnectTimeout, match="localhost:80 did not answer within 10 s"):
            await enter(headers=headers)
        assert fake_server.times == [6]
        assert trio.current_time() == 10

    async def test_over_is_a_failed_attempt(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        asked: list[float] = []

        async def url() -> str:
            asked.append(trio.current_time())
            if len(asked) == 1:
                await trio.sleep_forever()
            return URL

        async with reconnecting(url) as connections:
            async for _ in connections:
                break
        assert asked[0] == 0
        assert 11 <= asked[1] <= 14

    async def test_ends_when_the_block_is_cancelled(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        left: list[float] = []

        async def url() -> str:
            try:
                await trio.sleep_forever()
            finally:
                left.append(trio.current_time())
            return URL

        with trio.move_on_after(3) as scope:
            await enter(url)
        assert scope.cancelled_caught
        assert left == [3]

    async def test_ends_when_the_context_is_left(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        async def iterate() -> None:
            with pytest.raises(RuntimeError, match="left meanwhile"):
                await anext(connections)

        async with trio.open_nursery() as outside:
            async with reconnecting(trio.sleep_forever) as connections:
                outside.start_soon(iterate)
                await trio.sleep(1)
        assert trio.current_time() == 1


class TestFailure:
    @pytest.mark.parametrize("name", ["url", "headers"])
    @pytest.mark.parametrize(
        "error",
        [
            ZeroDivisionError("the application's"),
            ConnectFailed("no token"),
            KeyboardInterrupt(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_comes_through(
        self, fake_server: FakeServer, autojump_clock: MockClock, name: str, error: BaseException
    ) -> None:
        with pytest.raises(type(error)) as caught:
            await enter(**{name: raising(error)})
        assert caught.value is error
        assert fake_server.times == []

    async def test_that_is_a_group_comes_through(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        group = ExceptionGroup("the application's", [ZeroDivisionError(), KeyError()])
        with pytest.raises(ExceptionGroup, match="the application's") as caught:
            await enter(raising(group))
        assert caught.value.exceptions == group.exceptions

    async def test_comes_through_an_iteration(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        error = ZeroDivisionError("the application's")
        with pytest.raises(ZeroDivisionError) as caught:
            async with reconnecting(URL, headers=raising(error)) as connections:
                await anext(connections)
        assert caught.value is error

    async def test_to_connect_is_a_failed_attempt(
        self,
        fake_server: FakeServer,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        asked = 0

        async def url() -> str:
            nonlocal asked
            asked += 1
            if asked <= 2:
                raise ConnectFailed("no token\nfrom there")
            return URL

        with caplog.at_level("INFO", "trio_beat.client"):
            async with reconnecting(url) as connections:
                async for _ in connections:
                    break
        assert asked == 3
        (first, _) = (text for text in caplog.messages if "again in" in text)
        assert re.fullmatch(r"no token\\nfrom there; again in [1-4]\.\d s", first)


async def test_a_bound_callable_will_do(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def make(path: str) -> str:
        return f"ws://localhost{path}"

    nursery.start_soon(fake_server.play, answer_pings)
    async with connect(partial(make, "/ws/here")) as connection:
        assert connection.path == "/ws/here"
