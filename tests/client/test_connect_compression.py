"""A client that offers compression, against servers of all kinds (RFC 7692)."""

from __future__ import annotations

import gc
import ssl
import tracemalloc
import weakref
import zlib
from pathlib import Path

import pytest
import trio
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from websockets.frames import Opcode

from tests.client.test_connect_peers import CHAT, websockets_server
from tests.support.deflating import END, PIECE, compressed, make_deflate, some_json
from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from tests.support.framing import plain, rsv1
from tests.support.harness import echo, tls_contexts
from tests.support.names import local_names
from tests.support.peer import Peer
from tests.support.serving import serving
from tests.support.transports import client_paired
from trio_beat import (
    Closed,
    Compression,
    Connection,
    ConnectionLost,
    EndReason,
    HandshakeFailed,
    Message,
    connect,
    reconnecting,
)
from trio_beat._client.parts import parts

__all__ = ["fake_server", "local_names"]  # fixtures

EAGER = Compression(threshold=0)
ANSWER = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
SIZES = (0, 1, 100, 300, PIECE, PIECE + 1, 10 * PIECE)
LIMIT = 2**20


async def check_echo(connection: Connection) -> None:
    for size in SIZES:
        for message in (some_json(size), some_json(size).encode()):
            await connection.send(message)
            assert await connection.receive() == message


class TestOurs:
    @pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
    @pytest.mark.parametrize(("client", "server"), [(15, 15), (9, 15), (15, 9), (12, 10)])
    async def test_messages_are_compressed_both_ways(
        self, patient_clock: MockClock, local_names: None, secure: bool, client: int, server: int
    ) -> None:
        theirs, ours = tls_contexts() if secure else (None, None)
        wanted = Compression(level=2, window_bits=client, threshold=200)
        compression = Compression(window_bits=server)
        async with serving(echo, compression=compression, ssl_context=theirs) as running:
            url = f"ws{'s' * secure}://localhost:{running.port}/ws/x"
            async with connect(url, compression=wanted, ssl_context=ours) as connection:
                assert connection.compression == wanted
                await check_echo(connection)
            counts = running.statistics().compression
        assert connection.closed == Closed(EndReason.HANDLER, 1000, "")
        assert counts is not None
        large = 2 * sum(size > 256 for size in SIZES)
        assert (counts.accepted, counts.compressed, counts.inflated) == (1, large, large)
        assert counts.inflated_after > 3 * counts.inflated_before

    @pytest.mark.parametrize("offers", [False, True])
    async def test_where_one_side_has_it_off_the_connection_is_plain(
        self, patient_clock: MockClock, offers: bool
    ) -> None:
        ours, theirs = (EAGER, None) if offers else (None, EAGER)
        async with serving(echo, compression=theirs) as running:
            url = f"ws://127.0.0.1:{running.port}/ws/x"
            async with connect(url, compression=ours) as connection:
                assert connection.compression is None
                await check_echo(connection)
            counts = running.statistics().compression
        assert counts is None or not any(counts)

    async def test_what_is_sent_without_waiting_keeps_its_order(
        self, patient_clock: MockClock
    ) -> None:
        async with serving(echo, compression=EAGER) as running:
            url = f"ws://127.0.0.1:{running.port}/ws/x"
            messages = ["1", some_json(5 * PIECE), "2", some_json(3 * PIECE), "3"]
            async with (
                connect(url, compression=EAGER) as connection,
                trio.open_nursery() as nursery,
            ):
                for message in messages:
                    nursery.start_soon(connection.send, message)
                    await trio.lowlevel.checkpoint()  # until it has begun
                assert [await connection.receive() for _ in messages] == messages

    async def test_a_large_message_that_several_send_at_a_time_is_compressed_once(
        self, patient_clock: MockClock
    ) -> None:
        message = Message(some_json(20 * PIECE))
        async with serving(echo, compression=EAGER) as running:
            url = f"ws://127.0.0.1:{running.port}/ws/x"
            async with (
                connect(url, compression=EAGER) as first,
                connect(url, compression=EAGER) as second,
            ):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(first.send, message)
                    nursery.start_soon(second.send, message)
                for connection in (first, second):
                    assert await connection.receive() == message.payload
                assert parts().deflate(EAGER, 15).counts.compressed == 1
                assert not parts().under_way

    async def test_each_connection_of_reconnecting_offers_it(
        self, patient_clock: MockClock
    ) -> None:
        async with serving(echo, compression=EAGER) as running:
            url = f"ws://127.0.0.1:{running.port}/ws/x"
            async with reconnecting(url, compression=EAGER) as connections:
                for _ in range(2):
                    connection = await anext(connections)
                    assert connection.compression == EAGER
                    await connection.send("x" * 100)
                    assert await connection.receive() == "x" * 100
            counts = running.statistics().compression
        assert counts is not None
        assert (counts.accepted, counts.inflated) == (2, 2)

    async def test_connections_share_what_compresses_until_the_last_has_ended(
        self, patient_clock: MockClock
    ) -> None:
        message = Message(some_json(1000))
        async with serving(echo, compression=EAGER) as running:
            url = f"ws://127.0.0.1:{running.port}/ws/x"
            async with (
                connect(url, compression=Compression(level=1)) as first,
                connect(url, compression=Compression(level=1)) as second,
            ):
                for connection in (first, second):
                    await connection.send(message)
                    assert await connection.receive() == message.payload
                deflate = parts().deflate(Compression(level=1), 15)
                assert deflate.counts.compressed == 1
                assert deflate.counts.inflated == 2
                left = weakref.ref(deflate)
                del deflate
            del first, second, connection
        gc.collect()
        assert left() is None


