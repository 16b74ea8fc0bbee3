"""How connections end: rule 8 of the design - every end has one reason."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.harness import FIRST_BEAT, INTERVAL, Link, idle, linked, take_all
from trio_beat import (
    Closed,
    ConnectionClosed,
    ConnectionLost,
    EndReason,
    Heartbeat,
    Identity,
    Message,
)
from trio_beat._connection.beating import Engine
from trio_beat._connection.connection import Connection
from trio_beat._connection.ending import CLOSE_TIMEOUT, WAYS, ended
from trio_beat._connection.handler import HandlerConsumer, HandlerErrors
from trio_beat._connection.pacing import Pacing

LIMIT = 1000
LATEST_DEATH = FIRST_BEAT + 3 * INTERVAL


async def by_the_peer(link: Link) -> None:
    await link.peer.send_close(1001, "bye")


async def by_the_peer_without_a_code(link: Link) -> None:
    await link.peer.send_frame(Opcode.CLOSE)


async def by_the_peer_without_a_close_frame(link: Link) -> None:
    assert isinstance(link.peer.stream, trio.SocketStream)
    await link.peer.stream.send_eof()


async def by_silence(link: Link) -> None:
    await trio.sleep(LATEST_DEATH)


async def by_being_slow(link: Link) -> None:
    link.clog()
    link.connection.send_nowait(b"\0" * 50_000)
    with pytest.raises(ConnectionClosed):
        link.connection.send_nowait("one too many")


async def by_the_application(link: Link) -> None:
    await link.connection.aclose(4000, "enough")


async def by_shutdown(link: Link) -> None:
    link.engine.end_nowait(EndReason.SHUTDOWN, 1001, "server is shutting down")


async def by_refusal(link: Link) -> None:
    link.engine.end_nowait(EndReason.REFUSED, 1013, "try again later")


async def by_a_full_inbox(link: Link) -> None:
    link.engine.end_nowait(EndReason.INBOX_FULL, 1013, "too many messages wait")


async def by_a_gap(link: Link) -> None:
    link.engine.gap_nowait()


async def by_expiry(link: Link) -> None:
    link.connection.renew(Identity(user="bob", expires_at=trio.current_time() + 1))
    await trio.sleep(1)


async def by_a_disconnect(link: Link) -> None:
    link.engine.end_nowait(EndReason.DISCONNECTED, 4003, "disconnected")


async def by_a_violation(link: Link) -> None:
    await link.peer.send_frame(Opcode.CONT, b"x")


async def by_invalid_text(link: Link) -> None:
    await link.peer.send_frame(Opcode.TEXT, b"\xff")


async def by_a_big_message(link: Link) -> None:
    await link.peer.send_frame(Opcode.BINARY, b"x" * (LIMIT + 1))


async def by_being_too_fast(link: Link) -> None:
    link.shared.pacing = Pacing(0.1, 0, "disconnect")
    for _ in range(5):
        await link.peer.send_frame(Opcode.TEXT, b"x")
    await trio.sleep(31)


async def by_the_socket(link: Link) -> None:
    assert isinstance(link.peer.stream, trio.SocketStream)
    link.peer.stream.socket.shutdown(socket.SHUT_RD)  # writing fails, reading does not
    with pytest.raises(ConnectionClosed):
        link.connection.send_nowait("x")


async def by_a_fault_of_this_package(link: Link) -> None:
    link.shared.heartbeat = cast("Heartbeat", None)  # the next beat looks at it


#: What happens, how the connection ends, and the close frame that the peer gets.
ENDS = [
    (by_the_peer, Closed(EndReason.PEER, 1001, "bye"), Close(1001, "bye")),
    (by_the_peer_without_a_code, Closed(EndReason.PEER, 1005, ""), Close(1005, "")),
    (by_the_peer_without_a_close_frame, Closed(EndReason.PEER, 1006, "no close frame"), None),
    (by_silence, Closed(EndReason.MISSED_BEATS, 1006, "3 in a row"), None),
    (by_the_socket, Closed(EndReason.LOST, 1006, "[Errno 32] Broken pipe"), None),
    *(
        (end, Closed(by, code, reason), Close(code, reason))
        for end, by, code, reason in [
            (by_being_slow, EndReason.SLOW, 1013, "too slow, outbox full"),
            (by_the_application, EndReason.HANDLER, 4000, "enough"),
            (by_shutdown, EndReason.SHUTDOWN, 1001, "server is shutting down"),
            (by_refusal, EndReason.REFUSED, 1013, "try again later"),
            (by_a_full_inbox, EndReason.INBOX_FULL, 1013, "too many messages wait"),
            (
                by_a_gap,
                EndReason.BACKEND_LOST,
                1012,
                "messages may have been lost, connect again",
            ),
            (by_expiry, EndReason.EXPIRED, 3000, "identity has expired"),
            (by_a_disconnect, EndReason.DISCONNECTED, 4003, "disconnected"),
            (by_a_fault_of_this_package, EndReason.INTERNAL_ERROR, 1011, "internal error"),
            (by_being_too_fast, EndReason.TOO_FAST, 1008, "too fast for 30 s"),
            (by_a_violation, EndReason.PROTOCOL_ERROR, 1002, "unexpected continuation frame"),
            (by_invalid_text, EndReason.PROTOCOL_ERROR, 1007, "invalid start byte at position 0"),
            (
                by_a_big_message,
                EndReason.TOO_BIG,
                1009,
                "frame with 1001 bytes exceeds limit of 1000 bytes",
            ),
        ]
    ),
]
ends = pytest.mark.parametrize(
    ("end", "closed", "told"), ENDS, ids=[end.__name__ for end, _, _ in ENDS]
)


def test_every_reason_is_here() -> None:
    assert {closed.by for _, closed, _ in ENDS} == set(WAYS) == set(EndReason)


@pytest.mark.parametrize(
    ("closed", "lost"),
    [
        (Closed(EndReason.PEER, 1000, ""), False),
        (Closed(EndReason.PEER, 1006, "no close frame"), True),
        (Closed(EndReason.HANDLER, 1000, ""), False),
        (Closed(EndReason.SHUTDOWN, 1001, ""), False),
        (Closed(EndReason.REFUSED, 1013, ""), False),
        (Closed(EndReason.MISSED_BEATS, 1006, ""), True),
        (Closed(EndReason.LOST, 1006, ""), True),
        (Closed(EndReason.SLOW, 1013, ""), True),
        (Closed(EndReason.PROTOCOL_ERROR, 1002, ""), True),
        (Closed(EndReason.TOO_BIG, 1009, ""), True),
        (Closed(EndReason.INTERNAL_ERROR, 1011, ""), True),
    ],
)
def test_an_end_that_neither_side_wanted_is_a_loss(closed: Closed, lost: bool) -> None:
    exc = ended(closed)
    assert exc.closed is closed
    assert type(exc) is (ConnectionLost if lost else ConnectionClosed)


def test_only_what_is_aborted_has_no_close_frame_to_send() -> None:
    """Invariant of the table: an aborted connection is reported to have ended with 1006."""
    aborted = {closed.by for _, closed, _ in ENDS if closed.code == 1006} - {EndReason.PEER}
    assert aborted == {by for by, way in WAYS.items() if way.abort}


@ends
async def test_every_end_has_one_reason(
    end: Callable[[Link], Awaitable[None]],
    closed: Closed,
    told: Close | None,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_beat.connection")
    async with linked(take_all, message_size=LIMIT, outbox=50_000) as link:
        await trio.sleep(0.01)
        await end(link)
        if closed.by is EndReason.INTERNAL_ERROR:  # no answer is waited for
            assert await link.peer.closed() == told
        else:
            assert await link.answer_close() == told
        assert await link.ended() == closed
        # It is the server's to log, and to go on.
        assert (link.error is not None) is (closed.by is EndReason.INTERNAL_ERROR)
        assert {by: n for by, n in link.counters.ended_by.items() if n} == {closed.by: 1}
        messages = [record.getMessage() for record in caplog.records]
        assert messages == [f"local /ws/x ended: {closed}"]


@ends
async def test_the_first_reason_stands(
    end: Callable[[Link], Awaitable[None]],
    closed: Closed,
    told: Close | None,
    autojump_clock: MockClock,
) -> None:
    async with linked(message_size=LIMIT, outbox=50_000) as link:
        await trio.sleep(0.01)
        await end(link)
        await wait_all_tasks_blocked()
        if link.connection.closed is None:  # at the next beat
            await trio.sleep(INTERVAL)
        for by in EndReason:
            link.engine.end_nowait(by, 1000, "too late")
        assert await link.ended() == closed
        assert sum(link.counters.ended_by.values()) == 1


class TestPoliteness:
    async def test_a_dead_peer_is_aborted_not_asked(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await link.ended()
            assert link.ended_at == LATEST_DEATH
            assert await link.peer.closed() is None

    async def test_the_answer_is_waited_for_before_closing_the_socket(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(1)
            await link.connection.aclose()
            assert await link.peer.closed() is not None
            with trio.move_on_after(1) as scope:
                await link.peer.frame()
            assert scope.cancelled_caught
            await link.peer.send_close()
            assert await link.peer.frame() is None

    async def test_a_peer_that_answers_is_gone_at_once(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await trio.sleep(1)
            await link.connection.aclose()
            await link.answer_close()
            await link.ended()
            assert link.ended_at == 1

    @pytest.mark.parametrize("reads", [True, False])
    async def test_a_peer_that_does_not_answer_has_five_seconds(
        self, reads: bool, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(1)
            if not reads:
                link.clog()
            await link.connection.aclose()
            assert not reads or await link.peer.closed() is not None
            await link.ended()
            assert link.ended_at == 1 + CLOSE_TIMEOUT

    async def test_a_peer_that_violated_the_protocol_owes_no_answer(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(1)
            await link.peer.send(b"\xff\xff")
            assert await link.peer.closed() is not None
            assert await link.peer.frame() is None
            await link.peer.aclose()
            await link.ended()
            assert link.ended_at == 1

    async def test_what_waits_is_sent_before_the_close_frame(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(0.01)
            clogged = link.clog()
            link.connection.send_nowait("last")
            await link.connection.aclose()
            for _ in range(clogged):
                await link.peer.frame()
            assert await link.peer.text() == "last"
            assert await link.answer_close() == Close(1000, "")

    async def test_nothing_follows_the_close_frame(self, autojump_clock: MockClock) -> None:
        """Not a message, and the answer to a PING that came in the same read went before."""

        class Impolite(HandlerConsumer):
            def received_nowait(self, message: str | bytes) -> bool:
                return False

            async def received(self, engine: Engine, message: str | bytes) -> None:
                engine.end_nowait(EndReason.HANDLER, 1000, "")

        async with linked(consumer=Impolite(idle, 1, HandlerErrors())) as link:
            await link.peer.send(
                Frame(Opcode.TEXT, b"x").serialize(mask=True)
                + Frame(Opcode.PING, b"x").serialize(mask=True)
            )
            await wait_all_tasks_blocked()
            link.connection.deliver_nowait(Message("x"))
            assert await link.peer.stream.receive_some() == b"\x8a\x01x\x88\x02\x03\xe8"


class TestCancelledFromOutside:
    async def test_is_shutdown_without_a_handshake(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await trio.sleep(1)
            link.scope.cancel()
            assert await link.ended() == Closed(EndReason.SHUTDOWN, 1001, "server is shutting down")
            assert link.ended_at == 1
            assert await link.peer.closed() == Close(1001, "server is shutting down")

    async def test_cuts_a_handshake_short(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await trio.sleep(1)
            await link.connection.aclose()
            await trio.sleep(1)
            assert link.running
            link.scope.cancel()
            assert await link.ended() == Closed(EndReason.HANDLER, 1000, "")
            assert link.ended_at == 2


class InjectedError(Exception):
    """What no part of the package expects."""


class AfterTheLastTask(trio.abc.Instrument):
    """Calls a function when the last task of a connection's nursery has ended.

    Another task may be scheduled there, before the nursery's own.
    """

    def __init__(self, link: Link, function: Callable[[], object]) -> None:
        assert link.task is not None
        (self._nursery,) = link.task.child_nurseries
        self._tasks = self._nursery.child_tasks
        self._function = function

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        if task in self._tasks and not self._nursery.child_tasks:
            self._function()


@asynccontextmanager
async def cancelled(link: Link, meanwhile: Callable[[], object]) -> AsyncIterator[None]:
    """Cancel a connection, and call a function when its nursery takes no more tasks."""
    await trio.sleep(FIRST_BEAT / 2)
    instrument = AfterTheLastTask(link, meanwhile)
    trio.lowlevel.add_instrument(instrument)
    link.scope.cancel()
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


class TestWhenTheNurseryTakesNoTasks:
    async def test_what_waits_is_sent_with_the_close_frame(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            large = Message(b"\0" * 500_000)
            async with cancelled(link, lambda: link.engine.deliver_nowait(large)):
                assert await link.peer.frame() == Frame(Opcode.BINARY, b"\0" * 500_000)
                assert await link.peer.closed() == Close(1001, "server is shutting down")
                await link.ended()
                assert link.error is None

    async def test_a_fault_is_logged(
        self,
        autojump_clock: MockClock,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def fail(*_: object) -> None:
            monkeypatch.undo()
            raise InjectedError

        def deliver() -> None:
            monkeypatch.setattr(type(link.transport), "write_nowait", fail)
            link.engine.deliver_nowait(Message("x"))

        async with linked() as link:
            async with cancelled(link, deliver):
                assert await link.peer.closed() == Close(1011, "internal error")
                assert (await link.ended()).by is EndReason.INTERNAL_ERROR
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], InjectedError)

    async def test_a_fault_while_a_handler_cleans_up_leaves_run(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            monkeypatch.undo()
            raise InjectedError

        async def handler(connection: Connection) -> None:
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(1)
                monkeypatch.setattr(type(link.transport), "write_nowait", fail)
                connection.send_nowait("x")

        async with linked(handler) as link:
            await trio.sleep(1)
            link.scope.cancel()
            assert await link.peer.closed() == Close(1011, "internal error")
            assert (await link.ended()).by is EndReason.INTERNAL_ERROR
            with pytest.RaisesGroup(InjectedError):
                raise link.error or AssertionError


class TestStartSoon:
    async def test_runs_a_task_that_ends_with_the_connection(
        self, autojump_clock: MockClock
    ) -> None:
        seen: list[object] = []

        async def task(engine: Engine) -> None:
            seen.append(engine)
            try:
                await trio.sleep_forever()
            finally:
                seen.append(trio.current_time())

        async with linked(idle) as link:
            await trio.sleep(1)
            link.engine.start_soon(task)
            await trio.sleep(1)
            await link.connection.aclose()
            await link.ended()
            assert seen == [link.engine, 2]
