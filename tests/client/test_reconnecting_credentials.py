"""`reconnecting`: how often it comes back to a server that does not accept its credentials."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from tests.support.chance import Chance
from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from trio_beat import (
    Closed,
    ConnectionClosed,
    EndReason,
    HandshakeRefused,
    Heartbeat,
    Unreachable,
    reconnecting,
)
from trio_beat._client import reconnecting as module
from trio_beat._client.backoff import Backoff

__all__ = ["fake_server"]  # a fixture

INTERVAL = 5.0
Play = Callable[[FakeServer], Awaitable[object]]


@pytest.fixture(autouse=True)
def _longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are as long as they may be: 4, 8, 16, 30 seconds."""
    monkeypatch.setattr(module, "Backoff", partial(Backoff, chance=Chance(1)))


async def refuse(server: FakeServer) -> None:
    await server.refuse(401, "who?")


async def expire(server: FakeServer, *, after: float = 0.0, code: int = 3000) -> None:
    peer = await server.accept()
    await trio.sleep(after)
    await peer.send_close(code)
    await peer.closed()
    await peer.aclose()


async def admit(server: FakeServer) -> None:
    await answer_pings(await server.accept())


async def use(
    server: FakeServer, nursery: trio.Nursery, plays: list[Play], *, fresh: bool = True
) -> list[str]:
    """Iterate until the last play; gives the tokens of the connections that were opened."""
    tokens: list[str] = []

    async def headers() -> dict[str, str]:
        return {"X-Token": str(len(server.times) + 1)}

    async def serve() -> None:
        for play in plays:
            await play(server)

    nursery.start_soon(serve)
    given = headers if fresh else {"X-Token": "stale"}
    async with reconnecting(URL, headers=given, heartbeat=Heartbeat(INTERVAL)) as connections:
        async for connection in connections:
            tokens.append(server.request.partition("X-Token: ")[2].partition("\r\n")[0])
            if len(server.times) == len(plays):
                break
            async for _ in connection:
                pass
    return tokens


later: Play = partial(expire, after=INTERVAL)


@pytest.mark.parametrize("play", [refuse, expire], ids=["401", "3000"])
async def test_comes_back_three_times_with_fresh_ones(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, play: Play
) -> None:
    tokens = await use(fake_server, nursery, [play, play, play, admit])
    assert tokens[-1] == "4"
    assert fake_server.times == [0, 4, 12, 28]


async def test_a_fourth_refusal_is_final(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        await use(fake_server, nursery, [refuse] * 5)
    assert caught.value.status == 401
    assert fake_server.times == [0, 4, 12, 28]


async def test_a_fourth_early_end_is_final(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    with pytest.raises(ConnectionClosed) as caught:
        await use(fake_server, nursery, [expire] * 5)
    assert caught.value.closed == Closed(EndReason.PEER, 3000, "")
    assert fake_server.times == [0, 4, 12, 28]


async def test_both_count_together(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    with pytest.raises(ConnectionClosed):
        await use(fake_server, nursery, [refuse, expire, refuse, expire, admit])
    assert len(fake_server.times) == 4


async def test_what_else_fails_in_between_does_not_count(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    early = partial(expire, code=1001)
    fake_server.errors = [Unreachable("no route")]
    with pytest.raises(HandshakeRefused):
        await use(fake_server, nursery, [refuse, refuse, early, early, refuse, refuse, admit])
    assert len(fake_server.times) == 1 + 6


async def test_a_connection_that_lived_for_an_interval_begins_anew(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    tokens = await use(
        fake_server, nursery, [*[refuse] * 3, later, *[refuse] * 3, later, later, admit]
    )
    assert tokens == ["4", "8", "9", "10"]
    # The pauses, too.
    assert fake_server.times[3:5] == [28, 28 + INTERVAL + 4]


async def test_without_fresh_ones_an_early_end_is_final(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    with pytest.raises(ConnectionClosed) as caught:
        await use(fake_server, nursery, [expire, admit], fresh=False)
    assert caught.value.closed.code == 3000
    assert fake_server.times == [0]


async def test_without_fresh_ones_a_later_end_is_followed_by_one_attempt(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        await use(fake_server, nursery, [later, refuse, admit], fresh=False)
    assert caught.value.status == 401
    assert fake_server.times == [0, INTERVAL + 4]


@pytest.mark.parametrize(
    "play",
    [lambda server: server.refuse(403), partial(expire, code=4003)],
    ids=["403", "4003"],
)
async def test_what_forbids_is_final_with_fresh_ones_too(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, play: Play
) -> None:
    with pytest.raises((HandshakeRefused, ConnectionClosed)):
        await use(fake_server, nursery, [play, admit])
    assert fake_server.times == [0]
