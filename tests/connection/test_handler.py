"""The application side of a connection: what a handler gets, and what becomes of what it does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.harness import echo, idle, linked, take_all
from trio_beat import Closed, ConnectionClosed, EndReason, Limits, Message
from trio_beat._connection.connection import Connection
from trio_beat._connection.ending import CLOSE_TIMEOUT
from trio_beat.testing import open_pair


class TestPeerCloses:
    async def test_the_handler_gets_what_came_before(self, autojump_clock: MockClock) -> None:
        received = []

        async def handler(connection: Connection) -> None:
            async for message in connection:
                await trio.sleep(0.5)
                received.append(message)
            received.append("end")

        async with open_pair(handler) as peer:
            for number in range(5):
                await peer.send(str(number))
            await peer.close()
            assert received == ["0", "1", "2", "3", "4", "end"]
            assert trio.current_time() == 2.5

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

        async with open_pair(handler) as peer:
            await trio.sleep(1)
            assert await peer.close() == (1000, "")
            assert trio.current_time() == 1 + CLOSE_TIMEOUT

    async def test_a_handler_that_does_not_read_ends_at_once(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(idle) as peer:
            await trio.sleep(1)
            assert await peer.close() == (1000, "")
            assert trio.current_time() == 1

    async def test_the_answer_does_not_wait_for_the_handler(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                await trio.sleep_forever()

        async with open_pair(handler) as peer:
            await trio.sleep(1)
            await peer.send("takes for ever")
            with trio.move_on_after(0.5) as waiting:
                await peer.close()
            assert waiting.cancelled_caught
            assert peer.closed == (1000, "")

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

    async def test_a_reset_is_a_lost_connection(self, autojump_clock: MockClock) -> None:
        async with open_pair(idle) as peer:
            peer.cut()
            await wait_all_tasks_blocked()
            assert peer.connection.closed is not None
            assert peer.connection.closed.by is EndReason.LOST

    async def test_a_peer_that_is_gone_before_it_was_admitted_is_lost(
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
                    link.connection.deliver_nowait(Message("x"))
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

        async with open_pair(handler) as peer:
            await wait_all_tasks_blocked()
            await peer.send("work")
            await trio.sleep(2)
            await peer.close()
            assert done == [4]

    async def test_a_task_that_has_ended_is_not_waited_for(self, autojump_clock: MockClock) -> None:
        """It took a message, and no task will ever ask for another in its place."""

        async def take_one(connection: Connection) -> None:
            await connection.receive()

        async def handler(connection: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take_one, connection)
            await trio.sleep_forever()

        async with open_pair(handler) as peer:
            await peer.send("x")
            await trio.sleep(1)
            await peer.close()
            assert trio.current_time() == 1


class TestPeerViolates:
    async def test_what_came_before_in_the_same_read_is_answered(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(echo) as peer:
            good = Frame(Opcode.TEXT, b"good").serialize(mask=True)
            await peer.send_raw(good + Frame(Opcode.TEXT, b"bad").serialize(mask=False))
            assert await peer.receive() == "good"
            assert (await peer.wait_closed()).code == 1002
            assert trio.current_time() == 0

    async def test_a_handler_that_is_behind_has_five_seconds(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                await trio.sleep_forever()

        async with open_pair(handler) as peer:
            await peer.send("takes for ever")
            await peer.send_raw(Frame(Opcode.TEXT, b"bad").serialize(mask=False))
            assert (await peer.wait_closed()).code == 1002
            assert trio.current_time() == CLOSE_TIMEOUT


class TestHandlerEnds:
    async def test_returning_is_1000(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep(1)

        async with open_pair(handler) as peer:
            assert await peer.wait_closed() == (1000, "")
            assert peer.connection.closed == Closed(EndReason.HANDLER, 1000, "")
            assert trio.current_time() == 1

    async def test_raising_is_1011_and_propagates(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep(1)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with open_pair(handler) as peer:
                await trio.sleep_forever()
        assert peer.closed == (1011, "internal error")
        assert peer.connection.closed == Closed(EndReason.HANDLER, 1011, "internal error")
        assert trio.current_time() == 1

    async def test_one_that_is_no_async_function_is_told(self, autojump_clock: MockClock) -> None:
        def handler(connection: Connection) -> None:
            """What a type checker would not have let through."""

        async def generator(connection: Connection) -> AsyncIterator[None]:
            yield

        async def wait(connection: Connection) -> None:
            await trio.sleep(1)

        wrong: list[tuple[Any, str]] = [(handler, "NoneType"), (generator, "async_generator")]
        for given, kind in wrong:
            text = rf"^handler\(\) gave a {kind} at once; it must be an async function$"
            with pytest.raises(TypeError, match=text):
                async with open_pair(given) as peer:
                    await trio.sleep_forever()
            assert peer.closed == (1011, "internal error")
        # What gives something to await is as good as one.
        async with open_pair(lambda connection: wait(connection)) as peer:
            assert await peer.wait_closed() == (1000, "")

    async def test_what_its_nursery_raises_propagates(self, autojump_clock: MockClock) -> None:
        """A group, of which Trio leaves a copy."""

        async def fail() -> None:
            await trio.sleep(1)
            raise ZeroDivisionError

        async def handler(connection: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)

        with pytest.raises(ZeroDivisionError), trio.fail_after(10):
            async with open_pair(handler) as peer:
                await trio.sleep_forever()
        assert peer.closed == (1011, "internal error")
        assert peer.connection.closed == Closed(EndReason.HANDLER, 1011, "internal error")

    async def test_raising_after_the_peer_closed_propagates_too(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for _ in connection:
                pass
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with open_pair(handler) as peer:
                await wait_all_tasks_blocked()
                await peer.close(1001)
        assert peer.connection.closed == Closed(EndReason.PEER, 1001, "")

    async def test_sending_to_a_peer_that_has_closed_is_an_everyday_event(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(echo) as peer:
            close = Frame(Opcode.CLOSE, Close(1001, "").serialize()).serialize(mask=True)
            await peer.send_raw(Frame(Opcode.TEXT, b"x").serialize(mask=True) + close)
            assert await peer.wait_closed() == (1001, "")
            assert peer.connection.closed == Closed(EndReason.PEER, 1001, "")
            assert trio.current_time() == 0

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

        async with open_pair(handler) as peer:
            assert await peer.wait_closed() == (4001, "bye")
            assert peer.connection.closed == Closed(EndReason.HANDLER, 4001, "bye")
            assert not after

    async def test_aclose_that_is_cancelled_closes_all_the_same(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(idle) as peer:
            with trio.CancelScope() as scope:
                scope.cancel()
                await peer.connection.aclose()
            assert await peer.wait_closed() == (1000, "")

    @pytest.mark.parametrize(
        ("code", "reason"), [(1005, ""), (1006, ""), (999, ""), (1000, "é" * 62)]
    )
    async def test_aclose_with_what_may_not_be_sent_closes_nothing(
        self, code: int, reason: str, autojump_clock: MockClock
    ) -> None:
        async with open_pair(idle) as peer:
            with pytest.raises(ValueError, match="close"):
                await peer.connection.aclose(code, reason)
            assert peer.connection.closed is None

    @pytest.mark.parametrize("behind", ["close", "violation"])
    async def test_with_the_peer_s_end_behind_a_message_that_it_did_not_take(
        self, behind: str, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep(1)

        async with open_pair(handler, limits=Limits(inbound=1)) as peer:
            close = Frame(Opcode.CLOSE, Close(1001, "").serialize()).serialize(mask=True)
            text = Frame(Opcode.TEXT, b"x").serialize(mask=True)
            await peer.send_raw(3 * text + (close if behind == "close" else b"\xff\xff"))
            assert await peer.wait_closed() == (1000, "")
            assert peer.connection.closed == Closed(EndReason.HANDLER, 1000, "")
            assert trio.current_time() == 1


class TestHandlerErrorsThatClose:
    async def test_end_their_own_connection_with_1011(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for message in connection:
                raise KeyError(message)

        async with open_pair(handler, handler_errors="close") as peer:
            await peer.send("x")
            assert await peer.wait_closed() == (1011, "internal error")
            assert peer.connection.closed == Closed(EndReason.HANDLER, 1011, "internal error")
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], KeyError)

    async def test_in_a_group_beside_everyday_ends(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(connection: Connection) -> None:
            closed = Closed(EndReason.PEER, 1000, "")
            raise ExceptionGroup("", [ConnectionClosed(closed), KeyError(1), KeyError(2)])

        async with open_pair(handler, handler_errors="close") as peer:
            assert await peer.wait_closed() == (1011, "internal error")
        assert sum(record.levelname == "ERROR" for record in caplog.records) == 1

    async def test_what_is_no_error_goes_on(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            await trio.sleep(1)
            raise BaseExceptionGroup("", [SystemExit(3), KeyError(1)])

        with pytest.raises(SystemExit):
            async with open_pair(handler, handler_errors="close"):
                await trio.sleep_forever()
