"""How connections end: the closing handshakes, and rule 8 - every end has one reason."""

from __future__ import annotations

import logging
import socket
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.harness import FIRST_BEAT, INTERVAL, Link, echo, idle, linked, take_all, tcp_pair
from trio_beat._connection.beating import Beating
from trio_beat._connection.connection import Connection
from trio_beat._connection.ending import CLOSE_TIMEOUT
from trio_beat._connection.handler import HandlerConsumer, HandlerErrors
from trio_beat._exceptions import Closed, ConnectionClosed, EndReason
from trio_beat._transports.framing import FramingTransport

LIMIT = 1000
LATEST_DEATH = FIRST_BEAT + 3 * INTERVAL


async def answer_close(link: Link) -> Close | None:
    """Be a peer that keeps the rules: answer the close frame, and hang up after the server."""
    close = await link.peer.closed()
    if close is not None:
        await link.peer.send_frame(Opcode.CLOSE)
        assert await link.peer.frame() is None
    await link.peer.aclose()
    return close


async def by_the_peer(link: Link) -> None:
    await link.peer.send_close(1001, "bye")


async def by_the_peer_without_a_code(link: Link) -> None:
    await link.peer.send_frame(Opcode.CLOSE)


async def by_the_peer_without_a_word(link: Link) -> None:
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


async def by_a_violation(link: Link) -> None:
    await link.peer.send_frame(Opcode.CONT, b"x")


async def by_invalid_text(link: Link) -> None:
    await link.peer.send_frame(Opcode.TEXT, b"\xff")


async def by_a_big_message(link: Link) -> None:
    await link.peer.send_frame(Opcode.BINARY, b"x" * (LIMIT + 1))


async def by_the_socket(link: Link) -> None:
    assert isinstance(link.peer.stream, trio.SocketStream)
    link.peer.stream.socket.shutdown(socket.SHUT_RD)  # writing fails, reading does not
    with pytest.raises(ConnectionClosed):
        link.connection.send_nowait("x")


async def by_a_fault_of_this_package(link: Link) -> None:
    link.engine._ping = cast("int", None)  # the next beat looks at it


