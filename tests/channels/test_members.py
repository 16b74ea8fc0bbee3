"""Subscriptions of connections end with them, whatever ends them and whatever is under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from tests.support.harness import Link, linked
from tests.support.hub import AskedBackend, Listener, remembered, settled
from trio_beat import (
    BackendError,
    BackendLost,
    Connection,
    ConnectionClosed,
    EndReason,
    Hub,
    HubClosed,
    connect,
    open_hub,
)
from trio_beat.testing.cancelling import cancelled_at

__all__ = ["fake_server"]  # a fixture


async def _fall_silent(link: Link) -> None:
    pass


async def _close(link: Link) -> None:
    await link.peer.send_close(1001, "bye")


async def _cancel(link: Link) -> None:
    link.scope.cancel()


async def _drain(link: Link) -> None:
    link.engine.end_nowait(EndReason.SHUTDOWN, 1001, "server is shutting down")


ENDS = [_fall_silent, _close, _cancel, _drain]


@pytest.mark.parametrize("end", ENDS)
async def test_a_connection_that_ends_leaves_all_channels(
    end: Callable[[Link], Awaitable[None]], autojump_clock: MockClock
) -> None:
    async with open_hub() as hub, open_hub() as other:

        async def handler(connection: Connection) -> None:
            await hub.subscribe(connection, ["a", "b", "b"])
            await hub.subscribe(connection, ["a"])
            await other.subscribe(connection, ["a"])
            await trio.sleep_forever()

        async with linked(handler) as link:
            await settled(hub, 2, 2)
            await settled(other, 1, 1)
            await end(link)
            await link.ended()
            await settled(hub, 0, 0)
            await settled(other, 0, 0)
        for it in (hub, other):
            assert not remembered(it)
            assert not it._members._members


async def test_it_leaves_in_the_step_in_which_it_ends(autojump_clock: MockClock) -> None:
    """Not after the closing handshake, for which a peer has five seconds."""
    async with open_hub() as hub, linked() as link:
        await hub.subscribe(link.connection, ["a", "b"])
        link.engine.end_nowait(EndReason.SHUTDOWN, 1001, "bye")
        assert hub.statistics().subscriptions == 0
        assert link.running


async def test_a_crash_of_the_handler_is_an_end(autojump_clock: MockClock) -> None:
    async with open_hub() as hub:

        async def handler(connection: Connection) -> None:
            await hub.subscribe(connection, ["a"])
            async for _ in connection:
                raise ZeroDivisionError

        async with linked(handler, handler_errors="close") as link:
            await settled(hub, 1, 1)
            await link.peer.send_text("x")
            await link.answer_close()
            await link.ended()
            await settled(hub, 0, 0)


async def test_one_that_a_fan_out_ends_leaves_during_it(autojump_clock: MockClock) -> None:
    async with open_hub() as hub, linked(outbox=1000) as slow, linked() as other:
        await hub.subscribe(slow.connection, ["a", "b"])
        await hub.subscribe(other.connection, ["a"])
        await trio.sleep(0.1)
        slow.clog()
        await hub.publish("a", "x")
        await hub.publish("a", "y")
        assert slow.connection.closed is not None
        assert slow.connection.closed.by is EndReason.SLOW
        assert [await other.peer.text() for _ in range(2)] == ["x", "y"]
        await settled(hub, 1, 1)


async def test_one_whose_last_message_ends_it_joins_nothing_more(
    autojump_clock: MockClock,
) -> None:
    async with open_hub() as hub, linked(outbox=1000) as link:
        for channel in ("a", "b", "c"):
            await hub.publish(channel, b"\0" * 1000)
        await trio.sleep(0.1)
        link.clog()
        with pytest.raises(ConnectionClosed, match="slow"):
            await hub.subscribe(link.connection, ["a", "b", "c"])
        await settled(hub, 0, 0)
        assert not remembered(hub)


async def test_one_that_has_ended_cannot_subscribe(autojump_clock: MockClock) -> None:
    async with open_hub() as hub, linked() as link:
        await wait_all_tasks_blocked()
        await link.connection.aclose()
        with pytest.raises(ConnectionClosed):
            await hub.subscribe(link.connection, ["a"])
        with pytest.raises(ConnectionClosed):
            async with hub.subscribed(link.connection, "a"):
                pytest.fail("it was subscribed")
        hub.unsubscribe(link.connection, ["a"])
        assert not remembered(hub)


@pytest.mark.parametrize("gate", ["+a", "?a", "answer"])
async def test_subscribing_that_waits_ends_with_the_connection(
    gate: str, autojump_clock: MockClock
) -> None:
    """It waits in the task of another, which learns why; and others go on waiting."""
    backend = AskedBackend()
    backend.gates[gate] = trio.Event()
    stays, told = Listener(), []
    async with open_hub(backend) as hub, linked() as link, trio.open_nursery() as nursery:

        async def subscribe() -> None:
            with pytest.raises(ConnectionClosed) as caught:
                await hub.subscribe(link.connection, ["a", "b"])
            told.append(caught.value.closed)

        nursery.start_soon(hub.subscribe, stays, ["a"])
        nursery.start_soon(subscribe)
        await wait_all_tasks_blocked()
        assert link.followed == 1
        await link.connection.aclose(4000)
        await wait_all_tasks_blocked()
        assert told == [link.connection.closed]
        backend.gates[gate].set()
        await settled(hub, 1, 1)
        assert backend.subscribed == {"a"}


@pytest.mark.parametrize("step", range(5))
async def test_subscribing_that_is_cancelled_leaves_nothing(
    step: int, autojump_clock: MockClock
) -> None:
    async with open_hub(AskedBackend()) as hub, linked() as link:
        cancelled = await cancelled_at(
            step, lambda: hub.subscribe(link.connection, ["a", "b", "a"])
        )
        assert link.followed == (not cancelled)
        await settled(hub, 2 * (not cancelled), 2 * (not cancelled))
        hub.unsubscribe(link.connection, ["a", "b", "a"])
        assert link.followed == 0
        await settled(hub, 0, 0)
    assert cancelled == (step < 3)


async def test_second_subscriptions_count(autojump_clock: MockClock) -> None:
    async with open_hub() as hub, linked() as link:
        async with hub.subscribed(link.connection, "a"):
            async with hub.subscribed(link.connection, "a", "b"):
                await settled(hub, 2, 2)
                assert link.followed == 1
            await settled(hub, 1, 1)
            assert link.followed == 1
        await settled(hub, 0, 0)
        assert link.followed == 0


async def test_a_connection_that_subscribes_nothing_is_not_followed(
    autojump_clock: MockClock,
) -> None:
    async with open_hub() as hub, linked() as link:
        with pytest.raises(ValueError, match="empty"):
            await hub.subscribe(link.connection, ["a", ""])
        await hub.subscribe(link.connection, [])
        assert not link.followed
        assert not hub._members._members


async def test_a_hub_that_ends_lets_go_of_connections(autojump_clock: MockClock) -> None:
    async with linked() as link:
        async with open_hub() as hub:
            await hub.subscribe(link.connection, ["a"])
        assert link.followed == 0
        with pytest.raises(HubClosed):
            await hub.subscribe(link.connection, ["a"])
        await link.connection.aclose()
        assert not hub._members._members


async def test_both_ends_at_once(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    backend.gates["+a"] = trio.Event()
    async with linked() as link, trio.open_nursery() as nursery:
        async with open_hub(backend) as hub:

            async def subscribe() -> None:
                with pytest.raises((HubClosed, ConnectionClosed)):
                    await hub.subscribe(link.connection, ["a"])

            nursery.start_soon(subscribe)
            await wait_all_tasks_blocked()
            await link.connection.aclose()
        assert link.followed == 0


@pytest.mark.parametrize("refused", [False, True])
async def test_a_backend_that_refuses_or_goes_away(
    refused: bool, autojump_clock: MockClock
) -> None:
    backend = AskedBackend()
    keep = BackendLost.KEEP
    async with open_hub(backend, backend_grace=1, backend_lost=keep) as hub, linked() as link:
        await hub.subscribe(link.connection, ["a"])
        if refused:
            backend.refused = {"b"}
        else:
            backend.go_away()
        with pytest.raises(BackendError):
            await hub.subscribe(link.connection, ["a", "b"])
        assert hub.statistics().subscriptions == 1
        assert link.followed == 1
        assert (await link.connection.wait_closed()).by is EndReason.MISSED_BEATS
        await settled(hub, 0, 0)


async def test_one_that_may_have_missed_messages_is_closed_and_leaves(
    autojump_clock: MockClock,
) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=0) as hub, linked() as link:
        await hub.subscribe(link.connection, ["a", "b"])
        backend.go_away()
        assert (await link.connection.wait_closed()).by is EndReason.BACKEND_LOST
        assert hub.statistics().subscriptions == 0
        assert not remembered(hub)


async def test_a_client_s_connection_leaves_too(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(fake_server.play, answer_pings)
    async with open_hub() as hub:
        async with connect(URL) as connection:
            await hub.subscribe(connection, ["a"])
            await settled(hub, 1, 1)
        await settled(hub, 0, 0)


step = st.tuples(
    st.sampled_from(["join", "join twice", "leave", "end", "publish", "turn"]),
    st.integers(0, 2),
    st.sampled_from("abc"),
)


async def _play(steps: list[tuple[str, int, str]]) -> None:
    """Whatever is under way at once, what has ended is nowhere, and all others are where they are.

    Joining runs in tasks of its own, so that connections end while it does.
    """
    hub: Hub
    links: list[Link] = []
    wanted: dict[tuple[int, str], int] = {}

    async def join(who: int, channels: list[str]) -> None:
        try:
            await hub.subscribe(links[who].connection, channels)
        except ConnectionClosed:
            return
        for channel in channels:
            wanted[who, channel] = wanted.get((who, channel), 0) + 1

    async with open_hub(AskedBackend()) as hub, linked() as one, linked() as two, linked() as three:
        links += [one, two, three]
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for what, who, channel in steps:
                connection = links[who].connection
                if what in ("join", "join twice"):
                    nursery.start_soon(join, who, [channel] * (1 + (what == "join twice")))
                elif what == "leave" and wanted.get((who, channel)):
                    hub.unsubscribe(connection, [channel])
                    wanted[who, channel] -= 1
                elif what == "end":
                    await connection.aclose()
                elif what == "publish":
                    nursery.start_soon(hub.publish, channel, "x")
                else:
                    await trio.lowlevel.checkpoint()
        there = {
            (who, channel)
            for (who, channel), count in wanted.items()
            if count and links[who].connection.closed is None
        }
        await settled(hub, len({channel for _, channel in there}), len(there))
        for who, link in enumerate(links):
            assert link.followed == any(other == who for other, _ in there)
        assert len(hub._members._members) == len({who for who, _ in there})


@settings(deadline=None)
@given(st.lists(step, max_size=30))
def test_whatever_is_under_way(steps: list[tuple[str, int, str]]) -> None:
    clock: Any = MockClock(autojump_threshold=0)
    trio.run(_play, steps, clock=clock)
