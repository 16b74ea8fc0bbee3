"""PINGs of a program beside those of its service."""

from __future__ import annotations

import trio
import trio.testing
from trio_websocket import WebSocketRequest
from websockets.frames import Opcode

from tests.support.peer import dial
from tests.support.trio_websocket import running
from trio_beat import Heartbeat
from trio_beat.trio_websocket import TrioWebSocketService


async def test_those_with_the_number_of_a_beat_are_answered(
    patient_clock: trio.testing.MockClock,
) -> None:
    # The service hides answers to its own PINGs from trio-websocket: not those.
    answered = trio.Event()

    async def ping(service: TrioWebSocketService, request: WebSocketRequest) -> None:
        ws = await request.accept()
        async with service.watched(ws):
            payload = await ws.get_message()
            assert isinstance(payload, bytes)
            await ws.ping(payload)
            answered.set()

    async with running(ping, heartbeat=Heartbeat(1.0, 3)) as running_one:
        peer = await dial(running_one.port)
        beat = await peer.frame()
        assert beat is not None
        assert beat.opcode is Opcode.PING
        await peer.pong(beat)
        await peer.send_frame(Opcode.BINARY, bytes(beat.data))
        frame = await peer.frame()
        assert frame == beat
        await peer.pong(beat)
        with trio.fail_after(60):
            await answered.wait()
        await peer.aclose()
