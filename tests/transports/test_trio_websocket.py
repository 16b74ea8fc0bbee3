"""What the transport over trio-websocket does by itself."""

from __future__ import annotations

import socket
from functools import partial
from typing import cast

import pytest
import trio
from trio_websocket import WebSocketConnection

from trio_beat import Message
from trio_beat._transports import Response
from trio_beat._transports.client_stream import ClientStream
from trio_beat._transports.outbox import Outbox
from trio_beat._transports.trio_websocket import TrioWebSocketTransport


def _stream(sock: socket.socket) -> trio.SocketStream:
    sock.setblocking(False)
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


class TestOutbox:
    """What `drain` relies on."""

    def test_gives_whole_items(self) -> None:
        one, two = Message("one"), Message("two")
        outbox = Outbox(one)
        outbox.append(two)
        assert outbox.first is one
        outbox.taken(len(one.frame))
        assert (outbox.first, outbox.size) == (two, len(two.frame))


class TestTransport:
    async def test_raises_no_exception_twice(self) -> None:
        ours, theirs = socket.socketpair()
        stream = ClientStream(_stream(ours))
        # Nothing of it is needed for this.
        websocket = cast("WebSocketConnection", None)
        transport = TrioWebSocketTransport(ours, stream, websocket, 10)
        transport.abort()
        raised = []
        for call in (transport.wait_readable, partial(transport.drain, Outbox(Response(b"x")))) * 2:
            with pytest.raises(ConnectionAbortedError, match="socket was closed") as caught:
                await call()
            raised.append(caught.value)
        assert len(set(map(id, raised))) == 4
        theirs.close()
