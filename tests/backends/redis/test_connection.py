from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from tests.support.played_broker import BrokerEnd, error, message, push, reply
from trio_beat.backends.redis.connection import LIMIT, PENDING, Connection
from trio_beat.backends.redis.errors import Disconnected, ReplyError


@asynccontextmanager
async def opened(
    pushed: Callable[[Sequence[Any]], object] | None = None, timeout: float = 5
) -> AsyncIterator[tuple[Connection, BrokerEnd]]:
    """A connection to a broker that the test plays."""
    ours, theirs = trio.testing.memory_stream_pair()
    connection = Connection(ours, name="broker", timeout=timeout, pushed=pushed)
    async with connection.running():
        yield connection, BrokerEnd(theirs)


async def answer_pings(broker: BrokerEnd) -> None:
    while True:
        assert await broker.command() == [b"PING"]
        await broker.send(reply(b"PONG"))


async def test_replies_belong_to_their_commands() -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:
        replies: dict[int, object] = {}

        async def call(number: int) -> None:
            replies[number] = await connection.call("GET", f"{number}")

        for number in range(100):
            nursery.start_soon(call, number)
        for _ in range(100):
            _, name = await broker.command()
            await broker.send(reply(name))
    assert replies == {number: b"%d" % number for number in range(100)}


async def test_commands_of_many_tasks_are_sent_at_once() -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(connection.call, "PING")
        await trio.testing.wait_all_tasks_blocked()
        assert await broker.stream.receive_some() == b"*1\r\n$4\r\nPING\r\n" * 3
        await broker.send(reply(b"PONG") * 3)


async def test_a_refusal_is_raised_or_given() -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(ReplyError, match="ERR no such thing") as caught:
                await connection.call("NOSUCH", "secret")
            assert caught.value.code == "ERR"
            first, second = await connection.calls([("NOSUCH",), ("GET", "x")])
            assert isinstance(first, ReplyError)
            assert second == b"x"

        nursery.start_soon(call)
        await broker.command()
        await broker.send(error("ERR no such thing, with args beginning with: 'secret'"))
        await broker.command()
        await broker.send(error("ERR no such thing"), reply(b"x"))


async def test_pushes_are_told_and_confirm() -> None:
    pushes: list[Sequence[Any]] = []
    async with opened(pushes.append) as (connection, broker), trio.open_nursery() as nursery:

        async def subscribe() -> None:
            refused = await connection.subscribe([b"a", b"b"])
            assert list(refused) == [b"b"]
            assert await connection.unsubscribe([b"a"]) == {}
            assert await connection.subscribe([]) == {}

        nursery.start_soon(subscribe)
        assert await broker.command() == [b"SUBSCRIBE", b"a"]
        assert await broker.command() == [b"SUBSCRIBE", b"b"]
        await broker.send(
            message(b"other", b"x"),
            push(b"subscribe", b"a", 1),
            error("NOPERM"),
            message(b"a", b"y"),
        )
        assert await broker.command() == [b"UNSUBSCRIBE", b"a"]
        await broker.send(push(b"unsubscribe", b"a", 0))
    assert pushes == [[b"message", b"other", b"x"], [b"message", b"a", b"y"]]


@pytest.mark.parametrize(
    "sent", [reply(1), push(b"subscribe", b"a", 1), b"HTTP/1.1 400\r\n"], ids=repr
)
async def test_what_was_not_asked_for_ends_it(sent: bytes) -> None:
    async with opened() as (connection, broker):
        await broker.send(sent)
        assert str(await connection.wait_ended()).startswith("broker")
        with pytest.raises(Disconnected):
            await connection.call("PING")


async def test_a_confirmation_in_place_of_a_reply_ends_it() -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(Disconnected, match="do not match"):
                await connection.call("PING")

        nursery.start_soon(call)
        await broker.command()
        await broker.send(push(b"unsubscribe", b"a", 0))


async def test_a_broker_may_say_why_it_closes() -> None:
    async with opened() as (connection, broker):
        await broker.send(error("ERR max number of clients reached"))
        text = "broker says 'ERR max number of clients reached'"
        assert str(await connection.wait_ended()) == text


