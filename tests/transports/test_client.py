"""A client's transports, over TCP and TLS, against servers that a test plays."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Close, Frame, Opcode

from tests.support.transports import client_paired, drain
from trio_beat import Message
from trio_beat._transports import (
    END_OF_STREAM,
    BeatFrames,
    CloseFrame,
    Event,
    Failure,
    Outgoing,
    PeerClose,
    Pong,
    Reply,
    Response,
)
from trio_beat._transports.framing import LINGER_BYTES
from trio_beat._transports.outbox import Outbox

both = pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])


def plain(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A server's frame."""
    return Frame(opcode, data, fin).serialize(mask=False)


def closing(code: int = 1000, reason: str = "") -> bytes:
    return plain(Opcode.CLOSE, Close(code, reason).serialize())


@both
class TestReceiving:
    @pytest.mark.parametrize("size", [0, 1, 3, 124, 125, 126, 127, 128, 70_000])
    async def test_messages_of_every_length_encoding(
        self, autojump_clock: MockClock, secure: bool, size: int
    ) -> None:
        async with client_paired(secure=secure) as pair:
            for opcode, expected in ((Opcode.TEXT, "x" * size), (Opcode.BINARY, b"x" * size)):
                await pair.peer.send(plain(opcode, b"x" * size))
                got: list[Event] = []
                while not got:
                    got = await pair.receive()
                assert got == [expected]

    @pytest.mark.parametrize(
        ("payload", "number"), [(b"\0\0\1\2", 0x102), (b"", -1), (b"abcde", -1)]
    )
    async def test_a_pong(
        self, autojump_clock: MockClock, secure: bool, payload: bytes, number: int
    ) -> None:
        async with client_paired(secure=secure) as pair:
            await pair.peer.send_frame(Opcode.PONG, payload)
            assert await pair.receive() == [Pong(number)]

    async def test_what_came_with_the_response_is_first(
        self, autojump_clock: MockClock, secure: bool
    ) -> None:
        early = plain(Opcode.TEXT, b"early") + plain(Opcode.TEXT, b"cut")[:3]
        async with client_paired(secure=secure, received=early) as pair:
            await pair.peer.send(plain(Opcode.TEXT, b"cut")[3:])
            assert await pair.receive() == ["early"]
            got: list[Event] = []
            while not got:
                got = await pair.receive()
            assert got == ["cut"]

    async def test_a_conversation_byte_by_byte(
        self, autojump_clock: MockClock, secure: bool
    ) -> None:
        sent = (
            plain(Opcode.TEXT, b"a", fin=False)
            + plain(Opcode.PING, b"p")
            + plain(Opcode.CONT, b"b")
            + plain(Opcode.BINARY, b"x" * 200)
            + closing(4000, "bye")
        )
        got: list[Event] = []
        async with client_paired(secure=secure) as pair:
            for number in range(len(sent)):
                await pair.peer.send(sent[number : number + 1])
                got += await pair.receive()
        ping, *messages, close = got
        assert isinstance(ping, Reply)
        assert messages == ["ab", b"x" * 200]
        assert isinstance(close, PeerClose)
        assert (close.code, close.reason) == (4000, "bye")

    async def test_tiny_frames_are_parsed_in_turns(
        self, autojump_clock: MockClock, secure: bool
    ) -> None:
        count = 500
        async with client_paired(secure=secure) as pair, trio.open_nursery() as nursery:
            nursery.start_soon(pair.peer.send, b"".join([plain(Opcode.TEXT, b"x")] * count))
            turns: list[list[Event]] = []
            while sum(map(len, turns)) < count:
                turns.append(await pair.receive())
            assert max(map(len, turns)) <= 64

    @pytest.mark.parametrize(
        "sent",
        [
            Frame(Opcode.TEXT, b"x").serialize(mask=True),
            Frame(Opcode.PONG, b"\0\0\0\1").serialize(mask=True),
            plain(Opcode.TEXT, b"x") + Frame(Opcode.TEXT, b"x").serialize(mask=True),
            b"\xc1\x01x",
            b"\x89\x7e\x00\x7e" + b"x" * 126,
            b"\x81\x7e\x00\x05abcde",
            plain(Opcode.CONT, b"x"),
            plain(Opcode.CLOSE, b"\x03"),
        ],
        ids=[
            *("masked", "masked PONG", "masked later", "reserved bit", "long PING", "length"),
            *("continuation", "close"),
        ],
    )
    async def test_what_breaks_the_rules_is_told(
        self, autojump_clock: MockClock, secure: bool, sent: bytes
    ) -> None:
        async with client_paired(secure=secure) as pair:
            await pair.peer.send(sent)
            failure = (await pair.receive())[-1]
            assert isinstance(failure, Failure)
            assert failure.code == 1002
            assert failure.reply is not None
            pair.transport.write_nowait(failure.reply)
            close = await pair.peer.closed()
            assert close is not None
            assert close.code == 1002


