"""The application over an ASGI server that is played."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.asgi import Played, answer, playing, websocket_scope
from trio_beat import (
    Connection,
    ConnectionClosed,
    EndReason,
    Heartbeat,
    Hub,
    HubClosed,
    Identity,
    Limits,
    Permissions,
    Refused,
    Request,
    open_hub,
)
from trio_beat.asgi import Application, application

BEAT = "--heartbeat--"
INTERVAL = 4.0


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def idle(connection: Connection) -> None:
    await trio.sleep_forever()


def ends(app: Application) -> dict[str, int]:
    """How connections ended so far."""
    return {str(by): count for by, count in app.statistics().ended.items() if count}


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

    async def test_a_failing_handler_is_the_servers(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            raise ZeroDivisionError

        app = application(handler)
        async with app.lifespan():
            played = Played()
            with pytest.raises(ExceptionGroup) as caught:
                await played.run(app)
            assert caught.group_contains(ZeroDivisionError)
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
    """The server's queue never fills up."""

    async def test_a_full_inbox_ends_its_connection(self, autojump_clock: MockClock) -> None:
        app = application(idle, limits=Limits(inbound=2))
        async with app.lifespan(), playing(app) as played:
            with trio.fail_after(1):
                for _ in range(100):
                    await played.says("more")
                closed = await played.next()
            assert closed["code"] == 1013
            assert closed["reason"] == "too many messages wait"
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


