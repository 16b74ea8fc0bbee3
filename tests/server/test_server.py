from __future__ import annotations

import gc
import socket
import weakref
from functools import partial
from itertools import count
from typing import Any

import pytest
import trio
import trio.testing
from websockets.frames import Close, Opcode

from tests.support.harness import tls_contexts
from tests.support.hub import reached
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import ask, deserted, serving, status
from trio_beat import Connection, EndReason, Limits, Permissions, Server, open_hub, serve
from trio_beat._server.pending import PendingTCP
from trio_beat.testing import cancelled_at

REQUEST = HANDSHAKE.format(target="/ws/news", headers="").encode()


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


async def stay(connection: Connection) -> None:
    await trio.sleep_forever()


async def test_a_handler_serves_each_connection(patient_clock: trio.testing.MockClock) -> None:
    async with serving(echo) as server:
        one, two = await dial(server.port), await dial(server.port)
        await one.send_text("1")
        await two.send_text("2")
        assert [await one.text(), await two.text()] == ["1", "2"]
        assert server.statistics()[:4] == (2, 0, 0, 2)
        for peer in (one, two):
            await peer.aclose()
        await deserted(server)
        assert server.statistics().ended[EndReason.PEER] == 2


async def test_a_hub_serves_without_a_handler(patient_clock: trio.testing.MockClock) -> None:
    async with open_hub() as hub, serving(hub=hub) as server:
        one, two = await dial(server.port), await dial(server.port)
        await one.send_text("hello")
        assert await two.text() == "hello"
        assert await reached(hub, "broadcast:news", "from the server") == 2
        assert await one.text() == "from the server"
        for peer in (one, two):
            await peer.aclose()
        await deserted(server)
        assert hub.statistics()[:2] == (0, 0)


async def test_a_handler_that_returns_closes_with_1000(
    patient_clock: trio.testing.MockClock,
) -> None:
    async def hello(connection: Connection) -> None:
        await connection.send(f"welcome to {connection.path}")

    async with serving(hello) as server:
        peer = await dial(server.port, "/any/path?query")
        assert await peer.text() == "welcome to /any/path?query"
        close = await peer.closed()
        assert close is not None
        assert close.code == 1000
        await peer.send_close()
        await deserted(server)
        assert server.statistics().ended[EndReason.HANDLER] == 1
        await peer.aclose()


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [("Sec-WebSocket-Protocol: c, b, a\r\n", "a"), ("Sec-WebSocket-Protocol: z, b\r\n", "b")],
)
async def test_agrees_on_the_subprotocol_that_the_server_prefers(
    offered: str, agreed: str, patient_clock: trio.testing.MockClock
) -> None:
    async def tell(connection: Connection) -> None:
        await connection.send(str(connection.subprotocol))

    async with serving(tell, subprotocols=["a", "b"]) as server:
        request = HANDSHAKE.format(target="/", headers=offered).encode()
        answer = await ask(server.port, request)
        assert f"\r\nSec-WebSocket-Protocol: {agreed}\r\n".encode() in answer
        assert agreed.encode() in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("offered", ["", "Sec-WebSocket-Protocol: z\r\n"])
async def test_agrees_on_no_subprotocol(
    offered: str, patient_clock: trio.testing.MockClock
) -> None:
    async def tell(connection: Connection) -> None:
        await connection.send(repr(connection.subprotocol))

    async with serving(tell, subprotocols=["a", "b"]) as server:
        peer = await dial(server.port, headers=offered)
        assert await peer.text() == "None"
        await peer.aclose()


async def test_tls(patient_clock: trio.testing.MockClock) -> None:
    for_server, for_client = tls_contexts()
    async with serving(echo, ssl_context=for_server) as server:
        peer = await dial(server.port, ssl_context=for_client)
        await peer.send_text("secret")
        assert await peer.text() == "secret"
        await peer.aclose()
        await deserted(server)


async def test_listens_on_all_addresses(patient_clock: trio.testing.MockClock) -> None:
    async with serving(echo, host=None) as server:
        assert server.port == server.addresses[0][1]
        for host, port in server.addresses:
            (await trio.open_tcp_stream("::1" if ":" in host else "127.0.0.1", port)).socket.close()


async def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            await serve(stay, taken.getsockname()[1])


@pytest.mark.parametrize(
    ("handler", "hub", "options", "wrong"),
    [
        (None, False, {}, "a handler or a hub is needed"),
        (stay, False, {"permissions": Permissions()}, "permissions are of no use"),
        (stay, False, {"path_prefix": "ws/"}, "path_prefix is 'ws/'"),
        (stay, False, {"path_prefix": "/ws"}, "path_prefix is '/ws'"),
        (stay, False, {"path_prefix": ""}, "path_prefix is ''"),
        (stay, False, {"grace": -1}, "grace is -1"),
        (stay, False, {"grace": float("inf")}, "grace is inf"),
        (stay, False, {"grace": float("nan")}, "grace is nan"),
        (stay, False, {"ssl_context": tls_contexts()[1]}, "ssl_context is a client's"),
    ],
)
async def test_refuses_arguments_that_make_no_sense(
    handler: Any, hub: bool, options: dict[str, Any], wrong: str
) -> None:
    async with open_hub() as some_hub:
        with pytest.raises(ValueError, match=wrong):
            await serve(handler, 0, hub=some_hub if hub else None, **options)


