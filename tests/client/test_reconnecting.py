"""`reconnecting`: when it connects again, and when it does not."""

from __future__ import annotations

import math
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from tests.support.chance import Chance
from tests.support.fake_server import URL, FakeServer, answer_pings, fake_server
from trio_beat import (
    Closed,
    Connection,
    ConnectionClosed,
    EndReason,
    HandshakeFailed,
    HandshakeRefused,
    Heartbeat,
    TLSFailed,
    Unreachable,
    reconnecting,
)
from trio_beat._client import reconnecting as module
from trio_beat._client.backoff import Backoff

__all__ = ["fake_server"]  # a fixture

INTERVAL = 5.0


@pytest.fixture(autouse=True)
def _longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are as long as they may be: 4, 8, 16, 30 seconds."""
    monkeypatch.setattr(module, "Backoff", partial(Backoff, chance=Chance(1)))


async def close(fake_server: FakeServer, *codes: int, after: float = 0.0) -> None:
    """Accept clients, one after the other, and close them."""
    for code in codes:
        peer = await fake_server.accept()
        await trio.sleep(after)
        await peer.send_close(code)
        await peer.closed()
        await peer.aclose()


async def test_each_iteration_gives_a_live_connection(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        for number in range(3):
            peer = await fake_server.accept()
            await peer.send_text(str(number))
            await trio.sleep(INTERVAL)
            await peer.send_close(1001)
            await peer.closed()
            await peer.aclose()

    nursery.start_soon(serve)
    got: list[str | bytes] = []
    ends: list[Closed | None] = []
    async with reconnecting(URL) as connections:
        async for connection in connections:
            assert connection.closed is None
            async for message in connection:
                got.append(message)
            ends.append(connection.closed)
            if len(ends) == 3:
                break
    assert got == ["0", "1", "2"]
    assert ends == [Closed(EndReason.PEER, 1001, "")] * 3
    # Each has lived for an interval: the pauses stay short.
    assert fake_server.times == [0, 9, 18]


async def test_the_iteration_over_messages_ends_when_the_server_falls_silent(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        await fake_server.accept()
        await answer_pings(await fake_server.accept())

    nursery.start_soon(serve)
    ends: list[Closed | None] = []
    async with reconnecting(URL, heartbeat=Heartbeat(INTERVAL, misses=3)) as connections:
        async for connection in connections:
            if ends:
                break
            async for _ in connection:
                pass
            ends.append(connection.closed)
    assert ends == [Closed(EndReason.MISSED_BEATS, 1006, "3 in a row")]
    assert fake_server.times == [0, 4 * INTERVAL + 4]


async def test_the_body_is_not_cancelled_and_may_catch_the_end(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    nursery.start_soon(close, fake_server, 1001, 1001)
    rounds = 0
    async with reconnecting(URL) as connections:
        async for connection in connections:
            rounds += 1
            if rounds == 2:
                break
            await trio.sleep(50)
            try:
                await connection.send("x")
            except ConnectionClosed:
                continue
    assert fake_server.times == [0, 54]


async def test_pauses_grow_until_a_connection_has_lived_for_an_interval(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        await close(fake_server, 1001, 1001, 1001, 1001, 1001)
        await close(fake_server, 1001, 1001, after=INTERVAL)
        await answer_pings(await fake_server.accept())

    nursery.start_soon(serve)
    async with reconnecting(URL, heartbeat=Heartbeat(INTERVAL)) as connections:
        async for connection in connections:
            async for _ in connection:
                pass
            if len(fake_server.times) == 7:
                break
    pauses = [
        after - before
        for before, after in zip(fake_server.times, fake_server.times[1:], strict=False)
    ]
    assert pauses == [4, 8, 16, 30, 30, INTERVAL + 4]


@pytest.mark.parametrize("code", [1012, 1013])
async def test_a_server_that_asks_for_time_gets_it(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, code: int
) -> None:
    nursery.start_soon(close, fake_server, code, 1000)
    async with reconnecting(URL) as connections:
        async for connection in connections:
            if len(fake_server.times) == 2:
                break
            async for _ in connection:
                pass
    assert fake_server.times == [0, 16]


@pytest.mark.parametrize("code", [1008, 4000, 4099])
async def test_a_server_that_forbids_to_reconnect_is_obeyed(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, code: int
) -> None:
    nursery.start_soon(close, fake_server, code)
    with pytest.raises(ConnectionClosed) as caught:
        async with reconnecting(URL) as connections:
            async for connection in connections:
                async for _ in connection:
                    pass
    assert caught.value.closed == Closed(EndReason.PEER, code, "")
    assert fake_server.times == [0]


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("no route"),
        HandshakeFailed("what?"),
        TLSFailed("reset", untrusted=False),
    ],
    ids=["unreachable", "no handshake", "TLS cut off"],
)
async def test_what_may_pass_is_tried_again(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, error: Exception
) -> None:
    async def serve() -> None:
        await answer_pings(await fake_server.accept())

    nursery.start_soon(serve)
    fake_server.errors = [error] * 3
    async with reconnecting(URL) as connections:
        async for _ in connections:
            break
    assert fake_server.times == [0, 4, 12, 28]


@pytest.mark.parametrize(("status", "pause"), [(502, 4), (504, 4), (503, 16), (429, 16), (408, 4)])
async def test_a_status_that_may_pass_is_tried_again(
    fake_server: FakeServer,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    status: int,
    pause: float,
) -> None:
    async def serve() -> None:
        await fake_server.refuse(status)
        await answer_pings(await fake_server.accept())

    nursery.start_soon(serve)
    async with reconnecting(URL) as connections:
        async for _ in connections:
            break
    assert fake_server.times == [0, pause]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 301])
async def test_a_refusal_is_final(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock, status: int
) -> None:
    nursery.start_soon(fake_server.refuse, status)
    with pytest.raises(HandshakeRefused) as caught:
        async with reconnecting(URL) as connections:
            async for _ in connections:
                raise AssertionError
    assert caught.value.status == status
    assert fake_server.times == [0]


async def test_a_server_that_is_not_trusted_is_final(
    fake_server: FakeServer, autojump_clock: MockClock
) -> None:
    fake_server.errors = [TLSFailed("self-signed", untrusted=True)]
    with pytest.raises(TLSFailed):
        async with reconnecting(URL) as connections:
            await anext(aiter(connections))


async def test_the_next_iteration_closes_a_connection_that_is_still_open(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    closes = []

    async def serve() -> None:
        for _ in range(2):
            peer = await fake_server.accept()
            closes.append(await peer.closed())
            await peer.send_close()
            await peer.aclose()

    nursery.start_soon(serve)
    before = None
    async with reconnecting(URL) as connections:
        async for connection in connections:
            if before is not None:
                break
            before = connection
    assert before is not None
    assert before.closed == connection.closed == Closed(EndReason.HANDLER, 1000, "")
    assert [close and close.code for close in closes] == [1000, 1000]


async def test_what_the_body_raises_comes_through(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        await answer_pings(await fake_server.accept())

    nursery.start_soon(serve)
    error = ValueError("the application's")
    seen: list[Connection] = []
    with pytest.raises(ValueError, match="the application's") as caught:
        async with reconnecting(URL) as connections:
            async for connection in connections:
                seen.append(connection)
                raise error
    assert caught.value is error
    assert seen[0].closed == Closed(EndReason.HANDLER, 1011, "internal error")


async def test_a_slow_closing_handshake_does_not_count_as_life(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The server closes each connection at once, and leaves its socket open."""

    async def serve() -> None:
        for _ in range(3):
            peer = await fake_server.accept()
            await peer.send_close(1011)

    nursery.start_soon(serve)
    async with reconnecting(URL) as connections:
        async for connection in connections:
            async for _ in connection:
                pass
            if len(fake_server.times) == 3:
                break
    # Five seconds for its end of the stream, and the pause.
    assert fake_server.times == [0, 5 + 4, 5 + 4 + 5 + 8]


