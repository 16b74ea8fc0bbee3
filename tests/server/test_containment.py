"""A fault ends one connection: its neighbours stay connected, and the server goes on."""

from __future__ import annotations

import socket
import ssl

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Close, Opcode

from tests.support.faults import FAULTS, WRITE, Fault, Injected
from tests.support.harness import echo, tls_contexts
from tests.support.peer import HANDSHAKE, Peer, dial, reset
from tests.support.serving import deserted, serving
from trio_beat import EndReason, Heartbeat, Limits

INTERVAL = 4.0
TARGET = "/ws/{}?subscribe-broadcast&publish-broadcast&echo"
#: Messages of a flood.
BIG = 60


async def go_through_everything(port: int, target: str, ssl_context: ssl.SSLContext | None) -> None:
    """Connect, send messages and PINGs, be slow, be silent, and close."""
    victim = await dial(port, target, ssl_context=ssl_context)
    try:
        await victim.send_text("hello")
        await victim.send_frame(Opcode.PING, b"x")
        while (frame := await victim.frame()) is not None:
            if frame.opcode is Opcode.PING:
                await victim.pong(frame)
                break
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, victim)
            await trio.sleep(INTERVAL)  # the echo is more than the sockets hold
            left = BIG
            while left and (frame := await victim.frame()) is not None:
                left -= frame.opcode is Opcode.BINARY
        await trio.sleep(2.5 * INTERVAL)
        await victim.send_close()
        await victim.closed()
    finally:
        await victim.aclose()


async def flood(victim: Peer) -> None:
    for _ in range(BIG):
        await victim.send_frame(Opcode.BINARY, bytes(200_000))
        await victim.send_frame(Opcode.PING, b"x")


class Neighbour:
    """A peer that is well.

    Args:
        peer: what it speaks through.
        nursery: where it answers PINGs.
    """

    def __init__(self, peer: Peer, nursery: trio.Nursery) -> None:
        self.peer = peer
        self._send, self._receive = trio.open_memory_channel[str](10)
        nursery.start_soon(self._live)

    async def _live(self) -> None:
        while (frame := await self.peer.frame()) is not None:
            if frame.opcode is Opcode.PING:
                await self.peer.pong(frame)
            elif frame.opcode is Opcode.TEXT:
                await self._send.send(bytes(frame.data).decode())
        await self.peer.aclose()
        self._send.close()

    async def text(self) -> str:
        """The next message."""
        return await self._receive.receive()

    async def check(self) -> None:
        """It gets its messages, and is let alone."""
        await self.peer.send_text("still there?")
        while await self.text() != "still there?":
            pass


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_fault_anywhere_ends_one_connection(
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    patient_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    injected = Injected(monkeypatch, fault)
    handler = echo if fault.handles else None
    limits = Limits(inbound=4, outbox=2**26)
    ours, theirs = tls_contexts() if fault.secure else (None, None)
    serve = serving(handler, heartbeat=Heartbeat(INTERVAL), limits=limits, ssl_context=ours)
    async with serve as server, trio.open_nursery() as nursery:
        peer = await dial(server.port, TARGET.format("other"), ssl_context=theirs)
        neighbour = Neighbour(peer, nursery)
        await neighbour.check()
        injected.making = True
        with trio.fail_after(100):
            try:
                await go_through_everything(server.port, TARGET.format("news"), theirs)
            except* (AssertionError, trio.BrokenResourceError):
                pass  # it was cut off
        injected.making = False
        await neighbour.check()
        await trio.sleep(1)
        assert injected.count
        assert server.statistics().connections == 1
        ended = server.statistics().ended
        await neighbour.peer.send_close()
        await deserted(server)
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].exc_info is not None
    assert fault.late or ended[EndReason.INTERNAL_ERROR] == 1


async def test_a_fault_in_a_fan_out_is_not_the_publisher_s(
    monkeypatch: pytest.MonkeyPatch, patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server, trio.open_nursery() as nursery:
        target = "/ws/news?subscribe-broadcast&publish-broadcast"
        publisher, neighbour = [
            Neighbour(await dial(server.port, target), nursery) for _ in range(2)
        ]
        injected = Injected(monkeypatch, WRITE)
        injected.making = injected.asleep = True
        victim = await dial(server.port, target)
        injected.making = injected.asleep = False
        await publisher.peer.send_text("1")
        await publisher.peer.send_text("2")
        assert [await neighbour.text(), await neighbour.text()] == ["1", "2"]
        assert await victim.closed() == Close(1011, "internal error")
        await victim.aclose()
        await trio.sleep(1)
        assert server.statistics().connections == 2
        assert server.statistics().ended[EndReason.INTERNAL_ERROR] == 1
        for each in (publisher, neighbour):
            await each.peer.send_close()
        await deserted(server)
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 1


async def test_resets_in_the_handshake_end_no_other_connection(
    patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    request = HANDSHAKE.format(target=TARGET.format("news"), headers="").encode()
    async with serving() as server, trio.open_nursery() as nursery:
        neighbour = Neighbour(await dial(server.port, TARGET.format("news")), nursery)
        for size in (0, 10, len(request) - 1, len(request)):
            for _ in range(50):
                with socket.create_connection(("127.0.0.1", server.port)) as sock:
                    sock.send(request[:size])
                    reset(sock)
                await trio.lowlevel.checkpoint()
        await neighbour.check()
        await trio.sleep(1)
        assert server.statistics().connections == 1
        await neighbour.peer.send_close()
        await deserted(server)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