#: What happens, how the connection ends, and the close frame that the peer gets.
ENDS = [
    (by_the_peer, Closed(EndReason.PEER, 1001, "bye"), Close(1001, "bye")),
    (by_the_peer_without_a_code, Closed(EndReason.PEER, 1005, ""), Close(1005, "")),
    (by_the_peer_without_a_word, Closed(EndReason.PEER, 1006, "no close frame"), None),
    (by_silence, Closed(EndReason.MISSED_BEATS, 1006, "3 in a row"), None),
    (by_the_socket, Closed(EndReason.LOST, 1006, "[Errno 32] Broken pipe"), None),
    *(
        (end, Closed(by, code, reason), Close(code, reason))
        for end, by, code, reason in [
            (by_being_slow, EndReason.SLOW, 1013, "too slow, outbox full"),
            (by_the_application, EndReason.HANDLER, 4000, "enough"),
            (by_shutdown, EndReason.SHUTDOWN, 1001, "server is shutting down"),
            (by_refusal, EndReason.REFUSED, 1013, "try again later"),
            (by_a_fault_of_this_package, EndReason.INTERNAL_ERROR, 1011, "internal error"),
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
    assert {closed.by for _, closed, _ in ENDS} == set(EndReason)


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
            assert await answer_close(link) == told
        assert await link.ended() == closed
        # It is the server's to log, and to go on.
        assert (link.error is not None) is (closed.by is EndReason.INTERNAL_ERROR)
        assert {by: n for by, n in link.shared.ended.items() if n} == {closed.by: 1}
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
        assert sum(link.shared.ended.values()) == 1


class TestPoliteness:
    async def test_a_dead_peer_is_aborted_not_asked(self, autojump_clock: MockClock) -> None:
        async with linked() as link:
            await link.ended()
            assert link.ended_at == LATEST_DEATH
            assert await link.peer.closed() is None

    async def test_the_answer_is_waited_for_before_hanging_up(
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
            await answer_close(link)
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
            assert await answer_close(link) == Close(1000, "")

    async def test_nothing_follows_the_close_frame(self, autojump_clock: MockClock) -> None:
        """Not a message, and the answer to a PING that came in the same read went before."""

        class Impolite(HandlerConsumer):
            def received_nowait(self, message: str | bytes) -> bool:
                return False

            async def received(self, engine: Beating, message: str | bytes) -> None:
                engine.end_nowait(EndReason.HANDLER, 1000, "")

        async with linked(consumer=Impolite(idle, 1, HandlerErrors())) as link:
            await link.peer.send(
                Frame(Opcode.TEXT, b"x").serialize(mask=True)
                + Frame(Opcode.PING, b"x").serialize(mask=True)
            )
            await wait_all_tasks_blocked()
            link.connection.deliver_nowait(b"\x81\x01x")
            assert await link.peer.stream.receive_some() == b"\x8a\x01x\x88\x02\x03\xe8"


class TestPeerCloses:
    async def test_the_handler_gets_what_came_before(self, autojump_clock: MockClock) -> None:
        received = []

        async def handler(connection: Connection) -> None:
            async for message in connection:
                await trio.sleep(0.5)
                received.append(message)
            received.append("end")

        async with linked(handler) as link:
            for number in range(5):
                await link.peer.send_text(str(number))
            await link.peer.send_close()
            await answer_close(link)
            await link.ended()
            assert received == ["0", "1", "2", "3", "4", "end"]
            assert link.ended_at == 2.5

    async def test_the_handler_gets_it_also_where_the_peer_cannot_be_answered(
        self, autojump_clock: MockClock
    ) -> None:
        received = []

        async def handler(connection: Connection) -> None:
            async for message in connection:
                await trio.sleep(0.5)
                received.append(message)

        async with linked(handler) as link:
            await link.peer.send_text("1")
            await link.peer.send_text("2")
            await link.peer.send_close(1001)
            await link.peer.aclose()
            assert (await link.ended()) == Closed(EndReason.PEER, 1001, "")
            assert received == ["1", "2"]

    async def test_a_handler_that_reads_has_five_seconds_to_end(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                pass
            await trio.sleep_forever()

        async with linked(handler) as link:
            await trio.sleep(1)
            await link.peer.send_close()
            assert await link.peer.closed() == Close(1000, "")
            await link.peer.aclose()
            await link.ended()
            assert link.ended_at == 1 + CLOSE_TIMEOUT

    async def test_a_handler_that_does_not_read_ends_at_once(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(idle) as link:
            await trio.sleep(1)
            await link.peer.send_close()
            assert await link.peer.closed() == Close(1000, "")
            await link.peer.aclose()
            await link.ended()
            assert link.ended_at == 1

    async def test_the_answer_does_not_wait_for_the_handler(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                await trio.sleep_forever()

        async with linked(handler) as link:
            await trio.sleep(1)
            await link.peer.send_text("takes for ever")
            await link.peer.send_close()
            await link.peer.closed()
            assert trio.current_time() == 1
            assert link.running

    async def test_the_answer_does_not_wait_behind_messages(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(take_all) as link:
            await trio.sleep(0.01)
            clogged = link.clog()
            for _ in range(5):
                link.connection.send_nowait(b"x" * 50_000)
            await link.peer.send_close()
            await wait_all_tasks_blocked()
            sizes = []
            while (frame := await link.peer.frame()) and frame.opcode is not Opcode.CLOSE:
                sizes.append(len(frame.data))
            # The last that waited was dropped too, unless the socket had some of it.
            assert sizes in ([10_000] * clogged, [10_000] * (clogged - 1))

    async def test_a_reset_is_a_lost_connection(self, patient_clock: MockClock) -> None:
        async with linked(pair=tcp_pair) as link:
            await link.peer.reset()
            assert (await link.ended()).by is EndReason.LOST
            assert link.error is None

    async def test_a_peer_that_is_gone_before_it_was_let_in_is_lost(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(response=b"HTTP/1.1 101 ...\r\n\r\n") as link:
            assert isinstance(link.peer.stream, trio.SocketStream)
            link.peer.stream.socket.close()
            assert (await link.ended()).by is EndReason.LOST
            assert link.error is None

    @pytest.mark.parametrize("late", ["end_nowait", "aclose", "lost"])
    async def test_an_end_that_comes_later_takes_nothing_of_the_five_seconds(
        self, late: str, autojump_clock: MockClock
    ) -> None:
        done = []

        async def handler(connection: Connection) -> None:
            async for _ in connection:
                pass
            await trio.sleep(CLOSE_TIMEOUT - 1)
            done.append(trio.current_time())

        async with linked(handler) as link:
            await trio.sleep(1)
            await link.peer.send_close()
            await link.peer.closed()
            await trio.sleep(1)
            match late:
                case "end_nowait":
                    link.engine.end_nowait(EndReason.SHUTDOWN, 1001, "server is shutting down")
                case "aclose":
                    await link.connection.aclose()
                case _:
                    await link.peer.aclose()
                    link.connection.deliver_nowait(b"\x81\x01x")
            await link.ended()
            assert done == [1 + CLOSE_TIMEOUT - 1]

    @pytest.mark.parametrize("leaves", [False, True])
    async def test_tasks_that_share_the_messages_all_have_five_seconds(
        self, leaves: bool, autojump_clock: MockClock
    ) -> None:
        """Also where one of them still works, and no other waits for a message any more."""
        done = []

        async def work(
            connection: Connection, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        ) -> None:
            assert await connection.receive() == "work"
            task_status.started()
            await trio.sleep(4)
            done.append(trio.current_time())

        async def wait_in_vain(connection: Connection) -> None:
            with trio.move_on_after(1 if leaves else 1000):
                with suppress(ConnectionClosed):
                    await connection.receive()

        async def handler(connection: Connection) -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(work, connection)
                nursery.start_soon(wait_in_vain, connection)

        async with linked(handler) as link:
            await wait_all_tasks_blocked()
            await link.peer.send_text("work")
            await trio.sleep(2)
            await link.peer.send_close()
            await link.peer.closed()
            await link.ended()
            assert done == [4]

    async def test_a_task_that_has_ended_is_not_waited_for(self, autojump_clock: MockClock) -> None:
        """It took a message, and nobody will ever ask for another in its place."""

        async def take_one(connection: Connection) -> None:
            await connection.receive()

        async def handler(connection: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_one, connection)
            await trio.sleep_forever()

        async with linked(handler) as link:
            await link.peer.send_text("x")
            await trio.sleep(1)
            await link.peer.send_close()
            await link.peer.closed()
            await link.peer.aclose()
            await link.ended()
            assert link.ended_at == 1


class TestPeerViolates:
    async def test_what_came_before_in_the_same_read_is_answered(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(echo) as link:
            good = Frame(Opcode.TEXT, b"good").serialize(mask=True)
            await link.peer.send(good + Frame(Opcode.TEXT, b"bad").serialize(mask=False))
            assert await link.peer.text() == "good"
            close = await link.peer.closed()
            assert close is not None
            assert close.code == 1002
            assert trio.current_time() == 0

    async def test_a_handler_that_is_behind_has_five_seconds(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                await trio.sleep_forever()

        async with linked(handler) as link:
            await link.peer.send_text("takes for ever")
            await link.peer.send(Frame(Opcode.TEXT, b"bad").serialize(mask=False))
            close = await link.peer.closed()
            assert close is not None
            assert close.code == 1002
            assert trio.current_time() == CLOSE_TIMEOUT


class TestHandlerEnds:
    async def test_returning_is_1000(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep(1)

        async with linked(handler) as link:
            assert await answer_close(link) == Close(1000, "")
            assert await link.ended() == Closed(EndReason.HANDLER, 1000, "")
            assert link.ended_at == 1
            assert link.error is None

    async def test_raising_is_1011_and_propagates(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep(1)
            raise ZeroDivisionError

        async with linked(handler) as link:
            assert await link.peer.closed() == Close(1011, "internal error")
            assert await link.ended() == Closed(EndReason.HANDLER, 1011, "internal error")
            assert link.ended_at == 1
            with pytest.RaisesGroup(ZeroDivisionError):
                raise link.error or AssertionError

    async def test_raising_after_the_peer_closed_propagates_too(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                pass
            raise ZeroDivisionError

        async with linked(handler) as link:
            await wait_all_tasks_blocked()
            await link.peer.send_close(1001)
            assert await link.ended() == Closed(EndReason.PEER, 1001, "")
            with pytest.RaisesGroup(ZeroDivisionError):
                raise link.error or AssertionError

    async def test_sending_to_a_peer_that_has_closed_is_an_everyday_event(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked(echo) as link:
            close = Frame(Opcode.CLOSE, Close(1001, "").serialize()).serialize(mask=True)
            await link.peer.send(Frame(Opcode.TEXT, b"x").serialize(mask=True) + close)
            assert await answer_close(link) == Close(1001, "")
            assert await link.ended() == Closed(EndReason.PEER, 1001, "")
            assert link.ended_at == 0
            assert link.error is None

    async def test_sending_to_another_peer_that_has_closed_ends_this_handler_only(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with linked() as other:
            await other.peer.aclose()
            await other.ended()

            async def handler(connection: Connection) -> None:
                async with trio.open_nursery():
                    other.connection.send_nowait("x")

            async with linked(handler) as link:
                assert await link.peer.closed() == Close(1011, "internal error")
                await link.peer.aclose()
                assert (await link.ended()).by is EndReason.HANDLER
                assert link.error is None
                assert "connection ended by" in caplog.text

    async def test_aclose_in_the_handler_cancels_it(self, autojump_clock: MockClock) -> None:
        after = []

        async def handler(connection: Connection) -> None:
            await connection.aclose(4001, "bye")
            after.append(True)

        async with linked(handler) as link:
            assert await answer_close(link) == Close(4001, "bye")
            assert await link.ended() == Closed(EndReason.HANDLER, 4001, "bye")
            assert not after

    async def test_aclose_that_is_cancelled_closes_all_the_same(
        self, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(1)
            with trio.CancelScope() as scope:
                scope.cancel()
                await link.connection.aclose()
            assert await answer_close(link) == Close(1000, "")

    @pytest.mark.parametrize(
        ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (1000, "é" * 62)]
    )
    async def test_aclose_with_what_may_not_be_sent_closes_nothing(
        self, code: int, reason: str, autojump_clock: MockClock
    ) -> None:
        async with linked() as link:
            await trio.sleep(1)
            with pytest.raises(ValueError, match="close"):
                await link.connection.aclose(code, reason)
            assert link.connection.closed is None

    @pytest.mark.parametrize("behind", ["close", "violation"])
    async def test_with_the_peer_s_end_behind_a_message_that_it_did_not_take(
        self, behind: str, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep(1)

        async with linked(handler, inbound=1) as link:
            close = Frame(Opcode.CLOSE, Close(1001, "").serialize()).serialize(mask=True)
            text = Frame(Opcode.TEXT, b"x").serialize(mask=True)
            await link.peer.send(3 * text + (close if behind == "close" else b"\xff\xff"))
            assert await link.peer.closed() == Close(1000, "")
            assert await link.peer.frame() is None
            await link.peer.aclose()
            assert await link.ended() == Closed(EndReason.HANDLER, 1000, "")
            assert link.ended_at == 1
            assert link.error is None


class TestHandlerErrorsThatClose:
    async def test_end_their_own_connection_with_1011(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for message in connection:
                raise KeyError(message)

        async with linked(handler, handler_errors="close") as link:
            await link.peer.send_text("x")
            assert await answer_close(link) == Close(1011, "internal error")
            assert await link.ended() == Closed(EndReason.HANDLER, 1011, "internal error")
            assert link.error is None
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], KeyError)

    async def test_in_a_group_beside_everyday_ends(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(connection: Connection) -> None:
            closed = Closed(EndReason.PEER, 1000, "")
            raise ExceptionGroup("", [ConnectionClosed(closed), KeyError(1), KeyError(2)])

        async with linked(handler, handler_errors="close") as link:
            assert await answer_close(link) == Close(1011, "internal error")
            await link.ended()
            assert link.error is None
        assert sum(record.levelname == "ERROR" for record in caplog.records) == 1

    async def test_what_is_no_error_goes_on(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep(1)
            raise BaseExceptionGroup("", [SystemExit(3), KeyError(1)])

        with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
            async with linked(handler, handler_errors="close") as link:
                await link.ended()


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


async def _peer_closes(link: Link) -> None:
    await link.peer.send_close()


async def _peer_hangs_up(link: Link) -> None:
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
        _peer_hangs_up,
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
        transport = link.transport
        assert isinstance(transport, FramingTransport)
        parser = weakref.ref(transport._parser())
        assert transport._reads.unfinished.held == 100_000
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await end(link)
            await link.peer.closed()
        await link.peer.aclose()
        await link.ended()
        assert parser() is None
        assert transport._reads.unfinished.held == 0
