"""What a worker tells its supervisor, and what it hears of it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from trio_beat._command.worker import ALIVE, LEAVING, READY, Worker


@pytest.fixture
def channel() -> Iterator[tuple[Worker, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield Worker(2, 3, (), theirs, first=True), ours


async def test_it_tells_each_second_that_its_loop_runs(
    channel: tuple[Worker, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    worker, supervisor = channel
    with trio.move_on_after(4.5):
        await worker.tell_alive()
    worker.tell_ready()
    worker.tell_leaving()
    assert supervisor.recv(100) == ALIVE * 5 + READY + LEAVING


async def test_a_supervisor_that_stands_still_or_is_gone_does_not_hold_it_up(
    channel: tuple[Worker, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    worker, supervisor = channel
    with pytest.raises(BlockingIOError):
        while True:
            worker.channel.send(b"x" * 65536)
    with trio.move_on_after(2.5) as scope:
        await worker.tell_alive()
    supervisor.close()
    with trio.move_on_after(2.5) as gone:
        await worker.tell_alive()
    assert scope.cancelled_caught
    assert gone.cancelled_caught


async def test_it_hears_that_its_supervisor_is_gone(
    channel: tuple[Worker, socket.socket],
) -> None:
    worker, supervisor = channel
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.wait_abandoned)
        await trio.testing.wait_all_tasks_blocked()
        supervisor.close()


def test_control_c_is_its_supervisors(channel: tuple[Worker, socket.socket]) -> None:
    worker, _ = channel
    before = signal.getsignal(signal.SIGINT)
    try:
        obeyed = worker.obeyed()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert set(obeyed) == {signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP}
