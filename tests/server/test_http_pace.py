"""How fast HTTP may go: token buckets, and turns among all that the server does."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.support.serving import serving
from tests.support.turns import giving_turns
from trio_beat._server import http_pace
from trio_beat._server.http_pace import (
    BYTES,
    PATIENCE,
    REQUESTS,
    SLOWEST,
    STEPS,
    Bucket,
    Pace,
    Patience,
)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read a request to its end and answer it."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


# The buckets.


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=10, burst=5)
    assert [bucket.take(1, 100.0) for _ in range(7)] == [0, 0, 0, 0, 0, 0.1, 0.2]
    # What was taken too early is paid back.
    assert bucket.take(1, 100.2) == pytest.approx(0.1)
    assert bucket.take(5, 200.0) == 0
    assert bucket.take(10, 200.0) == 1


async def test_patience_ends_though_bytes_come(autojump_clock: trio.testing.MockClock) -> None:
    patience = Patience()
    with pytest.raises(trio.TooSlowError):
        while True:
            await patience.wait(trio.sleep, 1)
            patience.earn(1)
    assert trio.current_time() == pytest.approx(PATIENCE, abs=0.1)


async def test_patience_does_not_end_with_bytes_that_come_steadily(
    autojump_clock: trio.testing.MockClock,
) -> None:
    patience = Patience()
    for _ in range(100):
        await patience.wait(trio.sleep, 10)
        patience.earn(int(SLOWEST) * 10)
    # Nor is more of it saved than there was at first.
    with pytest.raises(trio.TooSlowError):
        await patience.wait(trio.sleep, PATIENCE + 0.1)


async def test_steps_of_all_share_a_rate(autojump_clock: trio.testing.MockClock) -> None:
    rate, burst = STEPS

    async def many(pace: Pace) -> None:
        for _ in range(int(burst / 100 + rate / 100)):
            await pace.step()

    async with giving_turns() as turns, trio.open_nursery() as workers:
        pace = Pace(turns)
        for _ in range(100):
            workers.start_soon(many, pace)
    assert trio.current_time() == pytest.approx(1, abs=0.01)


# A server.


async def count_answers(stream: trio.SocketStream, count: int) -> None:
    data = b""
    while data.count(b"HTTP/1.1 204 ") < count:
        chunk = await stream.receive_some(65536)
        assert chunk
        data += chunk


@pytest.mark.slow
async def test_requests_of_a_connection_beyond_the_rate_are_read_later(
    patient_clock: trio.testing.MockClock,
) -> None:
    rate, burst = REQUESTS
    async with serving(app=app) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        for count, seconds in ((int(burst), 0), (int(rate), 1), (int(rate), 1)):
            begun = trio.current_time()
            await stream.send_all(GET * count)
            await count_answers(stream, count)
            assert trio.current_time() - begun == pytest.approx(seconds, abs=0.1)
        await stream.aclose()


@pytest.mark.slow
async def test_bytes_of_a_connection_beyond_the_rate_are_read_later(
    patient_clock: trio.testing.MockClock,
) -> None:
    rate, burst = BYTES
    size = int(burst + rate / 2)
    async with serving(app=app) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(HEAD % (b"Content-Length: %d" % size) + b"x" * size)
        await count_answers(stream, 1)
        assert trio.current_time() == pytest.approx(0.5, abs=0.1)
        await stream.aclose()


async def test_a_large_head_takes_more_steps(
    patient_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pace, "STEPS", (10.0, 0.0))
    large = GET.replace(b"Host: x", b"Host: x" + b"\r\nA: b" * 120 + b"\r\nB: " + b"b" * 15000)
    async with serving(app=app) as server:
        took = []
        for data in (GET, large):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            begun = trio.current_time()
            await stream.send_all(data)
            await count_answers(stream, 1)
            took.append(trio.current_time() - begun)
            await stream.aclose()
    # The last step of the first answer is paid for by the second.
    assert took == [pytest.approx(0.2, abs=0.05), pytest.approx(0.9, abs=0.05)]


class Passes(trio.abc.Instrument):
    """Counts the steps within each pass of the scheduler."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def before_io_wait(self, timeout: float) -> None:
        self.most = max(self.most, self.now)
        self.now = 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        GET * 20,
        HEAD % b"Transfer-Encoding: chunked" + b"1\r\nx\r\n" * 400 + b"0\r\n\r\n",
        HEAD % b"Content-Length: 100000" + b"x" * 100_000,
        GET.replace(b"Host: x", b"Host: x\r\nX : y"),
    ],
    ids=["pipelined", "chunks", "body", "refused"],
)
async def test_in_a_pass_there_are_few_steps_however_many_connections(
    data: bytes, patient_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = Passes()

    step = Pace.step

    async def step_counted(self: Pace) -> None:
        await step(self)
        passes.now += 1

    monkeypatch.setattr(Pace, "step", step_counted)
    # It is the turns that are looked at.
    monkeypatch.setattr(http_pace, "STEPS", (1e9, 1e9))
    async with serving(app=app) as server:
        streams = [await trio.open_tcp_stream("127.0.0.1", server.port) for _ in range(100)]
        trio.lowlevel.add_instrument(passes)
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(stream.send_all, data)
        for stream in streams:
            assert await stream.receive_some(65536)
        trio.lowlevel.remove_instrument(passes)
        for stream in streams:
            await trio.aclose_forcefully(stream)
    assert 0 < passes.most <= 4


def test_the_rates_are_those_that_are_documented() -> None:
    assert http_pace.REQUESTS == (100, 100)
    assert http_pace.BYTES == (4 * 2**20, 2**20)
    assert http_pace.STEPS == (4000, 400)
