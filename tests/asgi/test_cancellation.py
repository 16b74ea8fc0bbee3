"""A call, or an endpoint's block, that is cancelled at any of its steps leaves nothing behind."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.asgi import Played
from trio_beat import Connection, Heartbeat, Identity, Limits, Refused, Request, open_hub
from trio_beat.asgi import Application, application

#: More than a connection has that opens, takes a message and ends.
STEPS = 40


async def admit(request: Request) -> Identity:
    await trio.lowlevel.checkpoint()
    if request.path == "/refused":
        raise Refused(403, "no")
    return Identity(user="alice")


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def block(app: Application, played: Played) -> None:
    with suppress(Refused):
        async with app.connection(played.scope, played.receive, played.send) as connection:
            await echo(connection)


@pytest.mark.parametrize("refuse_by", ["status", "close"])
@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("how", ["hub", "handler", "block", "refused"])
async def test_at_each_step(
    how: str, version: str, refuse_by: str, autojump_clock: MockClock
) -> None:
    limits = Limits(connections=1, connections_per_user=1)
    app = application(
        echo if how == "handler" else open_hub(),
        admit=admit,
        heartbeat=Heartbeat(4, 3, "beat"),
        limits=limits,
        refuse_by=refuse_by,  # type: ignore[arg-type]
    )
    async with app.lifespan():
        for steps in range(STEPS):
            target = "/refused" if how == "refused" else "/ws/news?subscribe-broadcast"
            played = Played(target, http_version=version)
            async with trio.open_nursery() as nursery:
                if how in ("block", "refused"):
                    nursery.start_soon(block, app, played)
                else:
                    nursery.start_soon(played.run, app)
                await played.says("hello")
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await wait_all_tasks_blocked()
            now = app.statistics()
            assert now.connections == 0
            assert not any(now.limited.values())  # no place was kept
            if how != "handler":
                assert app.hub.statistics().channels <= 1  # the hub keeps a last message
                assert app.hub.statistics().subscriptions == 0
        begun = trio.current_time()
    assert trio.current_time() - begun < 1  # no call is waited for
