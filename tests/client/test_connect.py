"""`connect`: the block, and how it ends."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import get_type_hints

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Close, Frame, Opcode

from tests.support.cancelling import CancelledAfter
from tests.support.fake_server import URL, FakeServer, answer_pings, connect_to_silence, fake_server
from tests.support.peer import Peer
from trio_beat import Closed, ConnectionClosed, EndReason, connect, reconnecting

__all__ = ["fake_server"]  # a fixture


class TestBlock:
    async def test_sends_and_receives(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def echo(peer: Peer) -> None:
            for _ in range(3):
                frame = await peer.frame()
                assert frame is not None
                await peer.send_frame(frame.opcode, bytes(frame.data))
            await answer_pings(peer)

        nursery.start_soon(fake_server.play, echo)
        async with connect(URL) as connection:
            for message in ("é", b"\xff", "x" * 200_000):
                await connection.send(message)
                assert await connection.receive() == message
            assert connection.path == "/ws/news?subscribe-broadcast"
        assert connection.closed == Closed(EndReason.HANDLER, 1000, "")

    async def test_may_return_from_a_function(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def greet(peer: Peer) -> None:
            await peer.send_text("hello")
            await answer_pings(peer)

        async def greeting() -> str | bytes:
            async with connect(URL) as connection:
                return await connection.receive()
            # Nothing here: a context whose type says that it may swallow an exception would have
            # type checkers ask for a result.

        nursery.start_soon(fake_server.play, greet)
        assert await greeting() == "hello"
        for context in (connect, reconnecting):
            assert get_type_hints(context.__aexit__)["return"] is type(None)

    async def test_keeps_the_order_of_what_is_sent(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        texts: list[str] = []

        async def listen(peer: Peer) -> None:
            for _ in range(100):
                texts.append(await peer.text())
            await answer_pings(peer)

        nursery.start_soon(fake_server.play, listen)
        async with connect(URL) as connection:
            for number in range(100):
                connection.send_nowait(str(number))
        assert texts == [str(number) for number in range(100)]

    async def test_gets_what_came_with_the_handshake(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        early = Frame(Opcode.TEXT, b"early").serialize(mask=False)

        async def serve() -> None:
            await answer_pings(await fake_server.accept(behind=early))

        nursery.start_soon(serve)
        async with connect(URL) as connection:
            assert await connection.receive() == "early"

    async def test_left_closes_and_waits_for_the_answer(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            assert await peer.closed() == Close(1000, "")
            await trio.sleep(2)
            await peer.send_close()
            await trio.sleep(0.5)
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL):
            pass
        # RFC 6455, section 7.1.1: the server closes TCP first.
        assert trio.current_time() == 2.5

    async def test_left_does_not_wait_long_for_a_server_that_keeps_its_socket(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            assert await peer.closed() == Close(1000, "")
            await peer.send_close()
            assert await peer.frame() is None
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL):
            pass
        assert trio.current_time() == 1

    async def test_cancelled_when_it_has_just_opened(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        """The session's tasks are cancelled, and it is shielded before they have ended.

        It depends on the order in which Trio runs tasks, which is random.
        """

        async def serve() -> None:
            while True:
                with suppress(trio.EndOfChannel, trio.BrokenResourceError):
                    await answer_pings(await fake_server.accept())

        nursery.start_soon(serve)
        ends = []
        for _ in range(40):
            with CancelledAfter(1, "trio_beat heartbeat") as scope:
                async with connect(URL) as connection:
                    ends.append(connection)
                    with trio.CancelScope(shield=True):
                        await trio.sleep(1)
                    await trio.sleep_forever()
            assert scope.cancelled_caught
        assert {it.closed.code for it in ends if it.closed is not None} == {1001}
        nursery.cancel_scope.cancel()

    async def test_left_sends_what_waits_before(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        got: list[int] = []

        async def slow(peer: Peer) -> None:
            await trio.sleep(1)
            while (frame := await peer.frame()) is not None:
                got.append(len(frame.data))
                if frame.opcode is Opcode.CLOSE:
                    await peer.send_close()
            await peer.aclose()

        nursery.start_soon(fake_server.play, slow)
        async with connect(URL) as connection:
            connection.send_nowait(b"\0" * 900_000)
            connection.send_nowait(b"\0" * 10)
        assert got == [900_000, 10, 2]

    async def test_left_waits_for_five_seconds_at_most(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async with connect_to_silence(fake_server, nursery):
            pass
        assert trio.current_time() == 5

    async def test_raising_raises_that(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        error = ValueError("the application's")
        with pytest.raises(ValueError, match="the application's") as caught:
            async with connect_to_silence(fake_server, nursery) as connection:
                raise error
        assert caught.value is error
        assert error.__cause__ is None
        assert connection.closed == Closed(EndReason.HANDLER, 1011, "internal error")
        assert trio.current_time() == 1

    async def test_raising_a_group_raises_that(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        group = ExceptionGroup("the application's", [ValueError(), KeyError()])
        with pytest.raises(ExceptionGroup) as caught:
            async with connect_to_silence(fake_server, nursery):
                raise group
        assert caught.value is group

    async def test_interrupted_at_the_keyboard_goes_away(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        with pytest.raises(KeyboardInterrupt):
            async with connect(URL) as connection:
                raise KeyboardInterrupt
        assert connection.closed == Closed(EndReason.HANDLER, 1001, "going away")

    async def test_cancelled_closes_within_a_second(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        with trio.move_on_after(10) as scope:
            async with connect_to_silence(fake_server, nursery) as connection:
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert connection.closed == Closed(EndReason.HANDLER, 1001, "going away")
        assert trio.current_time() == 11

    async def test_cancelled_sends_a_close_frame(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        closes: list[Close | None] = []

        async def serve(peer: Peer) -> None:
            closes.append(await peer.closed())
            await peer.send_close()
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        with trio.move_on_after(1):
            async with connect(URL):
                await trio.sleep_forever()
        assert trio.current_time() == 1
        assert closes == [Close(1001, "going away")]

    async def test_cancelled_while_it_waits_for_the_answer(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        with trio.move_on_after(2) as scope:
            async with connect_to_silence(fake_server, nursery):
                pass
        assert scope.cancelled_caught
        assert trio.current_time() == 3

    @pytest.mark.parametrize("late", [False, True], ids=["while leaving", "before"])
    async def test_cancelled_loses_nothing_that_it_raises(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, late: bool
    ) -> None:
        with trio.move_on_after(0.5):
            with pytest.raises(ValueError, match="mine"):
                async with connect_to_silence(fake_server, nursery):
                    try:
                        await trio.sleep(1 if late else 0.3)
                    finally:
                        raise ValueError("mine")

    async def test_may_close_before_it_ends(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        async with connect(URL) as connection:
            await connection.aclose(4200, "enough")
            with pytest.raises(ConnectionClosed) as caught:
                await connection.send("x")
            assert caught.type is ConnectionClosed
            await trio.sleep(1)  # it is not cancelled
        assert connection.closed == Closed(EndReason.HANDLER, 4200, "enough")

    async def test_a_ping_that_meets_the_close_frame_does_no_harm(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve(peer: Peer) -> None:
            await peer.closed()
            await peer.send_frame(Opcode.PING, b"late")
            await peer.send_close()
            await peer.aclose()

        nursery.start_soon(fake_server.play, serve)
        async with connect(URL) as connection:
            pass
        assert connection.closed == Closed(EndReason.HANDLER, 1000, "")

    async def test_opening_can_be_cancelled_at_any_step(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve() -> None:
            while True:
                with suppress(trio.EndOfChannel, trio.BrokenResourceError):
                    nursery.start_soon(be_patient, await fake_server.accept())

        async def be_patient(peer: Peer) -> None:
            with suppress(trio.BrokenResourceError):
                await answer_pings(peer)

        async def enter() -> None:
            async with connect(URL):
                pass

        nursery.start_soon(serve)
        for step in itertools.count():
            canceller = Canceller(step)
            trio.lowlevel.add_instrument(canceller)
            try:
                with canceller.scope:
                    await enter()
            finally:
                trio.lowlevel.remove_instrument(canceller)
            if not canceller.scope.cancelled_caught:
                break
        assert step > 20
        nursery.cancel_scope.cancel()

    async def test_is_entered_once(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        nursery.start_soon(fake_server.play, answer_pings)
        context = connect(URL)
        async with context:
            pass
        with pytest.raises(RuntimeError, match="was entered before"):
            async with context:
                pass


class Canceller(trio.abc.Instrument):
    """Cancels a scope when so many tasks, whichever they are, have had their turn."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._left = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._left == 0:
            self.scope.cancel()
        self._left -= 1
