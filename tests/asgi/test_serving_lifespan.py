"""The lifespan of an ASGI application, and blocks that have a connection."""

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

from tests.support.asgi import BEAT, Played, answer, ends, playing, websocket_scope
from tests.support.harness import echo, idle
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
from trio_beat.asgi import application


@asynccontextmanager
async def _failing(fail: trio.Event) -> AsyncIterator[Hub]:
    """A hub that fails once it is told to."""

    async def wait() -> None:
        await fail.wait()
        raise ZeroDivisionError

    async with open_hub() as opened, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        yield opened
        nursery.cancel_scope.cancel()


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
        (record,) = caplog.records
        assert record.message == f"the application did not start: {failed['message']}"
        assert record.exc_info is None

    async def test_tells_a_server_that_raises_no_more(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As Hypercorn does, which shows what its exception is raised behind."""

        def broken() -> Any:
            raise ZeroDivisionError("secret")

        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(event: Any) -> None:
            raise EOFError(event["type"])

        with pytest.raises(EOFError, match=r"startup\.failed") as caught:
            await application(hub=broken)({"type": "lifespan"}, receive, send)
        assert caught.value.__context__ is None
        (record,) = caplog.records
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError

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

    async def test_a_hub_that_fails_is_told_though_a_send_hangs(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        fail = trio.Event()
        app, played = application(hub=partial(_failing, fail)), Played()
        async with trio.open_nursery() as nursery:

            async def live() -> None:
                with pytest.raises(ZeroDivisionError):
                    async with app.lifespan():
                        nursery.start_soon(played.run, app)
                        await played.next()
                        played.stuck = trio.Event()
                        await app.hub.publish("broadcast:news", "hello")
                        fail.set()
                        await trio.sleep_forever()
                assert played.stuck is not None
                assert played.stuck.is_set()

            nursery.start_soon(live)
            await trio.sleep(100)
            assert played.stuck is not None
            played.stuck.set()
            (record,) = [it for it in caplog.records if it.levelno == logging.ERROR]
            assert "ends once the server has given up what it sends" in record.message
            assert record.exc_info is not None

    async def test_a_hub_that_fails_ends_its_connections(self, autojump_clock: MockClock) -> None:
        fail = trio.Event()
        app = application(hub=partial(_failing, fail))
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

    async def test_an_endpoint_that_has_accepted_is_told(self, autojump_clock: MockClock) -> None:
        app, played = application(), Played()
        await played.receive()
        await played.says("hi")
        async with app.lifespan():
            with pytest.raises(RuntimeError, match=r"do not call its accept\(\)"):
                async with app.connection(played.scope, played.receive, played.send):
                    raise AssertionError
        assert not played.sent

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
    def test_refuses_in_one_line(
        self, kind: str, event: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        scope = {**websocket_scope(), "type": kind}
        sent = asyncio.run(answer(application(echo), scope, event))
        (record,) = [it for it in caplog.records if it.name.startswith("trio_beat")]
        assert "hypercorn --worker-class trio" in record.message
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
