"""A closing handshake that a peer does not take part in."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed

from tests.support.kept import BEATS, in_memory, kept, over_streams, tcp_pair
from trio_beat import Closed, EndReason, Heartbeat

DEAD = Closed(EndReason.MISSED_BEATS, 1006, "2 in a row")


@pytest.mark.parametrize("way", ["tcp", "tls", "memory"])
async def test_a_dead_peer_holds_up_no_close_of_the_program(
    way: str, patient_clock: trio.testing.MockClock
) -> None:
    # Without a limit trio-websocket waits for the peer's close frame.
    async with in_memory() if way == "memory" else kept(tls=way == "tls") as (one, _):
        begin = trio.current_time()
        with trio.fail_after(60):
            await one.ws.aclose()
            await one.over.wait()
        assert one.closed == DEAD
        assert one.at - begin <= BEATS.patience + 1


async def test_one_that_closes_and_takes_nothing_holds_up_no_program(
    patient_clock: trio.testing.MockClock,
) -> None:
    # trio-websocket's reader wants to answer the close frame, behind what is being sent.
    async with over_streams(*await tcp_pair(8192)) as (one, peer), trio.open_nursery() as nursery:

        async def send() -> None:
            with contextlib.suppress(ConnectionClosed):
                await one.ws.send_message(b"z" * 1_000_000)

        nursery.start_soon(send)
        await trio.sleep(0.5)
        await peer.send_close(1000)
        with trio.fail_after(60):
            with pytest.raises(ConnectionClosed):
                await one.ws.get_message()
            await one.over.wait()
        assert one.closed is not None
        assert one.closed.code == 1006


async def test_a_slow_close_is_waited_for(patient_clock: trio.testing.MockClock) -> None:
    async with kept() as (one, peer), trio.open_nursery() as nursery:
        nursery.start_soon(one.ws.aclose)
        await peer.closed()
        for _ in range(10):  # it still has something to say
            await peer.send_text("more")
            await trio.sleep(0.9)
        assert one.closed is None
        await peer.send_close(1000)
        with trio.fail_after(60):
            await one.over.wait()
        assert one.closed == Closed(EndReason.HANDLER, 1000, "")


async def test_it_ends_where_the_reader_has_ended(patient_clock: trio.testing.MockClock) -> None:
    # After a message that is too big trio-websocket reads no more, and waits for nothing.
    async with kept(heartbeat=Heartbeat(1.0, 5)) as (one, peer):
        with contextlib.suppress(trio.BrokenResourceError):
            await peer.send_text("x" * 2**20 + "x" * 100_000)
        with trio.fail_after(60):
            await one.over.wait()
        assert one.closed is not None
        assert one.closed[:2] == (EndReason.TOO_BIG, 1009)
