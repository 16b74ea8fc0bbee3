"""What a connection over ASGI owned waits for no collector of cycles, however it ended."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import trio
from trio.testing import MockClock

from tests.support.asgi import Played
from tests.support.leftovers import census
from trio_beat import Connection, Heartbeat, open_hub
from trio_beat.asgi import Application, application


async def behave(connection: Connection) -> None:
    """Do as the peer says."""
    async for message in connection:
        match message:
            case "raise":
                raise ZeroDivisionError
            case "return":
                return


async def connect_and_end(app: Application, end: str) -> None:
    played = Played()

    async def run() -> None:
        try:
            await played.run(app)
        except* ZeroDivisionError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        assert (await played.next())["type"] == "websocket.accept"
        await trio.testing.wait_all_tasks_blocked()
        if end == "cancel":
            nursery.cancel_scope.cancel()
        elif end != "silence":
            await played.says(end)
            await played.leaves()
    await trio.testing.wait_all_tasks_blocked()  # what sends and receives has ended


@pytest.mark.parametrize("handles", [True, False], ids=["handler", "hub"])
@pytest.mark.parametrize("end", ["text", "return", "raise", "silence", "cancel"])
async def test_nothing_of_a_connection_is_left(
    end: str, handles: bool, autojump_clock: MockClock
) -> None:
    heartbeat = Heartbeat(4, 3, "beat")
    app = application(behave if handles else open_hub(), heartbeat=heartbeat)
    async with app.lifespan():
        await connect_and_end(app, end)  # what is made once stays
        gc.collect()
        before = census("trio_beat")
        gc.disable()
        try:
            for _ in range(3):
                await connect_and_end(app, end)
            assert census("trio_beat") - before == Counter()
        finally:
            gc.enable()