class TestRefusals:
    @pytest.mark.parametrize("extension", [True, False])
    async def test_are_answered(self, extension: bool, autojump_clock: MockClock) -> None:
        app = application(open_hub(), allowed_origins=["https://example.com"])
        scope = websocket_scope(headers=[(b"host", b"a"), (b"origin", b"https://evil.example")])
        if not extension:
            scope["extensions"] = None
        async with app.lifespan():
            sent = await answer(app, scope, "websocket.connect")
            assert app.statistics().refused == {403: 1}
        if extension:
            start, body = sent
            assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
            assert (b"content-type", b"text/plain; charset=utf-8") in start["headers"]
            assert body["body"].startswith(b"Origin https://evil.example is not allowed")
        else:
            assert [event["type"] for event in sent] == ["websocket.close"]

    async def test_over_http2_have_no_connection_header(self, autojump_clock: MockClock) -> None:
        app = application(open_hub())
        async with app.lifespan():
            start, _ = await answer(
                app, websocket_scope("/nowhere", http_version="2"), "websocket.connect"
            )
        assert start["status"] == 404
        assert b"connection" not in dict(start["headers"])

    async def test_admit_refuses_by_the_scope(self, autojump_clock: MockClock) -> None:
        async def admit(request: Request) -> Identity:
            assert request.scope is not None
            raise Refused(401, request.scope["path"])

        app = application(open_hub(), admit=admit, permissions=Permissions())
        async with app.lifespan():
            start, body = await answer(app, websocket_scope("/ws/x"), "websocket.connect")
        assert (start["status"], body["body"]) == (401, b"/ws/x\n")

    @pytest.mark.parametrize(("status", "code"), [(401, 3000), (403, 4003)])
    async def test_by_close(self, status: int, code: int, autojump_clock: MockClock) -> None:
        async def admit(request: Request) -> Identity:
            raise Refused(status, "not you")

        app = application(open_hub(), admit=admit, refuse_by="close", subprotocols=["spoken"])
        played = Played(http_version="2", subprotocols=["spoken"])
        async with app.lifespan(), playing(app, played):
            closed = {"type": "websocket.close", "code": code, "reason": "not you"}
            assert await played.next() == closed
            with trio.fail_after(1):
                for _ in range(100):
                    await played.says("late")  # is received and dropped
            assert not played.returned.is_set()
            await played.leaves(code)
            await played.returned.wait()
            assert app.statistics().refused == {status: 1}
            assert app.statistics().accepted == 0

    async def test_by_close_are_those_of_401_and_403(self, autojump_clock: MockClock) -> None:
        app = application(open_hub(), refuse_by="close")
        async with app.lifespan():
            start, _ = await answer(app, websocket_scope("/nowhere"), "websocket.connect")
            assert start["status"] == 404

    async def test_without_a_lifespan_are_500(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = application(open_hub())
        for _ in range(2):
            start, body = await answer(app, websocket_scope(), "websocket.connect")
            assert start["status"] == 500
            assert b"lifespan is not open" in body["body"]
        assert len(caplog.records) == 1
        with pytest.raises(HubClosed, match="lifespan is not open"):
            _ = app.hub
        with pytest.raises(RuntimeError, match="lifespan is not open"):
            app.statistics()

    async def test_of_a_peer_that_has_left_is_no_answer(self, autojump_clock: MockClock) -> None:
        assert await answer(application(echo), websocket_scope(), "websocket.disconnect") == []

    @pytest.mark.parametrize("version", ["1.1", "2"])
    async def test_of_http_is_426(self, version: str) -> None:
        scope = {"type": "http", "http_version": version}
        start, body = await answer(application(echo), scope)
        assert (start["type"], start["status"]) == ("http.response.start", 426)
        assert ((b"upgrade", b"websocket") in start["headers"]) == (version == "1.1")
        assert b"WebSocket" in body["body"]

    async def test_of_an_unknown_scope_is_an_error(self) -> None:
        with pytest.raises(RuntimeError, match="'other' is not served"):
            await answer(application(echo), {"type": "other"})


class TestLifespan:
    async def test_alone_it_opens_the_hub(self, autojump_clock: MockClock) -> None:
        app = application(open_hub())
        put, get = trio.open_memory_channel[dict[str, str]](2)
        sent = []

        async def send(event: Any) -> None:
            sent.append(event["type"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(app, {"type": "lifespan"}, get.receive, send)
            await put.send({"type": "lifespan.startup"})
            await trio.testing.wait_all_tasks_blocked()
            assert app.hub.available
            async with playing(app) as played:
                await put.send({"type": "lifespan.shutdown"})
                closed = await played.next()
                assert (closed["type"], closed["code"]) == ("websocket.close", 1001)
                await played.leaves()
                await played.returned.wait()
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    async def test_says_why_it_does_not_start(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = application("nonsense://user:secret@host")
        (failed,) = await answer(app, {"type": "lifespan"}, "lifespan.startup")
        assert failed["type"] == "lifespan.startup.failed"
        assert failed["message"].startswith("UnknownBackend: no backend for ")
        assert "secret" not in failed["message"]
        assert "secret" not in caplog.text

    async def test_opens_what_opens_a_hub_again(self, autojump_clock: MockClock) -> None:
        async with open_hub() as hub:
            for source in ("memory://", open_hub, partial(open_hub, expire=0), hub):
                app = application(hub=source)
                for _ in range(2):
                    async with app.lifespan(None):
                        assert isinstance(app.hub, Hub)
                        assert (app.hub is hub) == (source is hub)

    async def test_is_open_once(self, autojump_clock: MockClock) -> None:
        app = application(echo)
        async with app.lifespan():
            with pytest.raises(RuntimeError, match="open already"):
                async with app.lifespan():
                    raise AssertionError
            with pytest.raises(HubClosed, match="has no hub"):
                _ = app.hub

    async def test_a_hub_that_fails_ends_its_connections(self, autojump_clock: MockClock) -> None:
        fail = trio.Event()

        async def failing() -> None:
            await fail.wait()
            raise ZeroDivisionError

        @asynccontextmanager
        async def hub() -> AsyncIterator[Hub]:
            async with open_hub() as opened, trio.open_nursery() as nursery:
                nursery.start_soon(failing)
                yield opened
                nursery.cancel_scope.cancel()

        app = application(hub=hub)
        played = Played()
        async with trio.open_nursery() as nursery:
            with pytest.raises(ZeroDivisionError):
                async with app.lifespan():
                    nursery.start_soon(played.run, app)
                    await played.next()
                    fail.set()
                    await trio.sleep_forever()
            closed = await played.next()
            assert (closed["code"], closed["reason"]) == (1012, "hub has ended, connect again")
            await played.returned.wait()
        (start, _) = await answer(app, websocket_scope(), "websocket.connect")
        assert start["status"] == 500

    async def test_what_is_cancelled_says_so(self, autojump_clock: MockClock) -> None:
        app = application(idle)
        async with app.lifespan():
            played = Played()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(played.run, app)
                await played.next()
                nursery.cancel_scope.cancel()
            assert (await played.next())["code"] == 1001
            assert ends(app) == {"shutdown": 1}


class TestBlocks:
    """`Application.connection`."""

    async def test_has_a_connection_until_it_is_left(self, autojump_clock: MockClock) -> None:
        app, played = application(), Played("/any")

        async def endpoint() -> None:
            async with app.connection(played.scope, played.receive, played.send) as connection:
                await connection.send(await connection.receive())

        async with app.lifespan(), trio.open_nursery() as nursery:
            nursery.start_soon(endpoint)
            assert (await played.next())["type"] == "websocket.accept"
            await played.says("hi")
            assert (await played.next())["text"] == "hi"
            assert (await played.next())["code"] == 1000
            await played.leaves()

    async def test_is_cancelled_with_its_connection(self, autojump_clock: MockClock) -> None:
        app, played = application(hub=open_hub()), Played("/any")
        behind: list[bool] = []

        async def endpoint() -> None:
            async with app.connection(played.scope, played.receive, played.send):
                await trio.sleep_forever()
            behind.append(True)

        async with app.lifespan(), trio.open_nursery() as nursery:
            nursery.start_soon(endpoint)
            await played.next()
            await played.leaves()
        assert behind == [True]

    async def test_raises_what_it_raises(self, autojump_clock: MockClock) -> None:
        app, played = application(), Played()
        async with app.lifespan():
            with pytest.raises(ZeroDivisionError):
                async with app.connection(played.scope, played.receive, played.send):
                    raise ZeroDivisionError
        assert [event.get("code") for event in played.sent] == [None, 1011]

    async def test_may_be_cancelled(self, autojump_clock: MockClock) -> None:
        app, played = application(heartbeat=Heartbeat(3600, message=BEAT)), Played()
        async with app.lifespan():
            with trio.move_on_after(1):
                async with app.connection(played.scope, played.receive, played.send):
                    await trio.sleep_forever()
        assert [event.get("code") for event in played.sent] == [None, 1001]

    async def test_raises_a_refusal_that_was_answered(self, autojump_clock: MockClock) -> None:
        async def admit(request: Request) -> Identity:
            raise Refused(403, "not you")

        app, played = application(admit=admit), Played()
        async with app.lifespan():
            with pytest.raises(Refused, match="not you"):
                async with app.connection(played.scope, played.receive, played.send):
                    raise AssertionError
        assert played.sent[0]["status"] == 403

    async def test_a_call_without_handler_and_hub_is_404(self, autojump_clock: MockClock) -> None:
        app = application()
        async with app.lifespan():
            start, _ = await answer(app, websocket_scope(), "websocket.connect")
        assert start["status"] == 404


class TestAsyncio:
    """Another event loop is told that Trio is needed."""

    @pytest.mark.parametrize(
        ("kind", "event"),
        [("lifespan", "lifespan.startup"), ("websocket", "websocket.connect"), ("http", "")],
    )
    def test_refuses_in_one_line(self, kind: str, event: str) -> None:
        scope = {**websocket_scope(), "type": kind}
        sent = asyncio.run(answer(application(echo), scope, event))
        if kind == "lifespan":
            assert [it["type"] for it in sent] == ["lifespan.startup.failed"]
            text = sent[0]["message"]
        else:
            assert sent[0]["status"] == 500
            text = sent[1]["body"].decode().removesuffix("\n")
        assert "hypercorn --worker-class trio" in text
        assert "\n" not in text

    def test_has_no_lifespan(self) -> None:
        async def enter() -> None:
            async with application(echo).lifespan():
                raise AssertionError

        with pytest.raises(RuntimeError, match="runs under Trio"):
            asyncio.run(enter())


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TypeError, {"served": 1}),
        (TypeError, {"hub": 1}),
        (ValueError, {"served": "memory://", "hub": "memory://"}),
        (TypeError, {"served": echo, "admit": 1}),
        (ValueError, {"served": echo, "permissions": Permissions()}),
        (TypeError, {"served": "memory://", "permissions": 1}),
        (ValueError, {"served": echo, "handler_errors": "other"}),
        (ValueError, {"served": echo, "path_prefix": "ws"}),
        (ValueError, {"served": echo, "refuse_by": "silence"}),
        (TypeError, {"served": echo, "heartbeat": 4}),
        (TypeError, {"served": echo, "limits": 4}),
        (ValueError, {"served": echo, "grace": -1}),
        (ValueError, {"served": echo, "allowed_origins": ["a/b"]}),
    ],
)
def test_misuse_is_told(error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error):
        application(**options)


async def test_reasons_are_read_by_handlers(autojump_clock: MockClock) -> None:
    raised = []

    async def handler(connection: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            try:
                connection.send_nowait("x")
            except ConnectionClosed as exc:
                raised.append(exc.closed.by)

    app = application(handler, limits=Limits(inbound=1))
    async with app.lifespan(), playing(app) as played:
        for _ in range(9):
            await played.says("more")
        await played.next()
        await played.leaves()
        await played.returned.wait()
    assert raised == [EndReason.INBOX_FULL]
