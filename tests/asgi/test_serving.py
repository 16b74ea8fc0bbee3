"""The application over an ASGI server that is played."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.asgi import BEAT, INTERVAL, Played, ends, playing
from tests.support.harness import echo, idle
from trio_beat import (
    Connection,
    EndReason,
    Heartbeat,
    Limits,
    open_hub,
)
from trio_beat.asgi import application


async def _slowly(connection: Connection) -> None:
    async for _ in connection:
        await trio.sleep(0.9)


async def _say_all(played: Played, count: int) -> None:
    for number in range(count):
        await played.says(str(number))


async def _closed(played: Played) -> dict[str, Any]:
    """The close that a connection is told, behind heartbeats."""
    while (event := await played.next())["type"] != "websocket.close":
        assert event["text"] == BEAT
    return event


class TestConnections:
    async def test_a_handler_has_messages_and_request(self, autojump_clock: MockClock) -> None:
        seen: list[object] = []

        async def handler(connection: Connection) -> None:
            seen.append((connection.path, connection.subprotocol, connection.peer))
            request = connection.request
            assert request is not None
            seen.append(request.scope)
            await echo(connection)

        app = application(handler, subprotocols=["b", "a"])
        played = Played("/any?x", subprotocols=["a", "b"])
        async with app.lifespan(), trio.open_nursery() as nursery:
            nursery.start_soon(played.run, app)
            assert await played.next() == {"type": "websocket.accept", "subprotocol": "b"}
            await played.says("text")
            await played.says(b"bytes")
            assert await played.next() == {"type": "websocket.send", "text": "text"}
            assert await played.next() == {"type": "websocket.send", "bytes": b"bytes"}
            await played.leaves()
            await played.returned.wait()
            assert ends(app) == {"peer": 1}
        assert seen == [("/any?x", "b", "192.0.2.1:5"), played.scope]

    async def test_a_hub_subscribes_and_publishes(self, autojump_clock: MockClock) -> None:
        app = application(open_hub())
        target = "/ws/news?subscribe-broadcast&publish-broadcast"
        async with app.lifespan(), playing(app, Played(target)) as one, playing(app) as two:
            await one.says("hello")
            assert (await two.next())["text"] == "hello"
            await app.hub.publish("broadcast:news", "from here")
            for played in (one, two):
                assert (await played.next())["text"] == "from here"

    async def test_a_message_is_told_its_limit(self, autojump_clock: MockClock) -> None:
        app = application(echo, limits=Limits(message_size=3))
        async with app.lifespan(), playing(app) as played:
            await played.says("éé")
            closed = await played.next()
            assert (closed["type"], closed["code"]) == ("websocket.close", 1009)
            await played.leaves()
            await played.returned.wait()
            assert ends(app) == {"too-big": 1}

    async def test_the_end_is_a_close_and_a_wait(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            await connection.send("last")

        app = application(handler)
        async with app.lifespan(), playing(app) as played:
            assert (await played.next())["text"] == "last"
            closed = {"type": "websocket.close", "code": 1000, "reason": ""}
            assert await played.next() == closed
            await trio.testing.wait_all_tasks_blocked()
            assert not played.returned.is_set()
            await played.leaves()
            await played.returned.wait()
            assert not played.sent

    @pytest.mark.parametrize("group", [True, False])
    async def test_a_failing_handler_is_the_servers(
        self, group: bool, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        async def handler(connection: Connection) -> None:
            if group:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail)
            await fail()

        app = application(handler)
        async with app.lifespan():
            played = Played()
            with pytest.raises(ExceptionGroup) as caught:
                await played.run(app)
            assert caught.group_contains(ZeroDivisionError)
            assert ends(app) == {"handler": 1}
            assert not [it for it in caplog.records if it.levelno >= logging.WARNING]
            assert [event.get("code") for event in played.sent] == [None, 1011]

    async def test_a_server_that_fails_ends_one_connection(self, autojump_clock: MockClock) -> None:
        app = application(idle, heartbeat=Heartbeat(INTERVAL, message=BEAT))
        async with app.lifespan(), playing(app) as played:

            async def fail(event: Any) -> None:
                raise RuntimeError("secret")

            played.send = fail  # type: ignore[method-assign]
            broken = Played()
            broken.send = fail  # type: ignore[method-assign]
            await broken.run(app)
            assert ends(app) == {"lost": 1}
            assert not played.returned.is_set()


class TestBeats:
    async def test_a_silent_peer_is_dead_in_its_time(self, autojump_clock: MockClock) -> None:
        app = application(idle, heartbeat=Heartbeat(INTERVAL, 2, BEAT))
        async with app.lifespan(), playing(app) as played:
            begin = trio.current_time()
            while (event := await played.next())["type"] != "websocket.close":
                assert event == {"type": "websocket.send", "text": BEAT}
            assert 2 * INTERVAL <= trio.current_time() - begin <= 3 * INTERVAL
            assert event["code"] == 1001
            assert ends(app) == {"missed-beats": 1}
            await played.leaves()
            await played.returned.wait()

    async def test_its_answer_proves_life(self, autojump_clock: MockClock) -> None:
        got = []

        async def handler(connection: Connection) -> None:
            got.extend([message async for message in connection])

        app = application(handler, heartbeat=Heartbeat(INTERVAL, 2, BEAT))
        async with app.lifespan(), playing(app) as played:
            for _ in range(20):
                assert (await played.next())["text"] == BEAT
                await played.says(BEAT)
            assert not ends(app)
        assert got == []

    async def test_without_a_text_nobody_is_judged(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = application(idle, heartbeat=Heartbeat(INTERVAL, 1))
        for _ in range(2):
            async with app.lifespan(), playing(app) as played:
                await trio.sleep(100 * INTERVAL)
                assert not played.sent
                assert not ends(app)
        warnings = [it.message for it in caplog.records if it.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "silent peer cannot be noticed" in warnings[0]

    async def test_a_send_that_hangs_frees_channels_in_time(
        self, autojump_clock: MockClock
    ) -> None:
        app = application(open_hub(), heartbeat=Heartbeat(INTERVAL, 2, BEAT))
        async with app.lifespan():
            async with playing(app) as played:
                played.stuck = trio.Event()
                await trio.sleep(3 * INTERVAL)
                assert ends(app) == {"missed-beats": 1}
                assert app.statistics().connections == 0
                assert app.hub.statistics().channels == 0
                # The application returns though the server holds its last event.
                await played.returned.wait()
                played.stuck.set()

    async def test_a_peer_that_takes_much_is_not_dead(self, autojump_clock: MockClock) -> None:
        app = application(open_hub(), heartbeat=Heartbeat(INTERVAL, 1, BEAT))
        async with app.lifespan(), playing(app) as played:
            for _ in range(10):
                played.stuck = trio.Event()
                for _ in range(10):
                    await app.hub.publish("broadcast:news", "x" * 1000)
                await trio.sleep(INTERVAL * 0.9)
                played.stuck.set()
                played.stuck = None
                await trio.testing.wait_all_tasks_blocked()
                played.sent.clear()
                await played.says(BEAT)
            assert not ends(app)

    async def test_a_dead_peer_of_a_busy_handler_is_noticed(
        self, autojump_clock: MockClock
    ) -> None:
        app = application(idle, heartbeat=Heartbeat(INTERVAL, 2, BEAT), limits=Limits(inbound=1))
        async with app.lifespan(), playing(app) as played:
            for message in ("one", "two"):  # the reader waits with the second
                await played.says(message)
            await trio.sleep(5 * INTERVAL)
            assert ends(app) == {"lost": 1}


class TestReading:
    """The server's queue is not full for long."""

    @pytest.mark.parametrize(("version", "seconds"), [("1.1", 4), ("2", 0.1)])
    async def test_a_full_inbox_ends_its_connection(
        self, version: str, seconds: float, autojump_clock: MockClock
    ) -> None:
        # What is not received for so long is no silence.
        app = application(idle, heartbeat=Heartbeat(0.1, 3, BEAT), limits=Limits(inbound=2))
        async with app.lifespan(), playing(app, Played(http_version=version)) as played:
            with trio.fail_after(seconds + 0.01):
                for _ in range(100):
                    await played.says("more")
            closed = await _closed(played)
            assert closed["code"] == 1013
            assert closed["reason"] == "too many messages wait"
            await played.leaves()
            await played.returned.wait()
            assert ends(app) == {"inbox-full": 1}

    @pytest.mark.parametrize("served", ["handler", "hub"])
    @pytest.mark.parametrize("version", ["1.1", "2"])
    async def test_a_burst_does_not_end_the_connection_of_a_prompt_application(
        self, version: str, served: str, autojump_clock: MockClock
    ) -> None:
        handler_or_hub = echo if served == "handler" else open_hub()
        app = application(handler_or_hub, limits=Limits(inbound=2))
        target = "/ws/news?subscribe-broadcast&publish-broadcast&echo"
        async with (
            app.lifespan(),
            playing(app, Played(target, http_version=version)) as played,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_say_all, played, 200)
            got = [(await played.next())["text"] for _ in range(200)]
            assert got == [str(number) for number in range(200)]
            assert not ends(app)

    async def test_over_http1_a_handler_that_goes_on_holds_its_peer_back(
        self, autojump_clock: MockClock
    ) -> None:
        app = application(_slowly, heartbeat=Heartbeat(0.5, 3, BEAT), limits=Limits(inbound=2))
        async with app.lifespan(), playing(app) as played:
            await _say_all(played, 50)
            assert not ends(app)
            await played.leaves()
            await played.returned.wait()
            assert ends(app) == {"peer": 1}

    async def test_over_http2_neighbours_wait_for_no_slow_handler(
        self, autojump_clock: MockClock
    ) -> None:
        app = application(_slowly, limits=Limits(inbound=2))
        async with app.lifespan(), playing(app, Played(http_version="2")) as played:
            await played.says("one")
            await trio.sleep(10)  # it has taken all, and gets its time again
            begun = trio.current_time()
            await _say_all(played, 50)
            assert trio.current_time() - begun <= 0.1
            assert (await _closed(played))["code"] == 1013
            await played.leaves()
            await played.returned.wait()
            assert ends(app) == {"inbox-full": 1}

    async def test_what_waits_within_limits_is_received(self, autojump_clock: MockClock) -> None:
        go, got = trio.Event(), []

        async def handler(connection: Connection) -> None:
            await go.wait()
            got.extend([await connection.receive() for _ in range(5)])

        app = application(handler, limits=Limits(inbound=2))
        async with app.lifespan(), playing(app) as played:
            for number in range(5):
                await played.says(str(number))
                await trio.testing.wait_all_tasks_blocked()
            go.set()
            assert (await played.next())["code"] == 1000
        assert got == list("01234")

    async def test_it_goes_on_after_the_end(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            return

        app = application(handler)
        async with app.lifespan(), playing(app) as played:
            with trio.fail_after(1):
                for _ in range(100):
                    await played.says("late")

    @pytest.mark.parametrize("version", ["1.1", "2"])
    async def test_a_call_over_http2_lasts_as_long_as_its_stream(
        self, version: str, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            await connection.receive()

        app = application(handler)
        async with app.lifespan(), playing(app, Played(http_version=version)) as played:
            await played.says("hello")
            await trio.sleep(100)
            assert played.returned.is_set() == (version == "1.1")
            assert app.statistics().connections == 0
            await played.leaves()
            await played.returned.wait()

    async def test_a_call_over_http2_of_which_nothing_came_ends(
        self, autojump_clock: MockClock
    ) -> None:
        """Hypercorn tells nothing of a stream on which DATA came before the handshake's answer."""
        app = application(open_hub(), heartbeat=Heartbeat(4, 3, "beat"))
        async with app.lifespan(), playing(app, Played(http_version="2")) as played:
            await trio.sleep(20)
            assert app.statistics().ended[EndReason.MISSED_BEATS] == 1
            assert not played.returned.is_set()  # a late close may still come
            with trio.fail_after(60):
                await played.returned.wait()

    async def test_what_comes_late_makes_a_call_over_http2_last(
        self, autojump_clock: MockClock
    ) -> None:
        app = application(open_hub(), heartbeat=Heartbeat(4, 3, "beat"))
        async with app.lifespan(), playing(app, Played(http_version="2")) as played:
            await trio.sleep(20)
            await played.says("late")
            await trio.sleep(100)
            assert not played.returned.is_set()
            await played.leaves()
            await played.returned.wait()
