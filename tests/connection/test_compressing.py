"""Messages that a connection sends and receives compressed (RFC 7692)."""

from __future__ import annotations

import random
from contextlib import suppress
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.deflating import PIECE, make_deflate, some_json
from tests.support.harness import Link, echo, linked
from trio_beat import Connection, ConnectionClosed, Message
from trio_beat._connection.shared import SlowPolicy
from trio_beat.testing import cancelled_at

LARGE = some_json(20 * PIECE)


async def texts(link: Link, number: int) -> list[str]:
    return [await link.peer.text() for _ in range(number)]


@pytest.mark.parametrize("secure", [False, True])
async def test_messages_of_any_size_come_back(autojump_clock: MockClock, secure: bool) -> None:
    sizes = (0, 1, 100, 1000, PIECE, PIECE + 1, 10 * PIECE)
    deflate = make_deflate(threshold=64)
    async with linked(echo, deflate=deflate, secure=secure) as link:
        for size in sizes:
            await link.peer.send_text(some_json(size))
            assert await link.peer.text() == some_json(size)
        assert link.peer.received < sum(sizes) / 2
        assert link.connection.compression == deflate.compression
    counts = deflate.counts.statistics()
    assert counts.compressed == 5
    assert counts.inflated == len(sizes)
    assert counts.bytes_before == sum(sizes[2:])


async def test_nothing_is_compressed_unless_agreed(autojump_clock: MockClock) -> None:
    async with linked(echo) as link:
        await link.peer.send_text(LARGE)
        assert await link.peer.text() == LARGE
        assert link.peer.received > len(LARGE)
        assert link.connection.compression is None


