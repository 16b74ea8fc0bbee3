"""The client's end in a test's hands: messages, beats, silence, slowness, and ends."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from tests.support.harness import FIRST_BEAT, HANGS, INTERVAL, echo, idle, take_all
from trio_beat import Closed, Connection, EndReason, Heartbeat, Limits, SlowPolicy
from trio_beat.testing import Peer, PeerClosed, SeenClose, open_pair


async def beaten(peer: Peer) -> None:
    """Wait until one more PING has been answered."""
    before = peer.pings
    with trio.fail_after(HANGS):
        while peer.pings == before:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.125)


class TestMessages:
    async def test_keep_their_type_both_ways(self, autojump_clock: MockClock) -> None:
        async with open_pair(echo) as peer:
            for message in ("é", b"\xff", "", b""):
                await peer.send(message)
                assert await peer.receive() == message

    @pytest.mark.parametrize("size", [125, 126, 65536, 1_000_000])
    async def test_may_be_larger_than_the_socket_takes(
        self, size: int, autojump_clock: MockClock
    ) -> None:
        async with open_pair(echo) as peer:
            await peer.send(b"x" * size)
            assert await peer.receive() == b"x" * size
        assert trio.current_time() == 0

    async def test_of_none_is_an_answer_jumped_over(self, autojump_clock: MockClock) -> None:
        """The clock would jump to the deadline as soon as it saw nothing on its way."""
        async with open_pair(echo) as peer:
            for number in range(3000):
                with trio.fail_after(1):
                    await peer.send(str(number))
                    assert await peer.receive() == str(number)
        assert trio.current_time() == 0

    async def test_are_iterated_over_until_the_end(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            for number in range(3):
                await connection.send(str(number))

        async with open_pair(handler) as peer:
            assert [message async for message in peer] == ["0", "1", "2"]
            with pytest.raises(PeerClosed) as caught:
                await peer.receive()
            with pytest.raises(PeerClosed):
                peer.receive_nowait()
        assert caught.value.closed == (1000, "")
        assert str(caught.value) == "the connection has ended (1000)"

    async def test_that_have_come_are_there_without_waiting(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(echo) as peer:
            with pytest.raises(trio.WouldBlock):
                peer.receive_nowait()
            await peer.send("x")
            await wait_all_tasks_blocked()
            assert peer.receive_nowait() == "x"
        with pytest.raises(PeerClosed):
            peer.receive_nowait()

    async def test_a_receive_that_is_cancelled_loses_none(self, autojump_clock: MockClock) -> None:
        async with open_pair(idle) as peer:
            with trio.move_on_after(1):
                await peer.receive()
            await peer.connection.send("x")
            await wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await peer.receive()
            assert scope.cancelled_caught
            assert await peer.receive() == "x"

    async def test_a_send_waits_while_the_server_does_not_read(
        self, autojump_clock: MockClock
    ) -> None:
        """Cancelled, what it has begun goes out whole."""
        received = []

        async def handler(connection: Connection) -> None:
            await trio.sleep(5)
            async for message in connection:
                received.append(len(message))

        async with open_pair(handler, limits=Limits(inbound=1)) as peer:
            with trio.move_on_after(1) as scope:
                while True:
                    await peer.send(b"x" * 100_000)
            assert scope.cancelled_caught
            await peer.send("last")
            assert trio.current_time() == 5
            await wait_all_tasks_blocked()
            assert received[-1] == 4
            assert set(received[:-1]) == {100_000}

    @pytest.mark.parametrize("how", ["close", "end_stream", "cut"])
    async def test_none_is_sent_after_an_end_of_its_own(
        self, how: str, autojump_clock: MockClock
    ) -> None:
        async with open_pair(take_all) as peer:
            if how == "close":
                await peer.close()
            else:
                getattr(peer, how)()
            with pytest.raises(trio.ClosedResourceError, match=r"^this peer has "):
                await peer.send("x")

    async def test_none_is_sent_after_the_server_s_end(self, autojump_clock: MockClock) -> None:
        async def handler(connection: Connection) -> None:
            await connection.aclose(4001, "bye")

        async with open_pair(handler) as peer:
            assert await peer.wait_closed() == (4001, "bye")
            with pytest.raises(PeerClosed, match=r"^the connection has ended \(4001 'bye'\)$"):
                await peer.send("x")

    async def test_a_send_that_waits_sees_the_end(self, autojump_clock: MockClock) -> None:
        async with open_pair(idle, limits=Limits(inbound=1)) as peer:

            async def drain() -> None:
                await trio.sleep(1)
                await peer.connection.aclose(4001)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                with pytest.raises(PeerClosed):
                    while True:
                        await peer.send(b"x" * 100_000)
            assert await peer.wait_closed() == (4001, "")

    @pytest.mark.parametrize(
        ("message", "error"), [(5, TypeError), (None, TypeError), ("\ud800", ValueError)]
    )
    async def test_what_is_none_is_refused(
        self, message: object, error: type[Exception], autojump_clock: MockClock
    ) -> None:
        async with open_pair(echo) as peer:
            with pytest.raises(error, match=r"^message "):
                await peer.send(message)  # type: ignore[arg-type]
            await peer.send("x")
            assert await peer.receive() == "x"

    async def test_raw_bytes_may_be_what_no_client_should_send(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(echo) as peer:
            frame = Frame(Opcode.TEXT, b"in pieces").serialize(mask=True)
            for byte in frame:
                await peer.send_raw(bytes([byte]))
            assert await peer.receive() == "in pieces"
            await peer.send_raw(Frame(Opcode.TEXT, b"bare").serialize(mask=False))
            assert (await peer.wait_closed()).code == 1002


class TestBeats:
    @pytest.mark.parametrize(("interval", "misses"), [(4.0, 3), (10.0, 1), (8.0, 5)])
    async def test_silence_ends_it_at_its_time(
        self, interval: float, misses: int, autojump_clock: MockClock
    ) -> None:
        heartbeat = Heartbeat(interval, misses)
        async with open_pair(idle, heartbeat=heartbeat) as peer:
            await trio.sleep(20 * interval)
            assert peer.closed is None
            assert peer.pings == 20
            last = FIRST_BEAT + 19 * interval
            peer.fall_silent()
            connection = peer.connection
            assert await peer.wait_closed() == SeenClose(1006, "")
            assert trio.current_time() == pytest.approx(last + heartbeat.patience, abs=1e-9)
            expected = Closed(EndReason.MISSED_BEATS, 1006, f"{misses} in a row")
            assert connection.closed == expected

    async def test_answering_again_in_time_saves_it(self, autojump_clock: MockClock) -> None:
        async with open_pair(idle, heartbeat=Heartbeat(INTERVAL)) as peer:
            await beaten(peer)
            peer.fall_silent()
            await beaten(peer)
            await beaten(peer)
            await beaten(peer)
            assert peer.connection.statistics().missed_beats == 2
            peer.answer_again()
            await peer.send("a sign of life")
            await beaten(peer)
            assert peer.connection.statistics().missed_beats == 0
            assert peer.connection.latency == 0
            await trio.sleep(100 * INTERVAL)
            assert peer.closed is None

    async def test_a_silent_peer_still_receives_and_sends(self, autojump_clock: MockClock) -> None:
        async with open_pair(echo) as peer:
            peer.fall_silent()
            await peer.send("x")
            assert await peer.receive() == "x"

    async def test_a_silent_peer_does_not_answer_a_close_frame(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            await connection.receive()

        async with open_pair(handler) as peer:
            peer.fall_silent()
            await peer.send("x")
            with pytest.raises(PeerClosed):
                await peer.receive()
            assert peer.closed == (1000, "")
            assert trio.current_time() == 0
            await peer.wait_closed()
            assert trio.current_time() == 5  # for the closing handshake

    @pytest.mark.parametrize("echoes", [False, True])
    async def test_text_heartbeats_are_no_messages(
        self, echoes: bool, autojump_clock: MockClock
    ) -> None:
        received = []

        async def handler(connection: Connection) -> None:
            async for message in connection:
                received.append(message)

        heartbeat = Heartbeat(INTERVAL, message="--heartbeat--")
        async with open_pair(handler, heartbeat=heartbeat, echo_heartbeats=echoes) as peer:
            await trio.sleep(10 * INTERVAL)
            assert peer.text_heartbeats == peer.pings == 10
            with pytest.raises(trio.WouldBlock):
                peer.receive_nowait()
            peer.fall_silent()
            assert await peer.wait_closed() == (1006, "")
        assert received == []


class TestSlowness:
    @pytest.mark.parametrize("policy", [SlowPolicy.DISCONNECT, SlowPolicy.DROP_OLDEST])
    async def test_what_is_not_read_waits_at_the_server(
        self, policy: SlowPolicy, autojump_clock: MockClock
    ) -> None:
        sent = 0

        async def handler(connection: Connection) -> None:
            nonlocal sent
            await connection.receive()
            for sent in range(100):
                connection.send_nowait(f"{sent:1000}")
            await connection.receive()

        limits = Limits(outbox=20_000, slow_policy=policy)
        async with open_pair(handler, limits=limits) as peer:
            peer.stop_reading()
            peer.stop_reading()
            await peer.send("go")
            await wait_all_tasks_blocked()
            if policy is SlowPolicy.DISCONNECT:
                assert sent < 40  # the kernel would have held 200 of them
                peer.read_on()
                assert await peer.wait_closed() == (1013, "too slow, outbox full")
            else:
                assert peer.connection.statistics().dropped > 60
                peer.read_on()
                messages = []
                with trio.move_on_after(1):
                    async for message in peer:
                        messages.append(message)
                assert messages[-1] == f"{99:1000}"
                assert len(messages) < 40

    async def test_a_peer_that_reads_on_is_as_fast_as_before(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(idle) as peer:
            peer.stop_reading()
            peer.read_on()
            peer.connection.send_nowait(b"x" * 100_000)
            assert peer.connection.statistics().outbox == 0
            assert await peer.receive() == b"x" * 100_000

    async def test_a_peer_that_does_not_read_is_dead_in_its_time(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(idle, heartbeat=Heartbeat(INTERVAL)) as peer:
            await beaten(peer)
            begun = trio.current_time()
            peer.stop_reading()
            connection = peer.connection
            with trio.fail_after(HANGS):
                while connection.closed is None:  # noqa: ASYNC110 - it has no event
                    await trio.sleep(0.125)
            assert trio.current_time() - begun <= 4 * INTERVAL
            assert connection.closed.by is EndReason.MISSED_BEATS
            assert peer.closed is None
            peer.read_on()
            assert await peer.wait_closed() == (1006, "")

    async def test_closing_reads_on(self, autojump_clock: MockClock) -> None:
        async with open_pair(take_all) as peer:
            peer.stop_reading()
            assert await peer.close(4000, "enough") == (4000, "enough")
            assert peer.connection.closed == Closed(EndReason.PEER, 4000, "enough")


class TestEnds:
    async def test_closing_waits_for_the_handler(self, autojump_clock: MockClock) -> None:
        ended = []

        async def handler(connection: Connection) -> None:
            async for _ in connection:
                pass
            await trio.sleep(3)
            ended.append(trio.current_time())

        async with open_pair(handler) as peer:
            assert peer.closed is None
            assert await peer.close(1001) == (1001, "")
            assert ended == [3]
            assert await peer.close() == (1001, "")  # once is enough
        assert trio.current_time() == 3

    @pytest.mark.parametrize(
        ("code", "reason", "error"),
        [(1006, "", ValueError), (1000, "é" * 62, ValueError), ("x", "", TypeError)],
    )
    async def test_what_may_not_be_sent_closes_nothing(
        self, code: int, reason: str, error: type[Exception], autojump_clock: MockClock
    ) -> None:
        async with open_pair(take_all) as peer:
            with pytest.raises(error, match=r"^close "):
                await peer.close(code, reason)
            assert peer.closed is None

    @pytest.mark.parametrize("reads", [True, False])
    async def test_a_cut_is_a_reset(self, reads: bool, autojump_clock: MockClock) -> None:
        async with open_pair(take_all) as peer:
            if not reads:
                peer.stop_reading()
            peer.cut()
            peer.cut()
            assert await peer.wait_closed() == (1006, "")
            await wait_all_tasks_blocked()
            closed = peer.connection.closed
            assert closed is not None
            assert closed.by is EndReason.LOST
            assert "reset" in closed.reason

    async def test_the_end_of_the_stream_lets_the_rest_come(
        self, autojump_clock: MockClock
    ) -> None:
        async def handler(connection: Connection) -> None:
            async for message in connection:
                await trio.sleep(1)
                await connection.send(message)

        async with open_pair(handler) as peer:
            await peer.send("x")
            peer.end_stream()
            await peer.wait_closed()
            closed = peer.connection.closed
            assert closed is not None
            assert (closed.by, closed.code) == (EndReason.PEER, 1006)

    async def test_each_way_to_be_gone_is_seen_by_who_waits(
        self, autojump_clock: MockClock
    ) -> None:
        async with open_pair(idle) as peer:
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(PeerClosed):
                        await peer.receive()

                nursery.start_soon(wait)
                nursery.start_soon(peer.wait_closed)
                await wait_all_tasks_blocked()
                peer.cut()
