"""The transport over TLS: real handshakes and records, over a socket pair.

What holds for TCP as well is in `test_tcp_and_tls`.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Close, Frame, Opcode

from tests.support.transports import drain, tls_paired
from trio_beat import Message
from trio_beat._transports import END_OF_STREAM, Response
from trio_beat._transports.outbox import Outbox

#: Bytes of one record's content at most (RFC 8446, section 5.1).
RECORD = 16384


async def test_both_directions(autojump_clock: MockClock) -> None:
    async with tls_paired() as pair:
        await pair.peer.send_text("in")
        assert await pair.receive() == ["in"]
        await drain(pair.transport, Outbox(Message("out")))
        assert await pair.peer.text() == "out"


async def test_what_came_with_the_request_is_first(autojump_clock: MockClock) -> None:
    early = Frame(Opcode.TEXT, b"early").serialize(mask=True)
    async with tls_paired(early) as pair:
        await pair.peer.send_text("late")
        assert await pair.receive() == ["early"]
        assert await pair.receive() == ["late"]


async def test_a_wait_that_is_cancelled_loses_nothing(autojump_clock: MockClock) -> None:
    async with tls_paired() as pair:
        with trio.move_on_after(1):
            await pair.transport.wait_readable()
        assert pair.transport.receive_nowait() is None
        await pair.peer.send_text("x")
        await pair.transport.wait_readable()
        with trio.CancelScope() as scope:
            scope.cancel()
            await pair.transport.wait_readable()
        assert pair.transport.receive_nowait() == ["x"]


class TestWriting:
    async def test_what_the_socket_takes_is_written_at_once(
        self, autojump_clock: MockClock
    ) -> None:
        async with tls_paired() as pair:
            message = Message("x" * 3 * RECORD)
            assert pair.transport.write_nowait(message) == len(message.frame)
            assert await pair.peer.text() == "x" * 3 * RECORD

    async def test_a_record_that_is_not_taken_whole_keeps_its_last_byte_in_the_outbox(
        self, autojump_clock: MockClock
    ) -> None:
        async with tls_paired() as pair, trio.open_nursery() as nursery:
            pair.shrink()
            a, b, c = (Message(letter * 10_000) for letter in "abc")
            taken = pair.transport.write_nowait(a)
            assert taken == len(a.frame) - 1
            outbox = Outbox(a, taken)
            outbox.append(b)
            outbox.append(c)
            assert outbox.drop_oldest(len(c.frame) + 2) == 1
            nursery.start_soon(drain, pair.transport, outbox)
            assert [await pair.peer.text() for _ in "ac"] == ["a" * 10_000, "c" * 10_000]

    async def test_a_frame_whose_first_byte_ends_a_record_is_not_dropped(
        self, autojump_clock: MockClock
    ) -> None:
        async with tls_paired() as pair, trio.open_nursery() as nursery:
            pair.shrink()
            outbox = Outbox(Message("a" * (RECORD - 5)))
            outbox.append(Message("begun"))
            await pair.transport.drain(outbox)
            assert outbox.size == len(Message("begun").frame)
            outbox.drop_all()
            outbox.append(Message(b"behind"))
            nursery.start_soon(drain, pair.transport, outbox)
            assert await pair.peer.text() == "a" * (RECORD - 5)
            assert await pair.peer.text() == "begun"
            assert await pair.peer.frame() == Frame(Opcode.BINARY, b"behind")

    async def test_of_a_large_message_no_more_than_one_record_is_under_way(
        self, autojump_clock: MockClock
    ) -> None:
        async with tls_paired() as pair, trio.open_nursery() as nursery:
            pair.shrink()
            message = Message("x" * 100_000)
            taken = pair.transport.write_nowait(message)
            assert taken % RECORD == RECORD - 1
            nursery.start_soon(drain, pair.transport, Outbox(message, taken))
            assert await pair.peer.text() == "x" * 100_000

    async def test_a_drain_cancelled_halfway_leaves_a_stream_that_can_be_used(
        self, autojump_clock: MockClock
    ) -> None:
        async with tls_paired() as pair, trio.open_nursery() as nursery:
            with trio.move_on_after(1):  # what the handshake left: session tickets
                await pair.peer.frame()
            pair.shrink()
            messages = [Message(str(index) * 5000) for index in range(10)]
            outbox = Outbox(Response(b"".join(message.frame for message in messages)))
            with trio.move_on_after(1):
                await drain(pair.transport, outbox)
            assert trio.current_time() == 2
            assert 0 < outbox.size < sum(len(message.frame) for message in messages)
            nursery.start_soon(drain, pair.transport, outbox)
            texts = [await pair.peer.text() for _ in messages]
            assert texts == [str(index) * 5000 for index in range(10)]

    async def test_what_a_record_lacks_stands_before_a_ping(
        self, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        monkeypatch.setattr(
            "trio_beat._transports.tcp.TCPTransport.stirring",
            lambda _, queued: asked.append(queued),
        )
        async with tls_paired() as pair:
            pair.shrink()
            message = Message(b"x" * 10_000)
            assert pair.transport.write_nowait(message) == len(message.frame) - 1
            pair.transport.stirring(1)
            assert asked == [1 + len(pair.transport._session.unsent)]
            assert asked[0] > 1000


async def test_abort_wakes_the_reader_with_an_os_error(autojump_clock: MockClock) -> None:
    async with tls_paired() as pair, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(ConnectionAbortedError):
                await pair.receive()

        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        pair.transport.abort()


async def test_abort_wakes_a_drain_with_an_os_error(autojump_clock: MockClock) -> None:
    async with tls_paired() as pair, trio.open_nursery() as nursery:
        pair.shrink()

        async def write() -> None:
            with pytest.raises(ConnectionAbortedError):
                await drain(pair.transport, Outbox(Response(b"x" * 100_000)))

        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        pair.transport.abort()
        pair.transport.abort()


async def test_after_abort_everything_is_an_os_error(autojump_clock: MockClock) -> None:
    async with tls_paired() as pair:
        pair.transport.abort()
        with pytest.raises(OSError, match="Bad file descriptor"):
            await pair.receive()
        with pytest.raises(ConnectionAbortedError):
            await pair.transport.drain(Outbox(Response(b"x")))
        with pytest.raises(OSError, match="PROTOCOL_IS_SHUTDOWN"):
            pair.transport.write_nowait(Response(b"x"))


async def test_the_peer_s_close_notify_is_the_end_of_the_stream(
    autojump_clock: MockClock,
) -> None:
    async with tls_paired() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.stream.aclose)
        assert await pair.receive() == [END_OF_STREAM]
        pair.transport.abort()


async def test_an_end_without_close_notify_is_one_as_well(autojump_clock: MockClock) -> None:
    async with tls_paired() as pair:
        await pair.peer.plain.send_eof()
        assert await pair.receive() == [END_OF_STREAM]


async def test_a_record_that_is_none_is_an_os_error_behind_what_came_before(
    autojump_clock: MockClock,
) -> None:
    async with tls_paired() as pair:
        await pair.peer.send_text("last")
        await pair.peer.plain.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert await pair.receive() == ["last"]
        with pytest.raises(ConnectionResetError, match="DECRYPTION_FAILED_OR_BAD_RECORD_MAC"):
            await pair.receive()


async def test_finish_closes_both_layers(autojump_clock: MockClock) -> None:
    async with tls_paired() as pair, trio.open_nursery() as nursery:
        await drain(pair.transport, Outbox(pair.transport.close_frame(1001, "bye")))

        async def answer() -> None:
            assert await pair.peer.closed() == Close(1001, "bye")
            await trio.sleep(1)
            await pair.peer.send_close(1001)
            # An end without a close_notify would be an error here.
            assert await pair.peer.frame() is None
            await trio.sleep(1)
            await pair.peer.stream.aclose()

        nursery.start_soon(answer)
        await pair.transport.finish(answered=False)
        assert trio.current_time() == 2


async def test_finish_accepts_an_end_without_close_notify(
    autojump_clock: MockClock,
) -> None:
    async with tls_paired() as pair, trio.open_nursery() as nursery:
        await pair.peer.plain.send_eof()
        nursery.start_soon(pair.peer.closed)
        await pair.transport.finish(answered=True)


async def test_bytes_in_the_kernel_are_stirring(autojump_clock: MockClock) -> None:
    async with tls_paired() as pair:
        with trio.move_on_after(1):  # what the handshake left: session tickets
            await pair.peer.frame()
        assert not pair.transport.stirring(0)
        await pair.peer.send_text("x")
        assert pair.transport.stirring(0)
        await pair.receive()
        assert not pair.transport.stirring(0)
