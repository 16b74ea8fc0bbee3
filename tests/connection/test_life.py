"""The reader waits within bounds (rule 4 of the design), and cleanup completes (rule 7)."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.framing import parsers
from tests.support.harness import INTERVAL, Link, echo, idle, linked, take_all
from trio_beat import ConnectionClosed, EndReason
from trio_beat._connection.connection import Connection
from trio_beat._connection.ending import CANCELLED_TIMEOUT


class TestTheReaderWaitsWithinBounds:
    """Rule 4."""

    async def test_a_peer_feels_that_the_handler_does_not_read(
        self, autojump_clock: MockClock
    ) -> None:
        received = 0
        go_on = trio.Event()

        async def handler(connection: Connection) -> None:
            nonlocal received
            await go_on.wait()
            async for _ in connection:
                received += 1

        async with linked(handler, inbound=2) as link:
            sent = 0
            with trio.move_on_after(1):
                while True:
                    await link.peer.send_frame(Opcode.BINARY, b"x" * 1000)
                    sent += 1
            assert 10 < sent < 1000  # what two socket buffers and one read hold
            assert link.consumer.waiting == 2
            go_on.set()
            await wait_all_tasks_blocked()
            assert sent - 1 <= received <= sent


class TestMessagesThatAreNotFinished:
    @pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
    @pytest.mark.parametrize("opcode", [Opcode.CONT, Opcode.PONG, Opcode.PING])
    async def test_have_a_time_limit(
        self, opcode: Opcode, secure: bool, autojump_clock: MockClock
    ) -> None:
        """Whatever else the peer sends meanwhile."""
        async with (
            linked(secure=secure, message_timeout=30) as link,
            trio.open_nursery() as nursery,
        ):
            await link.peer.send_frame(Opcode.TEXT, b"x" * 1000, fin=False)

            async def close() -> None:
                assert await link.peer.closed() == Close(1013, "message took too long")
                nursery.cancel_scope.cancel()
                await link.peer.aclose()

            nursery.start_soon(close)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while True:
                    await trio.sleep(1)
                    await link.peer.send_frame(opcode, b"x", fin=opcode is not Opcode.CONT)
        assert (await link.ended()).by is EndReason.SLOW
        assert 30 < trio.current_time() <= 31 + 2 * INTERVAL

    async def test_time_in_which_the_handler_is_slow_does_not_count(
        self, autojump_clock: MockClock
    ) -> None:
        async def slow(connection: Connection) -> None:
            async for message in connection:
                got.append(message)
                await trio.sleep(100)

        got: list[str | bytes] = []
        async with linked(slow, inbound=1, message_timeout=30) as link:
            for _ in range(4):
                await link.peer.send_text("x")
            await link.peer.send_frame(Opcode.TEXT, b"la", fin=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.answer)
                await trio.sleep(215)  # it has listened for 15
                await link.peer.send_frame(Opcode.CONT, b"st")
                await trio.sleep(200)
                assert got == [*["x"] * 4, "last"]
                assert link.running
                nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.PONG])
    async def test_one_after_the_other_have_a_time_of_their_own(
        self, opcode: Opcode, autojump_clock: MockClock
    ) -> None:
        """Where every read ends within the next one."""
        async with linked(take_all, message_timeout=10) as link:
            frame = Frame(opcode, b"x" * 100).serialize(mask=True)
            await link.peer.send(frame[:50])
            for _ in range(100):
                await trio.sleep(1)
                await link.peer.send(frame[50:] + frame[:50])
            assert link.running

    async def test_one_that_comes_steadily_may_take_long(self, autojump_clock: MockClock) -> None:
        async with linked(echo, message_timeout=10) as link:
            frame = Frame(Opcode.TEXT, b"x" * 60_000).serialize(mask=True)
            for begin in range(0, len(frame), 1500):
                await link.peer.send(frame[begin : begin + 1500])
                await trio.sleep(1)
            assert await link.peer.text() == "x" * 60_000


class CancelAtStep(trio.abc.Instrument):
    """Cancels a connection just before the n-th step that one of its tasks makes."""

    def __init__(self, link: Link, step: int) -> None:
        self._link = link
        self._left = step
        self.cancelled_at: float | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._left and self._is_ours(task):
            self._left -= 1
            if not self._left:
                self.cancelled_at = trio.current_time()
                self._link.scope.cancel()

    def _is_ours(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and task is not self._link.task:
            nursery = task.parent_nursery
            task = None if nursery is None else nursery.parent_task
        return task is not None


async def conversation(link: Link) -> None:
    """Messages, PINGs, an outbox that fills and empties, a closing handshake."""
    peer = link.peer
    await peer.send_text("x")
    await peer.send_frame(Opcode.PING, b"x")
    await peer.send_frame(Opcode.BINARY, b"x" * 300_000)
    await trio.sleep(1)
    frames = 0
    while frames < 3 and (frame := await peer.frame()) is not None:
        frames += frame.opcode is not Opcode.PING
    await trio.sleep(INTERVAL)
    await peer.send_text("y")
    await trio.sleep(1)
    await peer.send_close(1001)
    await peer.closed()
    await peer.aclose()


async def answering(link: Link) -> None:
    """Wait to be closed, and answer that."""
    if await link.peer.closed() is not None:
        await link.peer.send_frame(Opcode.CLOSE)
        await link.peer.frame()
    await link.peer.aclose()


async def silence(link: Link) -> None:
    """Nothing."""
    await trio.sleep_forever()


async def flooded(connection: Connection) -> None:
    await trio.sleep(1)
    while True:
        connection.send_nowait(b"x" * 50_000)


async def returning(connection: Connection) -> None:
    await trio.sleep(1)
    await connection.send("bye")


async def closing(connection: Connection) -> None:
    await trio.sleep(1)
    await connection.aclose()


class TestCleanupCompletes:
    """Rule 7: cancelled at any step. `linked` checks the seat, the watch and the socket."""

    @pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
    @pytest.mark.parametrize(
        ("handler", "peer", "fewest_steps"),
        [
            (echo, conversation, 15),
            (idle, silence, 5),
            (flooded, answering, 5),
            (flooded, silence, 5),
            (returning, answering, 5),
            (closing, silence, 5),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    async def test_cancelled_at_any_step(
        self,
        handler: Callable[[Connection], Awaitable[None]],
        peer: Callable[[Link], Awaitable[None]],
        fewest_steps: int,
        secure: bool,
        autojump_clock: MockClock,
    ) -> None:
        steps = 0
        while True:
            instrument = await self._cancel_at(steps, handler, peer, secure=secure)
            if steps and instrument.cancelled_at is None:
                break
            steps += 1
        assert steps > fewest_steps

    async def _cancel_at(
        self,
        step: int,
        handler: Callable[[Connection], Awaitable[None]],
        peer: Callable[[Link], Awaitable[None]],
        *,
        secure: bool,
    ) -> CancelAtStep:
        async def run_peer() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await peer(link)

        async with linked(handler, outbox=100_000, secure=secure) as link:
            instrument = CancelAtStep(link, step)
            trio.lowlevel.add_instrument(instrument)
            if step == 0:
                link.scope.cancel()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run_peer)
                    with trio.fail_after(100):
                        await link.ended()
                    nursery.cancel_scope.cancel()
            finally:
                trio.lowlevel.remove_instrument(instrument)
            if instrument.cancelled_at is not None and not secure:
                assert link.ended_at is not None
                assert link.ended_at <= instrument.cancelled_at + CANCELLED_TIMEOUT
            assert link.error is None
            assert sum(link.counters.ended_by.values()) == 1
            with pytest.raises(ConnectionClosed):
                await link.connection.receive()
        return instrument

    async def test_a_record_that_was_begun_is_waited_for_within_a_deadline(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(flooded, outbox=10**7, secure=True) as link:
            await trio.sleep(2)
            link.scope.cancel()
            await link.ended()
            assert link.ended_at is not None
            assert link.ended_at - 2 <= 10


async def _peer_closes(link: Link) -> None:
    await link.peer.send_close()


async def _peer_leaves(link: Link) -> None:
    await link.peer.aclose()


async def _peer_violates_the_protocol(link: Link) -> None:
    await link.peer.send_frame(Opcode.TEXT, b"x")


async def _peer_sends_too_much(link: Link) -> None:
    for _ in range(3):
        await link.peer.send_frame(Opcode.CONT, b"x" * 400_000, fin=False)


async def _peer_falls_silent(link: Link) -> None:
    await trio.lowlevel.checkpoint()


async def _application_closes(link: Link) -> None:
    await link.connection.aclose()


async def _cancelled(link: Link) -> None:
    link.scope.cancel()


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize(
    "end",
    [
        _peer_closes,
        _peer_leaves,
        _peer_violates_the_protocol,
        _peer_sends_too_much,
        _peer_falls_silent,
        _application_closes,
        _cancelled,
    ],
)
async def test_what_was_not_finished_goes_with_the_connection(
    end: Callable[[Link], Awaitable[None]],
    secure: bool,
    autojump_clock: MockClock,
    no_gc: None,
) -> None:
    async with linked(secure=secure) as link:
        await link.peer.send_frame(Opcode.TEXT, b"x" * 100_000, fin=False)
        await wait_all_tasks_blocked()
        [parser] = map(weakref.ref, parsers())
        assert link.reads.unfinished.held == 100_000
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await end(link)
            await link.peer.closed()
        await link.peer.aclose()
        await link.ended()
        assert parser() is None
        assert link.reads.unfinished.held == 0
