"""Cancelled or cut at any step, nothing of a connection is left, whichever way it has come."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from tests.support.living import (
    SOON,
    EndedError,
    gone,
    hub_served,
    read,
)
from tests.support.peer import Declined, Peer
from tests.support.ways import BEATS, Place, Way
from trio_beat import (
    Closed,
    Hub,
    ObservedConnection,
    Observer,
    open_hub,
)


class AtStep(trio.abc.Instrument):
    """Does something once so many steps of tasks were made."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self._left, self._act = step, act

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()

    @property
    def done(self) -> bool:
        return self._left <= 0


class Counted(Observer):
    """Counts connections that were opened and have ended."""

    def __init__(self) -> None:
        self.open = 0

    def opened(self, connection: ObservedConnection) -> None:
        self.open += 1

    def ended(self, connection: ObservedConnection, closed: Closed) -> None:
        if connection.path:
            self.open -= 1


async def talk(way: Way, place: Place, hub: Hub, opened: Callable[[Peer], None]) -> None:
    """A short life: a connection that subscribes, publishes, hears, beats and closes."""
    peer = await place.dial("/ws/news?subscribe-broadcast&publish-broadcast&echo")
    opened(peer)
    try:
        await peer.send_text("hello")
        assert await read(peer) == "hello"
        await hub.publish("broadcast:news", "x" * 100_000)
        assert len(await read(peer)) == 100_000
        if not way.threshold:  # else it takes long
            await trio.sleep(BEATS.interval)
        await peer.send_close(1000)
        with trio.fail_after(SOON):
            await peer.closed()
        await gone(place)
    finally:
        await peer.aclose()


@pytest.mark.slow
class TestFaults:
    @pytest.fixture
    def clock(self, way: Way) -> MockClock:
        """One that jumps sooner: a beat too early does no harm here."""
        return MockClock(autojump_threshold=way.threshold / 20)

    async def test_cancelled_at_each_step_it_leaves_nothing(
        self, way: Way, clock: MockClock
    ) -> None:
        step, done = 0, True
        async with open_hub(expire=0) as hub:
            while done:
                step += 1
                counted, scope = Counted(), trio.CancelScope()
                at = AtStep(step, scope.cancel)
                trio.lowlevel.add_instrument(at)
                try:
                    with scope:
                        async with way.serving(None, hub=hub, observer=counted) as place:
                            await talk(way, place, hub, lambda _: None)
                finally:
                    trio.lowlevel.remove_instrument(at)
                done = at.done
                assert counted.open == 0, step
                assert hub.statistics().subscriptions == 0, step
        assert step > 20

    async def test_a_peer_cut_at_each_step_leaves_nothing(self, way: Way, clock: MockClock) -> None:
        step, done = 0, True
        counted = Counted()
        async with hub_served(way, expire=0, observer=counted) as (place, hub):
            while done:
                step += 1
                peers: list[Peer] = []
                at = AtStep(step, partial(cut, peers))
                trio.lowlevel.add_instrument(at)
                try:
                    with suppress(trio.BrokenResourceError, Declined, EndedError):
                        await talk(way, place, hub, peers.append)
                finally:
                    trio.lowlevel.remove_instrument(at)
                done = at.done
                await gone(place)
                assert counted.open == 0, step
                assert hub.statistics().subscriptions == 0, step
        assert step > 20


def cut(peers: list[Peer]) -> None:
    """End both directions of the sockets of peers at once, without their streams' knowledge."""
    for peer in peers:
        # It may have been closed.
        with suppress(OSError), socket.socket(fileno=os.dup(peer.plain.socket.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
