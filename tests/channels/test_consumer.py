"""Connections on a hub, as their URLs ask for, over TCP."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import pytest
import trio
from websockets.frames import Close, Opcode

from trio_beat import BackendError, EndReason, Heartbeat, Limits, Message, open_hub
from trio_beat.backends.memory import MemoryBackend

from ..support.hub import AskedBackend
from ..support.peer import Peer, dial
from ..support.serving import RARELY, deserted, serving

BOTH = "/ws/news?subscribe-broadcast&publish-broadcast"


async def next_text(peer: Peer) -> str:
    with trio.fail_after(5):
        return await peer.text()


async def nothing_comes(peer: Peer) -> bool:
    with trio.move_on_after(1):
        frame = await peer.frame()
        return frame is None
    return True


async def test_the_url_says_what_is_heard_and_where_messages_go(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        speaker = await dial(server.port, "/ws/news?publish-broadcast")
        listener = await dial(server.port, "/ws/news?subscribe-broadcast")
        elsewhere = await dial(server.port, "/ws/sport?subscribe-broadcast")
        await listener.send_text("goes nowhere")
        await speaker.send_text("hello")
        assert await next_text(listener) == "hello"
        await speaker.send_frame(Opcode.BINARY, b"\xff")
        frame = await listener.frame()
        assert frame is not None
        assert (frame.opcode, bytes(frame.data)) == (Opcode.BINARY, b"\xff")
        assert await nothing_comes(elsewhere)
        for peer in (speaker, listener, elsewhere):
            await peer.aclose()


async def test_own_messages_come_back_only_with_echo(patient_clock: trio.testing.MockClock) -> None:
    async with serving() as server:
        quiet, loud = await dial(server.port, BOTH), await dial(server.port, BOTH + "&echo")
        await quiet.send_text("same")
        assert await next_text(loud) == "same"
        await loud.send_text("same")
        assert await next_text(loud) == "same"
        assert await next_text(quiet) == "same"
        assert await nothing_comes(quiet)
        for peer in (quiet, loud):
            await peer.aclose()


async def test_a_new_subscriber_gets_the_last_message_behind_the_handshake(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        speaker = await dial(server.port, BOTH)
        await speaker.send_text("first")
        await speaker.send_text("last")
        await speaker.send_frame(Opcode.PING)
        while (frame := await speaker.frame()) is not None and frame.opcode is not Opcode.PONG:
            pass
        late = await dial(server.port, BOTH)
        assert await next_text(late) == "last"
        assert await nothing_comes(late)
        for peer in (speaker, late):
            await peer.aclose()


async def test_text_heartbeats_are_no_messages_but_what_quotes_them_is(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with serving(heartbeat=Heartbeat(3600, message="--heartbeat--")) as server:
        speaker, listener = await dial(server.port, BOTH), await dial(server.port, BOTH)
        await speaker.send_text("--heartbeat--")
        await speaker.send_text(" --heartbeat--")
        assert await listener.text() == " --heartbeat--"
        for peer in (speaker, listener):
            await peer.aclose()


async def test_subscriber_that_stops_reading_is_closed_with_1013_and_slows_no_other(
    patient_clock: trio.testing.MockClock,
) -> None:
    limits = Limits(outbox=200_000, message_size=100_000)
    async with serving(limits=limits, heartbeat=RARELY) as server:
        speaker = await dial(server.port, BOTH)
        slow, quick = await dial(server.port, BOTH), await dial(server.port, BOTH)
        sent = 0
        with trio.fail_after(30):
            while not server.statistics().ended[EndReason.SLOW]:
                await speaker.send_text(f"{sent:08}" + "x" * 90_000)
                assert (await quick.text())[:8] == f"{sent:08}"
                sent += 1
                # Its verdict is counted once the close frame is out, or was given up.
                if sent > 60 and (await drained(slow)) is not None:
                    break
        await speaker.send_text("still here")
        assert await next_text(quick) == "still here"
        for peer in (speaker, slow, quick):
            await peer.aclose()
        await deserted(server)
        assert server.statistics().ended[EndReason.SLOW] == 1


async def drained(slow: Peer) -> Close | None:
    """Read all that a slow subscriber was sent: whole messages in order, then a close frame."""
    number = 0
    while (frame := await slow.frame()) is not None:
        if frame.opcode is Opcode.CLOSE:
            close = Close.parse(bytes(frame.data))
            assert close.code == 1013
            return close
        assert bytes(frame.data[:8]) == b"%08d" % number
        assert len(frame.data) == 90_008
        number += 1
    return None


class Failing(MemoryBackend):
    """A backend that fails, for one thing or the other, and whose broker is there."""

    def __init__(self, *, subscribing: bool) -> None:
        super().__init__()
        self._subscribing = subscribing

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        if self._subscribing:
            raise BackendError("cannot subscribe") from ConnectionRefusedError()
        return await super().subscribe(channels)

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        raise BackendError("cannot publish") from ConnectionRefusedError()


@pytest.mark.parametrize("subscribing", [True, False])
async def test_where_the_backend_refuses_peers_are_told_to_come_later(
    subscribing: bool, caplog: pytest.LogCaptureFixture, patient_clock: trio.testing.MockClock
) -> None:
    async with open_hub(Failing(subscribing=subscribing)) as hub, serving(hub=hub) as server:
        with caplog.at_level(logging.INFO):
            peer = await dial(server.port, BOTH)
            if not subscribing:
                await peer.send_text("x")
            close = await peer.closed()
        assert close == Close(1013, "backend refuses it, try again later")
        assert "refused: cannot" in caplog.text
        await peer.send_close(1013)
        await peer.aclose()
        await deserted(server)
        assert server.statistics().ended[EndReason.REFUSED] == 1
        assert hub.statistics()[:2] == (0, 0)


async def test_an_outage_ends_listeners_with_1012_and_publishers_stay_until_they_publish(
    patient_clock: trio.testing.MockClock,
) -> None:
    backend = AskedBackend()
    async with (
        open_hub(backend, backend_grace=10) as hub,
        serving(hub=hub) as server,
    ):
        listener = await dial(server.port, "/ws/news?subscribe-broadcast")
        speaker = await dial(server.port, "/ws/news?publish-broadcast")
        await trio.testing.wait_all_tasks_blocked()
        backend.go_away()
        began = trio.current_time()
        close = await listener.closed()
        assert close is not None
        assert close.code == 1012
        assert trio.current_time() - began >= 10
        await speaker.send_text("x")
        assert await speaker.closed() == Close(1013, "backend is away, try again later")
        for peer in (listener, speaker):
            await peer.send_close(1000)
            await peer.aclose()
        await deserted(server)
        ended = server.statistics().ended
        assert (ended[EndReason.BACKEND_LOST], ended[EndReason.REFUSED]) == (1, 1)
