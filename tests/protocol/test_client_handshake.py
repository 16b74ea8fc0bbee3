"""Answers to a client's opening handshake, and the outcome of each."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri
from websockets.utils import accept_key

from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from tests.support.peer import Peer
from trio_beat import (
    ConnectFailed,
    Connection,
    ConnectionClosed,
    HandshakeFailed,
    HandshakeRefused,
    connect,
    reconnecting,
)
from trio_beat._protocol.client_handshake import Opened, OpeningHandshake

__all__ = ["fake_server"]  # a fixture

STATUS = b"HTTP/1.1 101 Switching Protocols\r\n"
#: %b is the token that answers the request's key.
SWITCHED = STATUS + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
EARLY = Frame(Opcode.TEXT, b"early").serialize(mask=False)
CLOSE = Frame(Opcode.CLOSE, Close(1000, "").serialize()).serialize(mask=False)


def token(request: bytes) -> bytes:
    found = re.search(rb"Sec-WebSocket-Key: (.*)\r\n", request)
    assert found is not None
    return accept_key(found[1].decode()).encode()


def receive(handshake: OpeningHandshake, pieces: Sequence[bytes]) -> Opened | ConnectFailed:
    """Give an answer and the end of the stream; the outcome."""
    try:
        for index, piece in enumerate(pieces):
            if piece and (opened := handshake.receive(piece)) is not None:
                return Opened(opened.subprotocol, opened.trailing + b"".join(pieces[index + 1 :]))
        handshake.receive(b"")
    except ConnectFailed as exc:
        return exc
    raise AssertionError("the end of the stream decides")


class TestAccepts:
    """What RFC 9112 leaves to the recipient of an answer."""

    @pytest.mark.parametrize(
        "answer",
        [
            SWITCHED,
            SWITCHED.replace(b" Switching Protocols", b" "),
            SWITCHED.replace(b" Switching Protocols", b""),
            SWITCHED.replace(b"Switching", b"Umschalten \xfc"),
            SWITCHED.replace(b"\r\n", b"\n"),
            SWITCHED.replace(b"1.1", b"1.2", 1),
            SWITCHED.replace(b"\r\nU", b"\r\nServer: caf\xc3\xa9 \xff\r\nU"),
            SWITCHED.replace(b"\r\nU", b"\r\nContent-Length: 0\r\nU"),
            SWITCHED.replace(b"\r\nU", b"\r\nContent-Length: 7\r\nU"),
            SWITCHED.replace(b"Connection: ", b"connection: keep-alive,"),
            SWITCHED.replace(b"websocket", b" \tWebSocket\t "),
            SWITCHED.replace(b"\r\nU", b"\r\nX:\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nU"),
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100\r\n\r\n" + SWITCHED,
        ],
        ids=[
            "usual",
            "no reason",
            "no space",
            "obs-text in the reason",
            "bare LF",
            "HTTP/1.2",
            "obs-text",
            "Content-Length 0",
            "Content-Length 7",
            "one of the connection's options",
            "white space",
            "more headers",
            "informational answers before",
        ],
    )
    async def test_and_exchanges_messages(
        self,
        fake_server: FakeServer,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        answer: bytes,
    ) -> None:
        async def serve() -> None:
            peer = await fake_server.receive_request()
            for byte in answer % token(fake_server.request.encode()):
                await peer.send(bytes([byte]))
            await peer.send_text("hello")
            await peer.send_text(await peer.text())
            await answer_pings(peer)

        nursery.start_soon(serve)
        async with connect(URL) as connection:
            assert await connection.receive() == "hello"
            await connection.send("echo")
            assert await connection.receive() == "echo"


NOT = [
    (SWITCHED.replace(b"1.1", b"1.0", 1), "speaks HTTP/1.0; a WebSocket needs HTTP/1.1"),
    (SWITCHED.replace(b"1.1", b"2.0", 1), "speaks HTTP/2.0"),
    (SWITCHED.replace(b"HTTP/1.1", b"HTTP/1"), "illegal status line"),
    (SWITCHED.replace(b"101 ", b"101\x00", 1), "illegal status line"),
    (SWITCHED.replace(b"Upgrade: websocket\r\n", b""), "missing Upgrade header"),
    (SWITCHED.replace(b"websocket", b"websocket, h2c"), "invalid Upgrade header"),
    (SWITCHED.replace(b": Upgrade", b": close"), "invalid Connection header"),
    (SWITCHED.replace(b": Upgrade", b": \x00"), "illegal header"),
    (SWITCHED.replace(b"%b", b"%b\r\nSec-WebSocket-Accept: x"), "multiple values"),
    (SWITCHED.replace(b"%b", b"%b\r\nSec-WebSocket-Extensions: permessage-deflate"), "extensions"),
    (SWITCHED.replace(b"%b", b"%b\r\nSec-WebSocket-Protocol: chat"), "subprotocols"),
    (SWITCHED.replace(b"%b", b"%b\r\nTransfer-Encoding: gzip"), "Transfer-Encoding"),
    (SWITCHED.replace(b"%b", b"%b\r\nContent-Length: x"), "Content-Length"),
    (SWITCHED.replace(b"%b", b"\x1b[2J\x9b"), r"Accept header: \\x1b\[2J\\x9b$"),
    (b"HTTP/1.1 103 Early\r\n\r\n" * 3000, "is over 65536 bytes, after 'HTTP/1.1 103 Early'"),
    (b"x" * 70_000, "is over 65536 bytes|too long"),
    (b"\r\n" * 4, "no response line received"),
]


class TestRefuses:
    @pytest.mark.parametrize(("answer", "text"), NOT, ids=[text for _, text in NOT])
    @pytest.mark.parametrize("context", [connect, reconnecting])
    async def test_plainly_and_before_it_opens(
        self,
        fake_server: FakeServer,
        nursery: trio.Nursery,
        autojump_clock: MockClock,
        caplog: pytest.LogCaptureFixture,
        context: type[connect] | type[reconnecting],
        answer: bytes,
        text: str,
    ) -> None:
        async def serve() -> None:
            while True:
                peer = await fake_server.receive_request()
                try:
                    await peer.send(answer.replace(b"%b", token(fake_server.request.encode())))
                    await peer.stream.send_eof()
                except trio.BrokenResourceError:
                    pass
                await peer.aclose()

        nursery.start_soon(serve)
        if context is connect:
            with pytest.raises(HandshakeFailed, match=text):
                async with connect(URL):
                    raise AssertionError
            return
        with caplog.at_level("INFO", "trio_beat.client"), trio.move_on_after(10):
            async with reconnecting(URL) as connections:
                async for _ in connections:
                    raise AssertionError
        assert len(fake_server.times) > 1
        assert all(re.search(text.rstrip("$"), message) for message in caplog.messages)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nnot\r\n4\r\n you\r\n0\r\n",
            b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nnot you\r\nbroken",
            b"HTTP/1.1 403 No\r\n\r\nnot you",
            b"HTTP/1.0 403\nContent-Length: 7\n\nnot you",
            b"HTTP/1.1 403 No\r\nContent-Length: 70\r\n\r\nnot you",
            b"HTTP/1.1 403 No\r\nContent-Length: 7\r\n\r\nnot you and more",
            b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 403 No\r\nX: \xff\r\n\r\nnot you",
        ],
        ids=["chunked", "broken chunks", "to the end", "LF", "cut off", "trailing", "103"],
    )
    @pytest.mark.parametrize("size", [1, 1000])
    def test_with_a_body_however_it_is_framed(self, answer: bytes, size: int) -> None:
        pieces = [answer[begin : begin + size] for begin in range(0, len(answer), size)]
        refusal = receive(OpeningHandshake(parse_uri(URL)), pieces)
        assert isinstance(refusal, HandshakeRefused)
        assert (refusal.status, refusal.body) == (403, b"not you")

    async def test_a_body_without_end_is_cut_off(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve() -> None:
            peer = await fake_server.receive_request()
            with pytest.raises(trio.BrokenResourceError):
                await peer.send(b"HTTP/1.1 403 No\r\n\r\n")
                while True:
                    await peer.send(b"x" * 1000)
            await peer.aclose()

        nursery.start_soon(serve)
        with pytest.raises(HandshakeRefused) as caught:
            async with connect(URL):
                raise AssertionError
        assert 60_000 < len(caught.value.body) < 140_000

    async def test_an_answer_that_comes_before_the_request_is_read(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
    ) -> None:
        async def serve() -> None:
            peer = await fake_server.wait_dialled()
            await peer.send(b"HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n")
            await peer.aclose()

        nursery.start_soon(serve)
        with pytest.raises(ConnectFailed, match="503 Service Unavailable"):
            async with connect(URL):
                raise AssertionError


lines = st.sampled_from(
    [
        b"HTTP/1.1 101 Switching Protocols",
        b"HTTP/1.1 101",
        b"HTTP/1.0 101 x",
        b"HTTP/1.1 103 Early Hints",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 204",
        b"HTTP/1.1 403 No",
        b"HTTP/1.1 999 No",
        b"HTTP/1.1 099 No",
        b"HTTP/1.1 1O1 No",
        b"HTTP/9.9 101 No",
        b" HTTP/1.1 101 No",
        b"Upgrade: websocket",
        b"Upgrade: websocket, websocket",
        b"Connection: Upgrade",
        b"Connection: \xff, upgrade",
        b"Connection: ,",
        b"Sec-WebSocket-Accept: %b",
        b"Sec-WebSocket-Accept: \xe9",
        b"Sec-WebSocket-Protocol: chat",
        b"Sec-WebSocket-Protocol: \xff",
        b"Sec-WebSocket-Protocol:",
        b"Sec-WebSocket-Extensions: x; y=",
        b"Sec-WebSocket-Extensions:",
        b"Content-Length: 3",
        b"Content-Length: 3, 3",
        b"Content-Length: -3",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Server: caf\xe9",
        b" folded",
        b": no name",
        b"no colon",
        b"",
        b"3",
        EARLY,
        CLOSE,
    ]
) | st.binary(max_size=8)
answers = st.builds(
    lambda lines, end, cut: end.join(lines)[:cut],
    st.lists(lines, max_size=12)
    | st.lists(lines, max_size=4).map(lambda more: [*SWITCHED.split(b"\r\n")[:4], *more, b"", b""])
    | st.permutations(SWITCHED.split(b"\r\n")[1:4]).map(
        lambda headers: [STATUS[:-2], *headers, b"", EARLY]
    ),
    st.sampled_from([b"\r\n", b"\n", b"\r", b"\n\r"]),
    st.integers(0, 600),
)


@settings(deadline=None)
@given(answers, st.lists(st.integers(0, 600)))
def test_any_answer_is_one_or_the_other_however_it_is_split(answer: bytes, cuts: list[int]) -> None:
    outcomes: list[object] = []
    for where in (sorted(cuts), range(600), []):
        handshake = OpeningHandshake(parse_uri(URL), subprotocols=["chat"])
        key = token(handshake.request)
        whole = answer.replace(b"%b", key)
        pieces = [whole[a:b] for a, b in zip([0, *where], [*where, None], strict=True)]
        outcome = receive(handshake, pieces)
        if isinstance(outcome, Opened):
            assert b"101" in answer
            assert outcome.subprotocol in (None, "chat")
            # Each handshake has a token of its own, and a line with it may stand behind the head.
            trailing = outcome.trailing.replace(key, b"%b")
            outcomes.append(outcome._replace(trailing=trailing))
        else:
            assert str(outcome).isprintable()
            outcomes.append((type(outcome), getattr(outcome, "status", None)))
    assert all(outcome == outcomes[0] for outcome in outcomes)


async def _enter(answer: bytes, seen: list[Connection]) -> None:
    async def play(fake_server: FakeServer) -> None:
        peer: Peer = await fake_server.receive_request()
        await peer.send(answer.replace(b"%b", token(fake_server.request.encode())))
        await peer.stream.send_eof()

    with pytest.MonkeyPatch.context() as monkeypatch, trio.fail_after(60):
        fake_server = FakeServer(monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(play, fake_server)
            try:
                async with connect(URL, subprotocols=["chat"]) as connection:
                    seen.append(connection)
                    async for _ in connection:
                        pass
            except ConnectFailed:
                assert not seen
            except ConnectionClosed:
                assert seen
    for sock in fake_server.sockets:
        sock.close()


@settings(deadline=None, max_examples=2 * settings().max_examples)
@given(answers)
def test_any_answer_opens_or_fails_plainly(answer: bytes) -> None:
    seen: list[Connection] = []
    trio.run(_enter, answer, seen, clock=MockClock(autojump_threshold=0))
    assert all(connection.closed is not None for connection in seen)