async def test_what_was_said_is_heard_after_writing_has_failed() -> None:
    async def fail() -> None:
        raise trio.BrokenResourceError

    ours, theirs = trio.testing.memory_stream_pair()
    ours.send_stream.send_all_hook = fail
    async with Connection(ours, name="broker", timeout=5).running() as connection:
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(ReplyError, match="max number"):
                    await connection.call("PING")

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            await BrokerEnd(theirs).send(error("ERR max number of clients reached"))


async def test_the_end_ends_every_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:

        async def call() -> None:
            with pytest.raises(Disconnected, match="broker has closed the connection"):
                await connection.call("SET", "x", b"x" * (LIMIT // 4))

        for _ in range(20):  # some of them wait for room
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        await broker.stream.send_stream.aclose()
    assert isinstance(connection.error, Disconnected)


async def test_leaving_ends_every_wait() -> None:
    async with trio.open_nursery() as nursery:
        async with opened() as (connection, broker):

            async def call() -> None:
                with pytest.raises(Disconnected, match="the connection is closed"):
                    await connection.call("PING")

            nursery.start_soon(call)
            await broker.command()
    with pytest.raises(trio.BrokenResourceError):
        await broker.send(reply(b"PONG"))


async def test_a_caller_that_is_cancelled_leaves_its_place() -> None:
    async with opened() as (connection, broker):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.call, "GET", "cancelled")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                assert await connection.call("GET", "other") == b"2"

            nursery.start_soon(call)
            for _ in range(2):
                await broker.command()
            await broker.send(reply(b"1"), reply(b"2"))


async def test_what_is_cancelled_before_is_not_sent() -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            await connection.call("GET", "cancelled")
        nursery.start_soon(connection.call, "GET", "other")
        assert await broker.command() == [b"GET", b"other"]
        await broker.send(reply(None))


@asynccontextmanager
async def stuck() -> AsyncIterator[tuple[Connection, BrokerEnd, trio.Event]]:
    """A connection that takes what is sent once, and more when the event is set."""
    ours, theirs = trio.testing.memory_stream_pair()
    taken = trio.Event()
    carry = ours.send_stream.send_all_hook
    assert carry is not None

    async def carry_and_wait() -> None:
        await carry()
        await taken.wait()

    ours.send_stream.send_all_hook = carry_and_wait
    async with Connection(ours, name="broker", timeout=5).running() as connection:
        yield connection, BrokerEnd(theirs), taken


async def test_tasks_wait_for_room_in_order() -> None:
    async with stuck() as (connection, broker, taken), trio.open_nursery() as nursery:

        async def call(number: int) -> None:
            assert await connection.call("SET", f"{number}", b"x" * (LIMIT // 2)) == b"OK"

        for number in range(10):
            nursery.start_soon(call, number)
            await trio.testing.wait_all_tasks_blocked()
        assert [(await broker.command())[1]] == [b"0"]
        taken.set()
        for number in range(10):
            if number:
                assert (await broker.command())[1] == b"%d" % number
            await broker.send(reply(b"OK"))


async def test_what_is_not_sent_is_bounded() -> None:
    async with stuck() as (connection, broker, taken), trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(connection.call, "SET", "x", b"x" * (LIMIT // 10))
        await trio.testing.wait_all_tasks_blocked()
        # What the writer has taken, before it takes what has come meanwhile.
        first = len(await broker.stream.receive_some())
        assert LIMIT <= first < 1.2 * LIMIT
        taken.set()
        left = 100 * (LIMIT // 10) - first
        while left > 0:
            data = await broker.stream.receive_some()
            left -= data.count(b"x" * (LIMIT // 10)) * (LIMIT // 10)
            await broker.send(reply(b"OK") * data.count(b"SET"))
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_one_that_waits_for_room_may_be_cancelled() -> None:
    async with stuck() as (connection, broker, taken), trio.open_nursery() as nursery:
        scopes = [trio.CancelScope() for _ in range(5)]

        async def call(number: int) -> None:
            with scopes[number]:
                await connection.call("SET", f"{number}", b"x" * LIMIT)

        for number in range(5):  # the first is being sent, the second waits to be, the others wait
            nursery.start_soon(call, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[2].cancel()
        scopes[3].cancel()
        await trio.testing.wait_all_tasks_blocked()
        taken.set()
        for name in (b"0", b"1", b"4"):
            assert (await broker.command())[1] == name
            await broker.send(reply(b"OK"))


async def test_replies_to_come_are_bounded() -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:
        nursery.start_soon(connection.calls, [("PING",)] * (2 * PENDING + 1))
        for expected in (PENDING, PENDING, 1):
            await trio.testing.wait_all_tasks_blocked()
            count = (await broker.stream.receive_some()).count(b"PING")
            assert count == expected
            await broker.send(reply(b"PONG") * count)


async def test_a_silent_broker_is_noticed(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as (connection, broker):
        begin = trio.current_time()
        assert str(await connection.wait_ended()) == "broker has not answered for 5 s"
        assert trio.current_time() - begin == pytest.approx(5)
        assert await broker.command() == [b"PING"]


async def test_a_call_is_answered_in_time(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as (connection, broker):
        await trio.sleep(2.4)
        begin = trio.current_time()
        with pytest.raises(Disconnected):
            await connection.call("GET", "x")
        assert 2.5 <= trio.current_time() - begin <= 5
        assert await broker.command() == [b"GET", b"x"]
        with trio.move_on_after(1):  # nothing else is asked where a reply is due
            assert await broker.stream.receive_some() == b""


async def test_a_broker_that_answers_is_no_silent_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:
        nursery.start_soon(answer_pings, broker)
        await trio.sleep(1000)
        assert connection.error is None
        nursery.cancel_scope.cancel()


async def test_long_deliveries_are_no_silence_of_the_broker(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Slow(Connection):
        async def _take(self, item: Any) -> None:
            await trio.sleep(60)
            await super()._take(item)

    ours, theirs = trio.testing.memory_stream_pair()
    broker = BrokerEnd(theirs)
    async with Slow(ours, name="broker", timeout=5).running() as connection:
        begin = trio.current_time()
        await broker.send(message(b"a", b"x"))
        await connection.wait_ended()
        assert trio.current_time() - begin == pytest.approx(65)


@pytest.mark.parametrize("stopped_at", [1.0, 2.6, 4.9])
async def test_a_stall_of_this_process_is_no_silence_of_the_broker(
    autojump_clock: trio.testing.MockClock, stopped_at: float
) -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:
        await trio.sleep(stopped_at)
        autojump_clock.jump(60)
        # The broker's answer to what may have been asked comes a moment later.
        await trio.sleep(0.5)
        nursery.start_soon(answer_pings, broker)
        await trio.sleep(20)
        assert connection.error is None
        nursery.cancel_scope.cancel()


async def test_a_broker_that_died_during_a_stall_is_noticed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (connection, _):
        await trio.sleep(3)
        autojump_clock.jump(60)
        begin = trio.current_time()
        await connection.wait_ended()
        assert trio.current_time() - begin <= 5


async def test_others_get_turns_while_much_comes_at_once() -> None:
    seen: list[int] = []

    class Turns(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            seen.append(pushed)

    pushed = 0

    def count(_: Sequence[Any]) -> None:
        nonlocal pushed
        pushed += 1

    async with opened(count) as (_, broker):
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        await broker.send(push(b"x") * 5000)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(turns)
    assert pushed == 5000
    assert max(after - before for before, after in pairwise(seen)) <= 256


async def test_one_that_pushes_and_answers_nothing_is_noticed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:

        async def push_on() -> None:
            while True:
                await broker.send(push(b"x"))
                await trio.sleep(0.3)

        nursery.start_soon(push_on)
        await trio.sleep(20)  # where nothing is asked, nothing need be answered
        begin = trio.current_time()
        with pytest.raises(Disconnected, match="has not answered for 5 s"):
            await connection.call("GET", "x")
        assert trio.current_time() - begin <= 5
        nursery.cancel_scope.cancel()


async def test_what_the_reader_of_replies_cannot_take_is_no_resp() -> None:
    async with opened() as (connection, broker):
        await broker.stream.send_all(b"%1\r\n*0\r\n:1\r\n")
        assert "has sent what is not RESP" in str(await connection.wait_ended())
