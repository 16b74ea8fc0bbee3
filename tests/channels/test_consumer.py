"""Connections on a hub, as their URLs ask for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.hub import AskedBackend
from tests.support.pairs import hub_pairs
from trio_beat import BackendError, EndReason, Heartbeat, Limits, Message, open_hub
from trio_beat.backends.memory import MemoryBackend
from trio_beat.testing import Peer, open_pairs

BOTH = "/ws/news?subscribe-broadcast&publish-broadcast"


async def nothing_comes(peer: Peer) -> bool:
    await wait_all_tasks_blocked()
    try:
        peer.receive_nowait()
    except trio.WouldBlock:
        return True
    return False


async def test_the_url_says_what_is_heard_and_where_messages_go(autojump_clock: MockClock) -> None:
    async with hub_pairs() as pairs:
        speaker = await pairs.connect("/ws/news?publish-broadcast")
        listener = await pairs.connect("/ws/news?subscribe-broadcast")
        elsewhere = await pairs.connect("/ws/sport?subscribe-broadcast")
        await listener.send("goes nowhere")
        for message in ("hello", b"\xff"):
            await speaker.send(message)
            assert await listener.receive() == message
        assert await nothing_comes(elsewhere)


async def test_own_messages_come_back_only_with_echo(autojump_clock: MockClock) -> None:
    async with hub_pairs() as pairs:
        quiet, loud = await pairs.connect(BOTH), await pairs.connect(BOTH + "&echo")
        await quiet.send("same")
        assert await loud.receive() == "same"
        await loud.send("same")
        assert await loud.receive() == "same"
        assert await quiet.receive() == "same"
        assert await nothing_comes(quiet)


async def test_a_new_subscriber_gets_the_last_message_behind_the_handshake(
    autojump_clock: MockClock,
) -> None:
    async with hub_pairs() as pairs:
        speaker = await pairs.connect(BOTH)
        await speaker.send("first")
        await speaker.send("last")
        await wait_all_tasks_blocked()
        late = await pairs.connect(BOTH)
        assert await late.receive() == "last"
        assert await nothing_comes(late)


async def test_text_heartbeats_are_no_messages_but_what_quotes_them_is(
    autojump_clock: MockClock,
) -> None:
    heartbeat = Heartbeat(message="--heartbeat--")
    async with hub_pairs(heartbeat=heartbeat) as pairs:
        speaker, listener = await pairs.connect(BOTH), await pairs.connect(BOTH)
        await speaker.send("--heartbeat--")
        await speaker.send(" --heartbeat--")
        assert await listener.receive() == " --heartbeat--"


async def test_subscriber_that_stops_reading_is_closed_with_1013_and_slows_no_other(
    autojump_clock: MockClock,
) -> None:
    limits = Limits(outbox=200_000, message_size=100_000)
    async with hub_pairs(limits=limits) as pairs:
        speaker, slow, quick = [await pairs.connect(BOTH) for _ in range(3)]
        slow.stop_reading()
        for sent in range(10):
            await speaker.send(f"{sent:08}" + "x" * 90_000)
            message = await quick.receive()
            assert isinstance(message, str)
            assert message[:8] == f"{sent:08}"
        slow.read_on()
        # Whole messages in order, then the close frame.
        received = [message async for message in slow]
        assert [message[:8] for message in received] == [
            f"{number:08}" for number in range(len(received))
        ]
        assert {len(message) for message in received} <= {90_008}
        assert len(received) < 4
        assert (await slow.wait_closed()).code == 1013
        await speaker.send("still here")
        assert await quick.receive() == "still here"
    assert pairs.server.statistics().ended[EndReason.SLOW] == 1


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
    subscribing: bool, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with open_hub(Failing(subscribing=subscribing)) as hub, open_pairs(hub=hub) as pairs:
        with caplog.at_level(logging.INFO):
            peer = await pairs.connect(BOTH)
            if not subscribing:
                await peer.send("x")
            assert await peer.wait_closed() == (1013, "backend refuses it, try again later")
        assert "refused: cannot" in caplog.text
        await wait_all_tasks_blocked()
        assert pairs.server.statistics().ended[EndReason.REFUSED] == 1
        assert hub.statistics()[:2] == (0, 0)


async def test_an_outage_ends_listeners_with_1012_and_publishers_stay_until_they_publish(
    autojump_clock: MockClock,
) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=10) as hub, open_pairs(hub=hub) as pairs:
        listener = await pairs.connect("/ws/news?subscribe-broadcast")
        speaker = await pairs.connect("/ws/news?publish-broadcast")
        await wait_all_tasks_blocked()
        backend.go_away()
        assert (await listener.wait_closed()).code == 1012
        assert trio.current_time() >= 10
        await speaker.send("x")
        assert await speaker.wait_closed() == (1013, "backend is away, try again later")
    ended = pairs.server.statistics().ended
    assert (ended[EndReason.BACKEND_LOST], ended[EndReason.REFUSED]) == (1, 1)
