"""Identities end: each connection at its own time, and nothing is kept of those that are gone."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.harness import idle, linked
from tests.support.serving import RARELY
from trio_beat import Connection, ConnectionClosed, EndReason, Identity
from trio_beat._connection.expiry import Deadline, Expiry


class Recorder:
    """Notes when it is ended."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def end_nowait(self, by: EndReason, code: int, reason: str) -> None:
        assert (by, code, reason) == (EndReason.EXPIRED, 3000, "identity has expired")
        self.ended.append(trio.current_time())


class Wall:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.ahead = 1e9

    def __call__(self) -> float:
        return self.ahead + trio.current_time()


async def test_each_is_ended_at_its_time(autojump_clock: MockClock) -> None:
    wall = Wall()
    expiry = Expiry(wall)
    start = trio.current_time()
    several = {after: Recorder() for after in (5, 1, 3000, 3, 2.5)}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expiry.run)
        for after, recorder in several.items():
            expiry.add(recorder, wall() + after)
        await trio.sleep(4)
        late = Recorder()
        expiry.add(late, wall() - 1)  # it is over already
        await trio.sleep(5000)
        nursery.cancel_scope.cancel()
    for after, recorder in several.items():
        [ended] = recorder.ended
        assert ended - start == pytest.approx(after, abs=1e-5)
    [ended] = late.ended
    assert ended - start == 4


async def test_one_that_is_let_go_is_not_ended(autojump_clock: MockClock) -> None:
    wall = Wall()
    expiry = Expiry(wall)
    kept, gone = Recorder(), Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expiry.run)
        expiry.add(kept, wall() + 2)
        deadline = expiry.add(gone, wall() + 1)
        expiry.let_go(deadline)
        expiry.let_go(deadline)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert (len(kept.ended), gone.ended) == (1, [])
    assert expiry._heap == []
    assert expiry._gone == 0


async def test_a_wall_clock_that_is_set_is_followed(autojump_clock: MockClock) -> None:
    wall = Wall()
    expiry = Expiry(wall)
    recorder = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expiry.run)
        expiry.add(recorder, wall() + 3600)
        await trio.sleep(1)
        wall.ahead += 3600
        await trio.sleep(60)
        assert len(recorder.ended) == 1
        nursery.cancel_scope.cancel()


async def test_many_at_a_time_let_other_tasks_run(autojump_clock: MockClock) -> None:
    wall = Wall()
    expiry = Expiry(wall)
    several = [Recorder() for _ in range(1000)]
    steps = 0
    async with trio.open_nursery() as nursery:
        for recorder in several:
            expiry.add(recorder, wall())
        nursery.start_soon(expiry.run)
        while not all(recorder.ended for recorder in several):
            await trio.lowlevel.checkpoint()
            steps += 1
        nursery.cancel_scope.cancel()
    assert steps > 10


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=400))
def test_what_was_let_go_does_not_pile_up(steps: list[tuple[bool, int]]) -> None:
    expiry = Expiry(lambda: 0.0)
    held: list[Deadline] = []
    for add, number in steps:
        if add or not held:
            held.append(expiry.add(Recorder(), float(number)))
        else:
            expiry.let_go(held.pop(number % len(held)))
        assert len(expiry._heap) <= 2 * len(held) + 66
        assert sum(it.connection is None for it in expiry._heap) == expiry._gone
    assert sorted(it for it in expiry._heap if it.connection) == sorted(held)


async def test_a_connection_that_ends_lets_go(autojump_clock: MockClock) -> None:
    """`linked` checks it."""
    async with linked(idle, heartbeat=RARELY) as link:
        await wait_all_tasks_blocked()
        link.connection.renew(Identity(user="bob", expires_at=trio.current_time() + 1000))
        await link.connection.aclose()


async def test_it_is_renewed(autojump_clock: MockClock) -> None:
    async with linked(idle, heartbeat=RARELY) as link:
        await wait_all_tasks_blocked()
        connection = link.connection
        assert connection.identity is None
        first = Identity(user="bob", expires_at=trio.current_time() + 2)
        connection.renew(first)  # it was anonymous
        assert connection.identity is first
        await trio.sleep(1.5)
        second = Identity(user="bob", groups=["staff"], expires_at=trio.current_time() + 4)
        connection.renew(second)
        assert connection.identity is second
        await trio.sleep(3.5)
        assert connection.closed is None
        connection.renew(Identity(user="bob"))
        await trio.sleep(5)
        assert connection.closed is None


@pytest.mark.parametrize("other", [Identity(user="eve"), Identity(session="k3y"), Identity()])
async def test_another_user_ends_it(other: Identity, autojump_clock: MockClock) -> None:
    async with linked(idle, heartbeat=RARELY) as link:
        await wait_all_tasks_blocked()
        link.connection.renew(Identity(user="bob"))
        link.connection.renew(other)
        closed = link.connection.closed
        assert closed is not None
        assert tuple(closed) == (EndReason.EXPIRED, 3000, "identity of another user")
        assert link.connection.identity == Identity(user="bob")
        with pytest.raises(ConnectionClosed):
            link.connection.renew(Identity(user="bob"))


async def test_what_is_no_identity_is_refused(autojump_clock: MockClock) -> None:
    async with linked(idle, heartbeat=RARELY) as link:
        await wait_all_tasks_blocked()
        with pytest.raises(TypeError, match="it must be an Identity"):
            link.connection.renew("bob")  # type: ignore[arg-type]


async def test_a_handler_is_cancelled_when_it_ends(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    async def handler(connection: Connection) -> None:
        connection.renew(Identity(user="bob", expires_at=trio.current_time() + 7))
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with linked(handler) as link:
        begun = trio.current_time()
        assert (await link.answer_close()) is not None
        assert ended == [begun + 7]
