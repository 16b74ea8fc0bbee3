"""The transport over a plain socket."""

from __future__ import annotations

import socket
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.harness import tcp_pair
from tests.support.transports import BUFFER, tcp_paired
from trio_beat import Message
from trio_beat._transports import END_OF_STREAM, Event, Failure, Response
from trio_beat._transports.framing import CLOSING_BYTES, LINGER_BYTES
from trio_beat._transports.outbox import Outbox
from trio_beat._transports.polling import Watch


def masked(text: str) -> bytes:
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)


class TestReceiving:
    async def test_what_came_with_the_request_is_first(self, autojump_clock: MockClock) -> None:
        async with tcp_paired(masked("early")) as pair:
            await pair.peer.send_text("late")
            assert await pair.receive() == ["early"]
            assert await pair.receive() == ["late"]

    async def test_half_a_frame_may_come_with_the_request(self, autojump_clock: MockClock) -> None:
        frame = masked("early")
        async with tcp_paired(frame[:4]) as pair:
            await pair.peer.send(frame[4:])
            assert await pair.receive() == []
            assert await pair.receive() == ["early"]

    @pytest.mark.parametrize("excess", [-1, 0, 1, BUFFER - 1, BUFFER, BUFFER + 1])
    async def test_a_buffer_filled_exactly_loses_nothing(
        self, excess: int, autojump_clock: MockClock
    ) -> None:
        text = "x" * (BUFFER + excess - 6 - 2 * (BUFFER + excess > 131))
        async with tcp_paired() as pair:
            assert len(masked(text)) == BUFFER + excess
            await pair.peer.send_text(text)
            received: list[Event] = []
            while not received:
                received = await pair.receive()
            assert received == [text]
            await pair.peer.send_text("next")
            while received != ["next"]:
                received = await pair.receive()

    async def test_the_end_of_the_stream_behind_data_is_seen(
        self, autojump_clock: MockClock
    ) -> None:
        async with tcp_paired() as pair:
            await pair.peer.send_text("last")
            await pair.peer.aclose()
            assert await pair.receive() == ["last"]
            assert await pair.receive() == [END_OF_STREAM]

    async def test_the_end_of_the_stream_behind_a_full_buffer_is_seen(
        self, autojump_clock: MockClock
    ) -> None:
        text = "x" * (BUFFER - 6)
        async with tcp_paired() as pair:
            await pair.peer.send_text(text)
            await pair.peer.aclose()
            assert await pair.receive() == [text]
            assert await pair.receive() == [END_OF_STREAM]

    async def test_an_end_of_stream_that_comes_alone_is_seen(
        self, autojump_clock: MockClock
    ) -> None:
        async with tcp_paired() as pair, trio.open_nursery() as nursery:

            async def read() -> None:
                assert await pair.receive() == [END_OF_STREAM]

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            await pair.peer.aclose()

    async def test_a_reset_is_an_os_error(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            await pair.peer.reset()
            with pytest.raises(ConnectionResetError):
                await pair.receive()

    async def test_nothing_to_receive_is_no_event(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            assert pair.transport.receive_nowait() is None


@pytest.mark.needs_epoll
async def test_a_large_read_is_told_to_the_poller(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Watch] = []
    monkeypatch.setattr(Watch, "large", lambda watch: told.append(watch))
    async with tcp_paired(buffer_size=2**17) as pair:
        await pair.peer.send(masked("x" * 16_000))
        await pair.receive()
        assert not told
        await pair.peer.send(masked("x" * 17_000))
        await pair.receive()
        assert told


class TestUrgentData:
    """A read stops at an urgent mark (tcp(7)), and what stands behind it is no new edge."""

    @pytest.mark.needs_epoll
    async def test_what_stands_behind_the_mark_is_read(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            second = masked("2")
            await pair.peer.send(masked("1") + second[:3])
            pair.peer.send_at_once(second[3:] + b"!", urgent=True)
            await pair.peer.send(masked("3"))
            await trio.sleep(1)
            received: list[Event] = []
            while len(received) < 3:
                received += await pair.receive()
            assert received == ["1", "2", "3"]
            assert await pair.receive() == []
            assert not await pair.ready()

    async def test_one_mark_after_the_other(self, patient_clock: MockClock) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            for number in range(10):
                pair.peer.send_at_once(b"!", urgent=True)
                await pair.peer.send(masked(str(number)))
                await trio.sleep(1)
                received: list[Event] = []
                while not received:
                    received += await pair.receive()
                assert received == [str(number)]

    @pytest.mark.needs_epoll
    async def test_an_urgent_byte_alone_leaves_nothing_to_read(
        self, patient_clock: MockClock
    ) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            pair.peer.send_at_once(b"!", urgent=True)
            await trio.sleep(1)
            assert await pair.receive() == []
            assert not pair.transport.stirring(0)
            await pair.peer.send_text("x")
            received = await pair.receive()
            assert received == ["x"]
            assert not await pair.ready()


class TestWriting:
    async def test_takes_what_the_socket_takes(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            assert pair.transport.write_nowait(Response(b"abc")) == 3
            assert await pair.peer.stream.receive_some() == b"abc"
            pair.fill()
            assert pair.transport.write_nowait(Response(b"abc")) == 0

    async def test_to_a_peer_that_is_gone_is_an_os_error(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            await pair.peer.aclose()
            with pytest.raises(BrokenPipeError):
                pair.transport.write_nowait(Response(b"abc"))

    async def test_drain_waits_for_room_and_goes_on_where_it_was(
        self, autojump_clock: MockClock
    ) -> None:
        async with tcp_paired() as pair:
            total = pair.fill()
            messages = [Message(bytes([65 + index]) * 5000) for index in range(100)]
            outbox = Outbox(messages[0])
            for message in messages[1:]:
                outbox.append(message)
            frames = [message.frame for message in messages]
            with trio.move_on_after(1) as scope:
                await pair.transport.drain(outbox)
            assert scope.cancelled_caught
            assert outbox.size == sum(map(len, frames))

            async def drain() -> None:
                while outbox.size:
                    await pair.transport.drain(outbox)

            received = b""
            expected = b"\0" * total + b"".join(frames)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                while len(received) < len(expected):
                    received += await pair.peer.stream.receive_some(7001)
            assert received == expected

    async def test_abort_wakes_a_drain_with_an_os_error(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair, trio.open_nursery() as nursery:
            pair.fill()

            async def drain() -> None:
                with pytest.raises(ConnectionAbortedError):
                    await pair.transport.drain(Outbox(Response(b"abc")))

            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            pair.transport.abort()

    async def test_a_reader_that_is_woken_leaves_the_writer_waiting(
        self, autojump_clock: MockClock
    ) -> None:
        async with tcp_paired() as pair, trio.open_nursery() as nursery:
            pair.fill()
            nursery.start_soon(pair.transport.drain, Outbox(Response(b"abc")))
            received: list[Event] = []

            async def read() -> None:
                received.extend(await pair.receive())

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            pair.transport.give_up("too many")
            await wait_all_tasks_blocked()
            assert [type(event) for event in received] == [Failure]
            nursery.cancel_scope.cancel()

    async def test_drain_after_abort_is_an_os_error(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            pair.transport.abort()
            with pytest.raises(ConnectionAbortedError):
                await pair.transport.drain(Outbox(Response(b"abc")))


class TestEnding:
    async def test_abort_wakes_the_reader_with_an_os_error(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair, trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(ConnectionAbortedError):
                    await pair.receive()

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            pair.transport.abort()

    async def test_reading_after_abort_is_an_os_error(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            pair.transport.abort()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await pair.receive()

    async def test_abort_twice_is_abort(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair:
            pair.transport.abort()
            pair.transport.abort()
            assert await pair.peer.stream.receive_some() == b""

    async def test_finish_waits_for_the_peer_s_close_frame_and_its_end(
        self, autojump_clock: MockClock
    ) -> None:
        async with tcp_paired() as pair, trio.open_nursery() as nursery:
            pair.transport.write_nowait(pair.transport.close_frame(1001, ""))

            async def answer() -> None:
                assert await pair.peer.closed() is not None
                await trio.sleep(1)
                await pair.peer.send_text("crosses")
                await trio.sleep(1)
                await pair.peer.send_close(1001)
                assert await pair.peer.frame() is None
                assert trio.current_time() == 2
                await trio.sleep(1)
                await pair.peer.send(b"x" * 1000)
                await pair.peer.aclose()

            nursery.start_soon(answer)
            await pair.transport.finish(answered=False)
            assert trio.current_time() == 3

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("answered", "most"), [(True, LINGER_BYTES), (False, CLOSING_BYTES)], ids=["linger", "wait"]
    )
    async def test_finish_reads_little_and_then_resets(
        self, answered: bool, most: int, very_patient_clock: MockClock
    ) -> None:
        async with tcp_paired(pair=tcp_pair) as pair:
            sent = 0
            frame = Frame(Opcode.BINARY, b"x" * 900_000).serialize(mask=True)
            finished = trio.Event()

            async def flood() -> None:
                nonlocal sent
                with pytest.raises(trio.BrokenResourceError):
                    while True:
                        await pair.peer.send(frame)
                        sent += len(frame)

            async def finish() -> None:
                await pair.transport.finish(answered=answered)
                finished.set()

            pair.transport.write_nowait(pair.transport.close_frame(1001, "bye"))
            pair.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                nursery.start_soon(finish)
            assert finished.is_set()
            assert pair.sock.fileno() == -1
            # The rest is what the kernels hold.
            assert sent < most + 10 * 2**20
            # It was time enough for a peer that reads.
            assert trio.current_time() >= 1

    async def test_a_peer_in_the_midst_of_sending_gets_the_close_frame(
        self, very_patient_clock: MockClock
    ) -> None:
        async with tcp_paired(pair=tcp_pair) as pair, trio.open_nursery() as nursery:

            async def flood() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while True:
                        await pair.peer.send(b"\0" * 2**20)

            async def leave() -> None:
                assert await pair.peer.closed() == Close(1009, "")
                await pair.peer.aclose()

            pair.transport.write_nowait(pair.transport.close_frame(1009, ""))
            nursery.start_soon(flood)
            nursery.start_soon(leave)
            with suppress(OSError):
                await pair.transport.finish(answered=True)

    async def test_finish_does_not_wait_for_a_close_frame_that_was_read_already(
        self, autojump_clock: MockClock
    ) -> None:
        async with tcp_paired() as pair, trio.open_nursery() as nursery:
            await pair.peer.send_close(1000)
            await pair.receive()

            async def leave() -> None:
                assert await pair.peer.frame() is None
                await pair.peer.aclose()

            nursery.start_soon(leave)
            with trio.fail_after(1):
                await pair.transport.finish(answered=False)

    async def test_a_peer_that_closed_its_socket_does_not_answer_any_more(
        self, autojump_clock: MockClock
    ) -> None:
        async with tcp_paired() as pair:
            await pair.peer.aclose()
            await pair.transport.finish(answered=False)


class TestReader:
    @pytest.mark.needs_epoll
    async def test_a_reader_that_overlooked_bytes_is_woken(self, autojump_clock: MockClock) -> None:
        async with tcp_paired() as pair, trio.open_nursery() as nursery:
            received: list[Event] = []

            async def read() -> None:
                received.extend(await pair.receive())

            await pair.peer.send_text("x")
            await wait_all_tasks_blocked()
            pair.transport._watch.empty()  # the edge is lost
            nursery.start_soon(read)
            await trio.sleep(1)
            assert received == []
            assert pair.transport.stirring(0)
            await wait_all_tasks_blocked()
            assert received == ["x"]