@pytest.mark.real
class TestWebsockets:
    """Its extension keeps a window unless it is asked not to."""

    @pytest.mark.parametrize("bits", [15, 9])
    async def test_echoes(self, bits: int) -> None:
        compression = Compression(window_bits=bits, threshold=0)
        async with (
            websockets_server() as port,
            connect(
                f"ws://127.0.0.1:{port}/", subprotocols=CHAT, compression=compression
            ) as connection,
        ):
            # Its server asks for windows of 12.
            assert connection.compression == Compression(window_bits=min(bits, 12), threshold=0)
            for _ in range(3):
                await check_echo(connection)
        assert connection.closed == Closed(EndReason.HANDLER, 1000, "")

    async def test_over_tls(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        chain = tmp_path / "chain.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(chain)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        async with (
            websockets_server(str(chain)) as port,
            connect(
                f"wss://localhost:{port}/",
                ssl_context=client,
                subprotocols=CHAT,
                compression=EAGER,
            ) as connection,
        ):
            assert connection.compression is not None
            await check_echo(connection)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_any_messages_both_ways(secure: bool) -> None:
    """What is masked and sent is read by websockets' extension, and the other way round."""

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.one_of(st.text(max_size=400), st.binary(max_size=400)), max_size=6),
        st.sampled_from([0, 10, 300]),
        st.integers(9, 15),
        st.booleans(),
    )
    def check(messages: list[str | bytes], threshold: int, bits: int, repeated: bool) -> None:
        sent = [message * (1 + 20 * repeated) for message in messages]
        trio.run(exchange, sent, threshold, bits)

    async def exchange(messages: list[str | bytes], threshold: int, bits: int) -> None:
        deflate = make_deflate(threshold=threshold, window_bits=bits)
        async with client_paired(secure=secure, deflate=deflate) as pair:
            pair.peer.compress(window_bits=bits)
            for message in messages:
                data = message.encode() if isinstance(message, str) else message
                opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
                item = deflate.of(Message(message))
                assert pair.transport.write_nowait(item) == item.size
                frame = await pair.peer.frame()
                assert frame is not None
                assert (frame.opcode, bytes(frame.data)) == (opcode, data)
                await pair.peer.send_frame(opcode, data)
                got: list[object] = []
                while not got:
                    got += await pair.receive()
                assert got == [message]

    check()


