"""Connections without a network: how they open, what a server is given, and what is left."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.harness import echo, idle, take_all
from trio_beat import (
    Connection,
    EndReason,
    HandshakeDeclined,
    HandshakeFailed,
    Heartbeat,
    Identity,
    Limits,
    Refused,
    Request,
    ServerUnavailable,
    open_hub,
    serve,
)
from trio_beat.testing import PeerClosed, ServeOptions, cancelled_at, open_pair, open_pairs


class TestOpening:
    async def test_the_handler_has_begun(self, autojump_clock: MockClock) -> None:
        begun = []

        async def handler(connection: Connection) -> None:
            begun.append(connection)
            await take_all(connection)

        headers = [("Cookie", "a=1"), ("X-Two", "1"), ("X-Two", "2")]
        async with open_pair(handler, "/a/b?c=d", headers=headers) as peer:
            assert begun == [peer.connection]
            request = peer.connection.request
            assert request is not None
            assert (request.target, request.peer, request.secure) == ("/a/b?c=d", "local", False)
            assert request.cookies == {"a": "1"}
            assert list(request.headers.get_all("X-Two")) == ["1", "2"]
            assert request.headers["Host"] == "localhost"

    @pytest.mark.parametrize(
        ("spoken", "offered", "agreed"),
        [
            ((), None, None),
            (("a", "b"), None, "a"),
            (("a", "b"), ("b", "c"), "b"),
            (("a",), (), None),
            ((), ("a",), None),
        ],
    )
    async def test_agrees_on_a_subprotocol(
        self,
        spoken: tuple[str, ...],
        offered: tuple[str, ...] | None,
        agreed: str | None,
        autojump_clock: MockClock,
    ) -> None:
        async with open_pair(idle, subprotocols=spoken, offered=offered) as peer:
            assert peer.subprotocol == peer.connection.subprotocol == agreed

    async def test_goes_by_way_of_admit(self, autojump_clock: MockClock) -> None:
        async def admit(request: Request) -> Identity:
            await trio.sleep(1)
            return Identity(user=request.headers["X-User"])

        async with open_pair(idle, headers={"X-User": "eve"}, admit=admit) as peer:
            assert trio.current_time() == 1
            assert peer.connection.identity == Identity(user="eve")

    async def test_a_proxy_may_stand_before_it(self, autojump_clock: MockClock) -> None:
        headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
        async with open_pair(idle, headers=headers, trusted_proxies=["unix"]) as peer:
            assert peer.connection.request is not None
            assert peer.connection.request.secure
            assert peer.connection.peer == "192.0.2.7"

    async def test_that_is_declined_says_why(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def admit(_: Request) -> None:
            raise Refused(401, "log in first", {"WWW-Authenticate": "Cookie"})

        caplog.set_level(logging.DEBUG)
        with pytest.raises(HandshakeDeclined, match="401 Unauthorized: log in first") as caught:
            async with open_pair(idle, "/?s3cret", headers={"Cookie": "s3cret"}, admit=admit):
                raise AssertionError
        assert caught.value.status == 401
        assert caught.value.body == b"log in first\n"
        assert ("www-authenticate", "Cookie") in caught.value.headers
        assert "s3cret" not in caplog.text
        assert "s3cret" not in repr(caught.value)

    async def test_of_a_foreign_page_is_declined(self, autojump_clock: MockClock) -> None:
        foreign = {"Origin": "https://example.com"}
        async with open_pair(idle, headers=foreign, allowed_origins=["https://example.com"]):
            pass
        async with open_pair(idle, headers={"Origin": "http://localhost"}):
            pass
        with pytest.raises(HandshakeDeclined) as caught:
            async with open_pair(idle, headers=foreign):
                raise AssertionError
        assert caught.value.status == 403

    async def test_may_be_declined_by_a_close_code(self, autojump_clock: MockClock) -> None:
        async def admit(_: Request) -> None:
            raise Refused(401, "log in first")

        async with open_pair(idle, admit=admit, refuse_by="close") as peer:
            assert await peer.wait_closed() == (3000, "log in first")
            with pytest.raises(RuntimeError, match="no handler has this connection"):
                _ = peer.connection

    async def test_of_a_server_that_leaves(
        self, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
    ) -> None:
        async def admit(_: Request) -> None:
            raise SystemExit(3)

        with pytest.raises(SystemExit):
            async with open_pair(idle, admit=admit):
                raise AssertionError

    @pytest.mark.parametrize(
        ("arguments", "error", "text"),
        [
            ({"target": "x"}, ValueError, "target must be a text that begins with /"),
            ({"target": 5}, ValueError, "target must be a text that begins with /"),
            ({"target": "/a b"}, ValueError, "percent-encoded"),
            ({"headers": {"Host": "x"}}, ValueError, "header 'Host' is the handshake's own"),
            ({"headers": "x"}, TypeError, "headers is a str"),
            ({"offered": ["a b"]}, ValueError, "subprotocol"),
            ({"heartbeat": 5}, TypeError, "heartbeat is 5"),
            ({"path_prefix": "x"}, ValueError, "path_prefix is 'x'"),
            ({"handler": 5}, TypeError, "handler is 5"),
            ({"handler": None}, ValueError, "a handler or a hub is needed"),
            ({"port": 8000}, TypeError, "port is no option without a network; there are hub, "),
        ],
    )
    async def test_arguments_are_checked(
        self,
        arguments: dict[str, Any],
        error: type[Exception],
        text: str,
        autojump_clock: MockClock,
    ) -> None:
        with pytest.raises(error) as caught:
            async with open_pair(**{"handler": idle, **arguments}):
                raise AssertionError
        assert text in str(caught.value)


def test_options_are_those_of_serve() -> None:
    assert ServeOptions.__annotations__.keys() <= inspect.signature(serve).parameters.keys()


class TestSeveral:
    async def test_meet_at_one_handler(self, autojump_clock: MockClock) -> None:
        room: set[Connection] = set()

        async def chat(connection: Connection) -> None:
            room.add(connection)
            try:
                async for message in connection:
                    for other in room - {connection}:
                        await other.send(message)
            finally:
                room.remove(connection)

        async with open_pairs(chat) as pairs:
            alice, bob = await pairs.connect("/?alice"), await pairs.connect("/?bob")
            assert alice.connection.path == "/?alice"
            assert bob.connection.path == "/?bob"
            await alice.send("hello")
            assert await bob.receive() == "hello"
            await bob.close()
            await wait_all_tasks_blocked()
            assert room == {alice.connection}
            assert pairs.server.statistics().connections == 1
        assert not room
        assert alice.closed == bob.closed == (1000, "")

    async def test_meet_at_a_hub(self, autojump_clock: MockClock) -> None:
        async with open_hub() as hub, open_pairs(hub=hub, path_prefix="/hub/") as pairs:
            one = await pairs.connect("/hub/news?subscribe-broadcast")
            two = await pairs.connect("/hub/news?publish-broadcast")
            await two.send("hello")
            assert await one.receive() == "hello"
            with pytest.raises(RuntimeError, match="no handler has this connection"):
                _ = one.connection
            with pytest.raises(HandshakeDeclined) as caught:
                await pairs.connect("/elsewhere")
            assert caught.value.status == 404
        assert hub.statistics()[:2] == (0, 0)

    async def test_one_that_is_declined_harms_no_other(self, autojump_clock: MockClock) -> None:
        async with open_pairs(echo, limits=Limits(connections=1)) as pairs:
            peer = await pairs.connect()
            with pytest.raises(ServerUnavailable) as caught:
                await pairs.connect()
            assert caught.value.status == 503
            await peer.send("x")
            assert await peer.receive() == "x"

    async def test_a_server_drains(self, autojump_clock: MockClock) -> None:
        async with open_pairs(take_all, grace=4) as pairs:
            one, two = await pairs.connect(), await pairs.connect()
            pairs.server.drain()
            assert (await one.wait_closed()).code == 1001
            assert (await two.wait_closed()).code == 1001
            assert trio.current_time() == 1
            await trio.sleep(10)
            with pytest.raises(RuntimeError, match="the server does not run"):
                await pairs.connect()

    async def test_none_is_opened_later(self, autojump_clock: MockClock) -> None:
        async with open_pairs(take_all) as pairs:
            pass
        with pytest.raises(RuntimeError):
            await pairs.connect()

    async def test_a_handshake_that_a_test_gives_up(self, autojump_clock: MockClock) -> None:
        async def admit(request: Request) -> None:
            if request.path == "/slow":
                await trio.sleep_forever()

        async with open_pairs(echo, admit=admit) as pairs:
            with trio.move_on_after(1) as scope:
                await pairs.connect("/slow")
            assert scope.cancelled_caught
            peer = await pairs.connect("/")
            await peer.send("x")
            assert await peer.receive() == "x"


class TestRaising:
    async def test_what_a_handler_raises_comes_out(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            assert await connection.receive() == "expected"

        with pytest.raises(AssertionError, match="expected") as caught:
            async with open_pair(handler) as peer:
                await peer.send("x")
                await trio.sleep_forever()
        assert caught.value.__cause__ is None

    @pytest.mark.parametrize("grouped", [False, True])
    async def test_in_place_of_the_end_that_the_test_sees(
        self, grouped: bool, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            await connection.receive()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with open_pair(handler) as peer:
                await peer.send("x")
                if grouped:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(peer.receive)
                else:
                    await peer.receive()

    async def test_also_once_the_test_has_left(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                pass
            await trio.sleep(1)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with open_pair(handler):
                pass

    async def test_beside_what_the_test_itself_raises(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError

        with pytest.RaisesGroup(KeyError, ZeroDivisionError, flatten_subgroups=True):
            async with open_pair(handler):
                raise KeyError

    async def test_an_end_that_no_handler_explains_comes_out(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            pass

        with pytest.raises(PeerClosed, match="1000"):
            async with open_pair(handler) as peer:
                await peer.receive()

    async def test_errors_may_end_their_own_connection(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(connection: Connection) -> None:
            raise ZeroDivisionError

        async with open_pair(handler, handler_errors="close") as peer:
            assert await peer.wait_closed() == (1011, "internal error")
        assert "ZeroDivisionError" in caplog.text


class TestLeaving:
    async def test_handlers_may_finish(self, autojump_clock: MockClock) -> None:
        finished = []

        async def handler(connection: Connection) -> None:
            async for _ in connection:
                pass
            await trio.sleep(2)
            finished.append(connection.closed)

        async with open_pairs(handler) as pairs:
            for _ in range(3):
                await pairs.connect()
        assert [str(closed) for closed in finished] == ["peer (1000)"] * 3
        assert trio.current_time() == 2

    @pytest.mark.parametrize("how", ["fall_silent", "stop_reading", "end_stream", "cut"])
    async def test_a_peer_that_takes_no_part_keeps_nobody_waiting(
        self, how: str, autojump_clock: MockClock
    ) -> None:
        async with open_pair(take_all) as peer:
            getattr(peer, how)()
        assert trio.current_time() == 0
        assert peer.connection.closed is not None

    async def test_where_the_test_fails_all_are_cut_off(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                pass
            await trio.sleep(3)

        with pytest.raises(KeyError):
            async with open_pair(handler) as peer:
                raise KeyError
        assert peer.connection.closed is not None
        assert trio.current_time() == 0

    async def test_a_handler_that_opens_a_pair_has_its_own(self, autojump_clock: MockClock) -> None:
        async def outer(connection: Connection) -> None:
            async with open_pair(echo) as inner:
                async for message in connection:
                    await inner.send(message)
                    await connection.send(await inner.receive())

        async with open_pair(outer) as peer:
            await peer.send("x")
            assert await peer.receive() == "x"

    async def test_cancelled_at_any_await_nothing_is_left(self, autojump_clock: MockClock) -> None:
        """The sockets are counted by a fixture of all tests."""
        running = 0

        async def handler(connection: Connection) -> None:
            nonlocal running
            running += 1
            try:
                await echo(connection)
            finally:
                running -= 1

        async def use() -> None:
            async with open_pairs(handler) as pairs:
                one, two = await pairs.connect(), await pairs.connect()
                await one.send("x")
                assert await one.receive() == "x"
                await two.send(b"x" * 1_000_000)
                assert await two.receive() == b"x" * 1_000_000
                two.stop_reading()
                await two.send("x")
                await two.close()
                one.fall_silent()

        step = 0
        task = trio.lowlevel.current_task()
        nurseries = list(task.child_nurseries)  # those of the test itself
        while await cancelled_at(step, use):
            assert running == 0
            assert task.child_nurseries == nurseries
            step += 1
        assert step > 10


@pytest.mark.real
async def test_a_real_clock_will_do() -> None:
    with trio.fail_after(30):
        async with open_pair(echo, heartbeat=Heartbeat(0.05)) as peer:
            while not peer.pings:  # noqa: ASYNC110 - a test of the beats counts them itself
                await trio.sleep(0.01)
            await peer.send("x")
            assert await peer.receive() == "x"
            peer.fall_silent()
            await peer.wait_closed()
            closed = peer.connection.closed
            assert closed is not None
            assert closed.by is EndReason.MISSED_BEATS


async def test_closing_while_it_opens(autojump_clock: MockClock) -> None:
    async def admit(_: Request) -> None:
        await trio.sleep_forever()

    async with open_pairs(idle, admit=admit) as pairs:

        async def connect() -> None:
            with pytest.raises(HandshakeFailed):
                await pairs.connect()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await wait_all_tasks_blocked()
            await pairs.close()