@both
class TestSending:
    async def test_every_kind_of_item_is_masked(
        self, autojump_clock: MockClock, secure: bool
    ) -> None:
        """The peer takes no other frames."""
        items: list[Outgoing] = [
            Message("text"),
            BeatFrames(1, "beat", plain(Opcode.PING, b"1") + plain(Opcode.TEXT, b"beat")),
            Reply(Frame(Opcode.PONG, b"masked").serialize(mask=True)),
            CloseFrame(1000, "", closing()),
        ]
        async with client_paired(secure=secure) as pair:
            for item in items:
                assert pair.transport.write_nowait(item) == item.size
            got = [await pair.peer.frame() for _ in range(5)]
        assert [(it.opcode, bytes(it.data)) for it in got if it is not None] == [
            (Opcode.TEXT, b"text"),
            (Opcode.PING, b"1"),
            (Opcode.TEXT, b"beat"),
            (Opcode.PONG, b"masked"),
            (Opcode.CLOSE, b"\x03\xe8"),
        ]

    async def test_a_ping_is_answered(self, autojump_clock: MockClock, secure: bool) -> None:
        async with client_paired(secure=secure) as pair:
            await pair.peer.send_frame(Opcode.PING, b"payload")
            (reply,) = await pair.receive()
            assert isinstance(reply, Reply)
            pair.transport.write_nowait(reply)
            pong = await pair.peer.frame()
            assert pong is not None
            assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"payload")

    async def test_what_the_socket_does_not_take_follows_whole_and_in_order(
        self, autojump_clock: MockClock, secure: bool
    ) -> None:
        async with client_paired(secure=secure) as pair, trio.open_nursery() as nursery:
            sent, outbox = pair.fill()
            for size in (1, 200_000, *range(100)):
                sent.append(b"." * size)
                outbox.append(Message(sent[-1]))
            nursery.start_soon(drain, pair.transport, outbox)
            for payload in sent:
                frame = await pair.peer.frame()
                assert frame is not None
                assert bytes(frame.data) == payload


@both
class TestAWriteThatFails:
    async def test_does_not_hide_what_came_before(
        self, autojump_clock: MockClock, secure: bool
    ) -> None:
        async with client_paired(secure=secure) as pair:
            await pair.peer.send_text("last words")
            await pair.peer.aclose()
            message = Message("into the void")
            for _ in range(3):
                assert pair.transport.write_nowait(message) == message.size
            assert await pair.receive() == ["last words"]
            with pytest.raises(ConnectionResetError, match="Broken pipe"):
                await pair.receive()

    async def test_ends_the_draining(self, autojump_clock: MockClock, secure: bool) -> None:
        async with client_paired(secure=secure) as pair:
            _, outbox = pair.fill()
            outbox.append(Message("more"))
            await pair.peer.aclose()
            await drain(pair.transport, outbox)
            assert outbox.size == 0

    async def test_an_aborted_one_raises(self, autojump_clock: MockClock, secure: bool) -> None:
        async with client_paired(secure=secure) as pair:
            pair.transport.abort()
            raised = []
            outbox = Outbox(Response(b"x"))
            for call in (pair.transport.wait_readable, partial(pair.transport.drain, outbox)) * 2:
                with pytest.raises(ConnectionAbortedError, match="socket was closed") as caught:
                    while True:
                        await call()
                raised.append(caught.value)
            assert all(one is not other for one, other in pairwise(raised))


@both
class TestFinishing:
    """RFC 6455, section 7.1.1: the server closes the socket first."""

    async def test_waits_for_the_server(self, autojump_clock: MockClock, secure: bool) -> None:
        async with client_paired(secure=secure) as pair, trio.open_nursery() as nursery:

            async def serve() -> None:
                await trio.sleep(3)
                await pair.peer.send_close()
                await trio.sleep(0.5)
                await pair.peer.stream.aclose()

            nursery.start_soon(serve)
            await pair.transport.finish(answered=False)
            assert trio.current_time() == 3.5

    @pytest.mark.parametrize(("answered", "seconds"), [(False, 1), (True, 4)])
    async def test_is_not_for_ever(
        self, autojump_clock: MockClock, secure: bool, answered: bool, seconds: float
    ) -> None:
        async with client_paired(secure=secure) as pair:
            await pair.peer.send_close()
            if answered:
                assert isinstance((await pair.receive())[0], PeerClose)
            with trio.move_on_after(4):
                await pair.transport.finish(answered=answered)
            assert trio.current_time() == seconds

    async def test_does_not_read_a_server_to_the_end_that_sends_on(
        self, autojump_clock: MockClock, secure: bool
    ) -> None:
        async with client_paired(secure=secure) as pair, trio.open_nursery() as nursery:
            await pair.peer.send_close()

            async def flood() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    for _ in range(10 * LINGER_BYTES // 65536):
                        await pair.peer.send(b"x" * 65536)

            assert isinstance((await pair.receive())[0], PeerClose)
            nursery.start_soon(flood)
            await pair.transport.finish(answered=True)
            assert pair.sock.fileno() == -1

    async def test_sees_the_end_of_the_stream(
        self, autojump_clock: MockClock, secure: bool
    ) -> None:
        async with client_paired(secure=secure) as pair:
            await pair.peer.stream.aclose()
            assert (await pair.receive())[-1] is END_OF_STREAM
            await pair.transport.finish(answered=True)
            assert trio.current_time() == 0