async def get(fake_server: FakeServer, *frames: bytes, answer: str = ANSWER) -> ConnectionLost:
    """How a connection is lost whose server accepts the offer, and sends these frames."""
    seen: list[Peer] = []

    async def serve() -> None:
        peer = await fake_server.accept(header=answer, behind=b"".join(frames))
        seen.append(peer)
        await answer_pings(peer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(ConnectionLost) as raised:
            async with connect(URL, compression=EAGER, message_size=LIMIT) as connection:
                async for _ in connection:
                    pass
                await trio.sleep_forever()
    return raised.value


class TestBadServers:
    @pytest.mark.parametrize(
        ("answer", "why"),
        [
            ("permessage-deflate", "no server_no_context_takeover, which was asked for"),
            ("permessage-deflate; server_no_context_takeover; s3cret", "an unknown parameter"),
            ("s3cret", "an extension that was not offered"),
            (";;s3cret", "malformed Sec-WebSocket-Extensions"),
        ],
    )
    async def test_a_wrong_answer_is_no_connection(
        self,
        fake_server: FakeServer,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        answer: str,
        why: str,
    ) -> None:
        async def serve() -> None:
            peer = await fake_server.accept(header=f"Sec-WebSocket-Extensions: {answer}")
            assert await peer.stream.receive_some(1) == b""  # the client has closed the socket

        with pytest.raises(HandshakeFailed, match=why) as raised:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(serve)
                try:
                    async with connect(URL, compression=EAGER):
                        pass
                except HandshakeFailed as exc:
                    failed = exc
            raise failed
        assert "s3cret" not in str(raised.value)

    async def test_the_offer_is_in_the_request(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve() -> None:
            await answer_pings(await fake_server.accept(header=ANSWER))

        nursery.start_soon(serve)
        async with connect(URL, compression=EAGER) as connection:
            assert connection.compression == EAGER
        offer = "; client_no_context_takeover; server_no_context_takeover; client_max_window_bits"
        line = f"\r\nSec-WebSocket-Extensions: permessage-deflate{offer}\r\n"
        assert line in fake_server.request

    async def test_a_bomb_is_1009_and_is_not_held(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        bomb = compressed(bytes(64 * LIMIT))
        assert len(bomb) < LIMIT / 10
        whole = rsv1(plain(Opcode.BINARY, bomb))
        halves = rsv1(plain(Opcode.BINARY, bomb[:9], fin=False)) + plain(Opcode.CONT, bomb[9:])
        for frames in (whole, halves):
            tracemalloc.start()
            try:
                lost = await get(fake_server, frames)
                most = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert lost.closed.code == 1009
            assert most < 3 * LIMIT

    async def test_a_message_that_is_cut_off_is_1002(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        payload = compressed(some_json(400).encode())
        for size in range(0, len(payload), 7):
            lost = await get(fake_server, rsv1(plain(Opcode.TEXT, payload[:size])))
            assert lost.closed.code == 1002

    async def test_a_server_that_keeps_a_window_all_the_same_is_1002(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        keeps, frames = zlib.compressobj(6, zlib.DEFLATED, -15), []
        for _ in range(2):
            data = keeps.compress(some_json(400).encode()) + keeps.flush(zlib.Z_SYNC_FLUSH)
            frames.append(rsv1(plain(Opcode.TEXT, data.removesuffix(END))))
        lost = await get(fake_server, *frames)
        assert lost.closed == Closed(
            EndReason.PROTOCOL_ERROR, 1002, "compressed message is malformed"
        )

    async def test_a_compressed_message_that_was_not_agreed_on_is_1002(
        self, fake_server: FakeServer, autojump_clock: MockClock
    ) -> None:
        frame = rsv1(plain(Opcode.TEXT, compressed(b"hello")))
        lost = await get(fake_server, frame, answer="")
        assert lost.closed.code == 1002


@pytest.mark.parametrize("client", [connect, reconnecting])
@pytest.mark.parametrize("value", [True, "on", 6])
def test_compression_is_checked(client: type[connect | reconnecting], value: object) -> None:
    with pytest.raises(TypeError, match="it must be a Compression, or None"):
        client(URL, compression=value)  # type: ignore[arg-type]
