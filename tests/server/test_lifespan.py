"""An application hears of the server's start and end, by ASGI lifespan 2.0."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.support.serving import ask, serving
from trio_beat import StartupFailed, open_hub, serve

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


class Life:
    """A Starlette application that notes what happens to it.

    Args:
        before: called, with the seconds that it takes, before it has started.
        behind: the same while it shuts down.
    """

    def __init__(self, before: Any = trio.sleep, behind: Any = trio.sleep) -> None:
        self.notes: list[str] = []
        self._before, self._behind = before, behind
        self.app = Starlette(routes=[Route("/", self._answer)], lifespan=self._life)

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[dict[str, Any]]:
        try:
            await self._before(3)
            self.notes.append("started")
            yield {"list": [], "number": 1}
            self.notes.append("stopping")
            await self._behind(3)
            self.notes.append("stopped")
        except trio.Cancelled:
            self.notes.append("cancelled")
            raise

    async def _answer(self, request: Request) -> JSONResponse:
        request.state.list.append(request.state.number)
        request.state.number += 1
        return JSONResponse(request.state.list)


async def fail(seconds: float) -> None:
    await trio.sleep(seconds)
    raise ZeroDivisionError("no database")


async def hang(seconds: float) -> None:
    await trio.sleep_forever()


async def test_each_request_gets_a_shallow_copy_of_the_state(
    patient_clock: trio.testing.MockClock,
) -> None:
    life = Life()
    async with serving(app=life.app) as server:
        # It had started when the server was said to listen.
        assert (trio.current_time(), life.notes) == (3, ["started"])
        answers = [await ask(server.port, GET) for _ in range(2)]
        assert [json.loads(answer.partition(b"\r\n\r\n")[2]) for answer in answers] == [[1], [1, 1]]
    # Cancelled, it hears nothing more.
    assert life.notes == ["started", "cancelled"]


async def test_shutdown_comes_behind_the_last_peer(patient_clock: trio.testing.MockClock) -> None:
    life = Life()
    async with serving(app=life.app) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(GET[:-2])
        await trio.sleep(1)
        server.drain()
        while life.notes != ["started", "stopping", "stopped"]:
            assert "cancelled" not in life.notes
            await trio.sleep(0.25)
        assert server.statistics().pending == 0
        await stream.aclose()


@pytest.mark.parametrize("grace", [0.0, 10.0])
async def test_shutdown_that_hangs_is_cut_off(
    grace: float, patient_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(behind=hang)
    async with open_hub() as hub:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(_serve, hub, life.app, grace)
                begun = trio.current_time()
                server.drain()
    assert trio.current_time() - begun == max(grace, 1.0)
    assert life.notes == ["started", "stopping", "cancelled"]
    assert "did not shut down in time" in caplog.text


async def _serve(hub: Any, app: Any, grace: float, task_status: Any) -> None:
    await serve(None, 0, hub=hub, app=app, grace=grace, task_status=task_status)


async def test_shutdown_that_fails_is_an_error_in_the_log(
    patient_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        server = await nursery.start(_serve, hub, Life(behind=fail).app, 10.0)
        server.drain()
    assert "failed to shut down" in caplog.text
    assert "no database" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_failure_to_start_is_one_of_the_server(
    patient_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with open_hub() as hub:
        with pytest.raises(StartupFailed, match="did not start: ZeroDivisionError: no") as caught:
            await serve(None, port, hub=hub, app=Life(before=fail).app)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    # It does not listen any more, and nothing else is said.
    with pytest.raises(OSError, match=r"refused|failed"):
        await trio.open_tcp_stream("127.0.0.1", port)
    assert caplog.records == []


async def test_start_that_hangs_is_given_up(patient_clock: trio.testing.MockClock) -> None:
    life = Life(before=hang)
    async with open_hub() as hub:
        with pytest.raises(StartupFailed, match="within 60 s"):
            await serve(None, 0, hub=hub, app=life.app)
    assert trio.current_time() == 60
    assert life.notes == ["cancelled"]


@pytest.mark.parametrize("seconds", [1, 3, 5])
async def test_cancelled_anywhere_it_leaves_nothing(
    seconds: float, patient_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life()
    async with open_hub() as hub:
        with trio.move_on_after(seconds):
            await serve(None, 0, hub=hub, app=life.app)
    assert life.notes[-1] == "cancelled"
    assert trio.current_time() == seconds
    assert caplog.records == []


async def old(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await answer(send)


async def careless(scope: Any, receive: Any, send: Any) -> None:
    """It does not look at what it gets."""
    await receive()
    await answer(send)


async def silent(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        await answer(send)


async def brief(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
    else:
        await answer(send)


async def broken(scope: Any, receive: Any, send: Any) -> None:
    await brief(scope, receive, send)
    if scope["type"] == "lifespan":
        raise ZeroDivisionError


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answer"})


@pytest.mark.parametrize(
    ("app", "level"),
    [
        (old, logging.WARNING),
        (careless, logging.WARNING),
        (silent, None),
        (brief, None),
        (broken, logging.ERROR),
    ],
)
async def test_an_application_whose_lifespan_ends_is_served_all_the_same(
    app: Any,
    level: int | None,
    patient_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        server = await nursery.start(_serve, hub, app, 10.0)
        assert b"answer" in await ask(server.port, GET)
        begun = trio.current_time()
        server.drain()
    assert trio.current_time() == begun
    assert {record.levelno for record in caplog.records} == ({level} if level else set())