async def test_a_small_message_waits_for_a_large_one_that_was_sent_before(
    autojump_clock: MockClock,
) -> None:
    async def handler(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            for message in ("1", LARGE, "2", LARGE[1:], "3", "4"):
                nursery.start_soon(connection.send, message)
                # Until it has begun.
                await trio.lowlevel.checkpoint()
        await trio.sleep_forever()

    async with linked(handler, deflate=make_deflate()) as link:
        assert await texts(link, 6) == ["1", LARGE, "2", LARGE[1:], "3", "4"]


async def test_others_run_while_a_message_is_compressed(autojump_clock: MockClock) -> None:
    async with linked(deflate=make_deflate()) as link, trio.open_nursery() as nursery:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        nursery.start_soon(other)
        await link.connection.send(LARGE)
        nursery.cancel_scope.cancel()
        assert turns >= 15


async def test_a_message_for_several_is_compressed_by_one_of_them(
    autojump_clock: MockClock,
) -> None:
    deflate, message = make_deflate(), Message(LARGE)
    async with linked(deflate=deflate) as one, linked(deflate=deflate) as two:
        two.engine.shared = one.shared
        async with trio.open_nursery() as nursery:
            for link in (one, two):
                for _ in range(3):
                    nursery.start_soon(link.connection.send, message)
            for link in (one, two):
                assert await texts(link, 3) == [LARGE] * 3
    assert deflate.counts.compressed == 1


async def test_one_that_waits_compresses_where_the_first_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    deflate, message = make_deflate(), Message(LARGE)
    async with linked(deflate=deflate) as one, linked(deflate=deflate) as two:
        two.engine.shared = one.shared
        async with trio.open_nursery() as nursery, trio.open_nursery() as other:
            other.start_soon(one.connection.send, message)
            while not one.shared.under_way:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(two.connection.send, message)
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            other.cancel_scope.cancel()
        assert await two.peer.text() == LARGE
        await one.connection.send("next")
        assert await one.peer.text() == "next"
    assert deflate.counts.compressed == 1


async def test_sending_may_be_cancelled_at_any_await(autojump_clock: MockClock) -> None:
    async with linked(deflate=make_deflate(), outbox=2**24) as link:
        received: list[str] = []

        async def read() -> None:
            while True:
                received.append(await link.peer.text())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            step = 0
            while await cancelled_at(step, partial(link.connection.send, f"{step}" + LARGE)):
                assert not link.shared.orders
                assert not link.shared.under_way
                step += 1
                if step > 15:
                    step += 7
                assert step < 200
            await link.connection.send("last")
            while received[-1:] != ["last"]:  # noqa: ASYNC110 - virtual time
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert step > 15
        # Whole ones, in order; those that were cancelled on their way may have left.
        assert all(text.endswith(LARGE) for text in received[:-1])
        assert received[-2] == f"{step}" + LARGE


async def test_a_connection_that_ends_meanwhile_raises(autojump_clock: MockClock) -> None:
    async with linked(deflate=make_deflate()) as link, trio.open_nursery() as nursery:

        async def send(message: str) -> None:
            with pytest.raises(ConnectionClosed):
                await link.connection.send(message)

        nursery.start_soon(send, LARGE)
        while not link.shared.under_way:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(send, "behind it")
        await link.connection.aclose()
        await link.answer_close()
    assert not link.shared.orders


async def test_what_does_not_wait_goes_as_it_is_where_that_would_take_long(
    autojump_clock: MockClock,
) -> None:
    deflate, message = make_deflate(), Message(LARGE)
    async with linked(deflate=deflate, outbox=2**24) as link:
        link.connection.send_nowait(message)
        assert await link.peer.text() == LARGE
        assert link.peer.received > len(LARGE)
        before = link.peer.received
        await link.connection.send(message)
        link.connection.send_nowait(message)
        link.connection.deliver_nowait(message)
        assert await texts(link, 3) == [LARGE] * 3
        assert link.peer.received - before < len(LARGE)
        link.connection.send_nowait(LARGE[:PIECE])
        assert await link.peer.text() == LARGE[:PIECE]
        assert deflate.counts.compressed == 2


async def test_the_outbox_counts_what_is_compressed(autojump_clock: MockClock) -> None:
    async with linked(deflate=make_deflate(), outbox=10**6) as link:
        await trio.sleep(0.1)
        noise = random.Random(1).randbytes(PIECE)
        while not link.connection.statistics().outbox:
            link.connection.send_nowait(noise)
        before = link.connection.statistics().outbox
        for _ in range(100):
            link.connection.send_nowait("x" * PIECE)
        assert link.connection.closed is None
        assert link.connection.statistics().outbox - before < 100 * 100


async def test_compressed_messages_may_be_dropped(autojump_clock: MockClock) -> None:
    policy = SlowPolicy.DROP_OLDEST
    async with linked(deflate=make_deflate(), outbox=10_000, slow_policy=policy) as link:
        await trio.sleep(0.1)
        noise = random.Random(1).randbytes(PIECE)
        while not link.connection.statistics().outbox:
            link.connection.send_nowait(noise)
        for number in range(2000):
            link.connection.send_nowait(f"{number} " + "x" * 1000)
        assert link.connection.statistics().dropped > 1000
        assert link.connection.statistics().outbox < 2 * PIECE + 10_000
        last = ""
        while not last.startswith("1999 "):
            with suppress(AssertionError):
                last = await link.peer.text()


async def test_a_bomb_ends_the_connection_with_1009(autojump_clock: MockClock) -> None:
    async with linked(deflate=make_deflate(), message_size=PIECE) as link:
        await link.peer.send_text("x" * (PIECE + 1))
        close = await link.answer_close()
        assert close is not None
        assert close.code == 1009


async def test_a_large_message_of_a_peer_comes_in_turns(autojump_clock: MockClock) -> None:
    content = "x" * 10**6
    async with linked(echo, deflate=make_deflate()) as link:
        for _ in range(3):
            await link.peer.send_text(content)
            await link.peer.send_text("behind")
        for _ in range(3):
            assert await link.peer.text() == content
            assert await link.peer.text() == "behind"
        await wait_all_tasks_blocked()
        assert link.reads.unfinished.held == 0