@pytest.mark.parametrize(
    "limit",
    [
        "connections",
        "pending",
        "message_size",
        "unfinished",
        "inbound",
        "outbox",
        "handshake_timeout",
        "message_timeout",
    ],
)
@pytest.mark.parametrize("value", [0, -1])
def test_no_limit_can_be_switched_off(limit: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{limit} is {value}; it must be"):
        Limits(**{limit: value})


@pytest.mark.parametrize("limit", ["handshake_timeout", "message_timeout"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_handshakes_and_messages_have_their_time(limit: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{limit} is"):
        Limits(**{limit: value})


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_what_messages_hold_that_are_not_finished_has_a_bound(
    secure: bool, patient_clock: trio.testing.MockClock
) -> None:
    """The one that began first gives way."""
    for_server, for_client = tls_contexts() if secure else (None, None)
    limits = Limits(unfinished=250_000)
    async with serving(echo, ssl_context=for_server, limits=limits) as server:
        peers = [await dial(server.port, ssl_context=for_client) for _ in range(3)]
        for peer in peers:
            await peer.send_frame(Opcode.TEXT, b"x" * 100_000, fin=False)
            await trio.sleep(0.1)
        assert await peers[0].closed() == Close(1013, "too many unfinished messages")
        await peers[0].aclose()
        assert server.statistics().unfinished == 200_000
        for peer in peers[1:]:
            await peer.send_frame(Opcode.CONT, b"y")
            assert await peer.text() == "x" * 100_000 + "y"
            await peer.send_frame(Opcode.TEXT, b"x" * 1000, fin=False)
            await peer.aclose()
        await deserted(server)
        assert server.statistics().unfinished == 0
        assert server.statistics().ended[EndReason.SLOW] == 1


class Started(trio.TaskStatus[Server]):
    """Notes that a server listens."""

    server: Server | None = None

    def started(self, value: Server | None = None) -> None:
        self.server = value


@pytest.mark.slow
async def test_leaves_nothing_wherever_it_is_cancelled() -> None:
    for step in count():
        status = Started()
        assert await cancelled_at(step, partial(serve, stay, 0, task_status=status))
        # A socket that was left would be closed, with a warning, by the collector.
        gc.collect()
        if status.server is not None:
            break
    assert step > 2


async def test_a_handlers_exception_is_not_caught(patient_clock: trio.testing.MockClock) -> None:
    async def fail_at_bang(connection: Connection) -> None:
        async for message in connection:
            if message == "bang":
                raise ZeroDivisionError(message)

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with serving(fail_at_bang) as server:
            failing, other = await dial(server.port), await dial(server.port)
            closed = []

            async def closes(peer: Peer) -> None:
                closed.append(await peer.closed())
                await peer.aclose()

            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(closes, failing)
                    nursery.start_soon(closes, other)
                    await failing.send_text("bang")
    assert sorted(close.code for close in closed if close is not None) == [1001, 1011]
    assert server.statistics()[:2] == (0, 0)
    ended = server.statistics().ended
    assert (ended[EndReason.HANDLER], ended[EndReason.SHUTDOWN]) == (1, 1)


async def test_there_are_no_more_connections_than_allowed(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(echo, limits=Limits(connections=2)) as server:
        one, two = await dial(server.port), await dial(server.port)
        answer = await ask(server.port, REQUEST)
        assert status(answer) == 503
        assert b"server is full" in answer
        assert b"\r\nRetry-After: 30\r\n" in answer
        await one.aclose()
        await trio.sleep(1)
        assert server.statistics()[:4] == (1, 0, 0, 2)
        assert server.statistics().refused == {503: 1}
        three = await dial(server.port)
        await three.send_text("x")
        assert await three.text() == "x"
        for peer in (two, three):
            await peer.aclose()


async def test_a_full_server_keeps_nothing_of_those_it_refuses(
    patient_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pending: list[weakref.ref[PendingTCP]] = []
    made = PendingTCP.__init__

    def make(this: PendingTCP, sock: socket.socket) -> None:
        pending.append(weakref.ref(this))
        made(this, sock)

    monkeypatch.setattr(PendingTCP, "__init__", make)
    async with serving(stay, limits=Limits(connections=1)) as server:
        inside = await dial(server.port)
        gc.disable()
        try:
            for _ in range(20):
                assert status(await ask(server.port, REQUEST)) == 503
            await trio.sleep(1)
            assert len(pending) == 21
            assert not any(ref() for ref in pending)
        finally:
            gc.enable()
        await inside.aclose()
        await deserted(server)


async def test_there_are_no_more_pending_sockets_than_allowed(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(echo, limits=Limits(pending=2)) as server:
        idle = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(2)]
        await trio.sleep(1)
        assert server.statistics()[:2] == (0, 2)
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            answer = await stream.receive_some()
            assert status(answer) == 503
            assert await stream.receive_some() == b""
        assert server.statistics().refused == {503: 1}
        await idle.pop().aclose()
        await trio.sleep(1)
        # Connections are not pending any more.
        peers = [await dial(server.port) for _ in range(3)]
        assert server.statistics()[:2] == (3, 1)
        await idle.pop().aclose()
        for peer in peers:
            await peer.aclose()
        await deserted(server)