async def test_is_for_inside_its_context(
    fake_server: FakeServer, autojump_clock: MockClock
) -> None:
    context = reconnecting(URL)
    with pytest.raises(RuntimeError, match="this is for inside"):
        await anext(context)
    async with context:
        pass
    with pytest.raises(RuntimeError, match="this is for inside"):
        await anext(context)


async def test_one_task_at_a_time_iterates(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        await answer_pings(await fake_server.accept())

    nursery.start_soon(serve)
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="another task")):
        async with reconnecting(URL) as connections:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(anext, connections)
                tasks.start_soon(anext, connections)


async def test_a_pause_that_is_cancelled_is_still_due(
    fake_server: FakeServer, autojump_clock: MockClock
) -> None:
    fake_server.errors = [Unreachable("no route")] * 10
    async with reconnecting(URL) as connections:
        for _ in range(100):
            with trio.move_on_after(0.2):
                await anext(connections)
    assert fake_server.times == pytest.approx([0, 4, 12], abs=0.2)


async def test_a_body_with_tasks_that_is_cancelled_closes_with_going_away(
    fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def serve() -> None:
        await answer_pings(await fake_server.accept())

    nursery.start_soon(serve)
    seen: list[Connection] = []
    with trio.move_on_after(1):
        async with reconnecting(URL) as connections:
            async for connection in connections:
                seen.append(connection)
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(trio.sleep_forever)
    assert seen[0].closed == Closed(EndReason.HANDLER, 1001, "going away")


async def test_can_be_cancelled_in_a_pause(
    fake_server: FakeServer, autojump_clock: MockClock
) -> None:
    fake_server.errors = [Unreachable("no route")]
    with trio.move_on_after(2) as scope:
        async with reconnecting(URL) as connections:
            async for _ in connections:
                raise AssertionError
    assert scope.cancelled_caught
    assert trio.current_time() == 2


async def test_logs_why_and_when_it_connects_again(
    fake_server: FakeServer,
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nursery.start_soon(fake_server.accept)
    fake_server.errors = [Unreachable("cannot reach it: no route")]
    with caplog.at_level("INFO", "trio_beat.client"):
        async with reconnecting(URL) as connections:
            async for _ in connections:
                break
    assert "localhost:80: cannot reach it: no route; again in 4.0 s" in caplog.messages


@pytest.mark.parametrize("connect_timeout", [10.0, math.inf])
@pytest.mark.parametrize("silent", [True, False])
async def test_task_outside_of_its_block_does_not_delay_leaving(
    connect_timeout: float, silent: bool, patient_clock: MockClock
) -> None:
    async def never(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async def iterate() -> None:
        with pytest.raises(RuntimeError, match="left meanwhile"):
            await anext(connections)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, never, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1] if silent else 1
        connections = reconnecting(f"ws://127.0.0.1:{port}/", connect_timeout=connect_timeout)
        async with trio.open_nursery() as outside:
            async with connections:
                outside.start_soon(iterate)
                await trio.sleep(0.5)
                left = trio.current_time()
            assert trio.current_time() - left < 0.5
        assert trio.current_time() - left < 0.5
        nursery.cancel_scope.cancel()
