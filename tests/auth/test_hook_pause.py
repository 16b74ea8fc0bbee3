"""An application that is slow or away, on a virtual clock."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.application import Script, Stream, answer, nothing, playing
from trio_beat import Identity, Refused, Request
from trio_beat.auth import Hook, hook
from trio_beat.auth.exchange import Answer, NoAnswer
from trio_beat.auth.pause import Outcome

PEERS = Request.of("/", [("Host", "a"), ("Cookie", "sessionid=s3cret")], peer="192.0.2.1:4242")
AWAY = NoAnswer("unreachable", "cannot be reached: connection refused", Outcome.AWAY)
LOST = NoAnswer("lost", "closed the connection without an answer", Outcome.NOTHING)
URL = "http://app/hook"


def answered(status: int) -> Answer:
    return Answer(status, (), b"{}", more=False)


class Exchange:
    """In place of the network: answers after some time.

    Attributes:
        answer: the next ones.
        seconds: until it is there.
        times: when it was asked.
        running: requests that wait for an answer.
        most: how many did at a time.
    """

    def __init__(self) -> None:
        self.answer: Answer | NoAnswer = answered(200)
        self.seconds = 1.0
        self.times: list[float] = []
        self.running = self.most = 0

    async def __call__(self, *_arguments: Any) -> Answer | NoAnswer:
        self.times.append(trio.current_time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            answer = self.answer
            await trio.sleep(self.seconds)
            return answer
        finally:
            self.running -= 1


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch) -> Exchange:
    """What every hook of the test gets in place of answers."""
    exchange = Exchange()
    monkeypatch.setattr(hook, "exchange", exchange)
    return exchange


async def outcome(asked: Hook) -> tuple[int, str | None]:
    """The status for the peer, and how long it is to wait; 200 where it is identified."""
    try:
        assert await asked(PEERS) == Identity()
    except Refused as refused:
        return refused.status, dict(refused.headers).get("Retry-After")
    return 200, None


async def opened(asked: Hook, exchange: Exchange) -> None:
    """Let a hook pause from now on."""
    seconds, exchange.seconds = exchange.seconds, 0.0
    exchange.answer = AWAY
    for _ in range(5):
        assert await outcome(asked) == (503, "5")
    exchange.times.clear()
    exchange.seconds = seconds


async def test_peers_are_told_at_once_while_there_is_a_pause(
    autojump_clock: MockClock, exchange: Exchange
) -> None:
    asked = Hook(URL)
    await opened(asked, exchange)
    began = trio.current_time()
    for seconds, again in ((0.0, "5"), (0.1, "5"), (3.9, "1"), (0.9, "1")):
        await trio.sleep(seconds)
        now = trio.current_time()
        assert await outcome(asked) == (503, again)
        assert trio.current_time() == now
    assert exchange.times == []
    await trio.sleep_until(began + 5)
    exchange.answer = answered(200)
    assert await outcome(asked) == (200, None)
    assert await outcome(asked) == (200, None)


async def test_one_request_tries_while_others_are_told(
    autojump_clock: MockClock, exchange: Exchange
) -> None:
    asked = Hook(URL)
    await opened(asked, exchange)
    await trio.sleep(5)
    exchange.answer = answered(200)
    outcomes = []

    async def one() -> None:
        outcomes.append(await outcome(asked))

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(one)
    assert sorted(outcomes) == [(200, None)] + [(503, "1")] * 29
    assert len(exchange.times) == 1


async def test_a_trial_that_fails_begins_another_pause(
    autojump_clock: MockClock, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = Hook(URL)
    await opened(asked, exchange)
    for _ in range(3):
        await trio.sleep(5)
        assert await outcome(asked) == (503, "5")
        assert len(exchange.times) == 1
        exchange.times.clear()
    await trio.sleep(5)
    exchange.answer = answered(401)
    assert (await outcome(asked))[0] == 401
    lines = [record.getMessage() for record in caplog.records]
    changes = [line for line in lines if "not identified" not in line]
    assert changes == [
        "http://app/hook is away, and not asked for some seconds",
        "http://app/hook answers again",
    ]


@pytest.mark.parametrize("away", [AWAY, *map(answered, (502, 503, 504))], ids=str)
async def test_what_counts(
    autojump_clock: MockClock, exchange: Exchange, away: Answer | NoAnswer
) -> None:
    asked = Hook(URL)
    exchange.answer = away
    for _ in range(9):
        assert (await outcome(asked))[0] == 503
    assert len(exchange.times) == 5


@pytest.mark.parametrize("other", [*map(answered, (200, 302, 401, 403, 404, 500, 501)), LOST])
async def test_what_a_client_can_cause_opens_no_pause(
    autojump_clock: MockClock, exchange: Exchange, other: Answer | NoAnswer
) -> None:
    asked = Hook(URL)
    exchange.answer = other
    for _ in range(20):
        await outcome(asked)
    assert len(exchange.times) == 20


async def test_an_error_of_the_application_resets_the_count(
    autojump_clock: MockClock, exchange: Exchange
) -> None:
    asked = Hook(URL)
    for _ in range(10):
        for exchange.answer in (AWAY, AWAY, AWAY, AWAY, answered(500)):
            await outcome(asked)
    assert len(exchange.times) == 50


async def test_a_trial_whose_peer_leaves_lets_the_next_one_try(
    autojump_clock: MockClock, exchange: Exchange
) -> None:
    asked = Hook(URL)
    await opened(asked, exchange)
    await trio.sleep(5)
    for _ in range(3):
        with trio.move_on_after(0.5) as scope:
            await asked(PEERS)
        assert scope.cancelled_caught
    exchange.answer = answered(200)
    assert await outcome(asked) == (200, None)


async def test_peers_that_leave_open_no_pause(
    autojump_clock: MockClock, exchange: Exchange
) -> None:
    asked = Hook(URL)
    for _ in range(10):
        with trio.move_on_after(0.5):
            await asked(PEERS)
    assert len(exchange.times) == 10
    assert await outcome(asked) == (200, None)


async def test_so_many_at_a_time(autojump_clock: MockClock, exchange: Exchange) -> None:
    asked = Hook(URL, concurrency=3)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(asked, PEERS)
    assert exchange.times == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert exchange.most == 3


async def test_those_that_wait_are_bounded(
    autojump_clock: MockClock, exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Hook(URL, concurrency=2)
    exchange.seconds = 10.0
    async with trio.open_nursery() as nursery:
        for _ in range(2 + 2 * 50):
            nursery.start_soon(asked, PEERS)
        await wait_all_tasks_blocked()
        assert await outcome(asked) == (503, "5")
        assert trio.current_time() == 0
        assert "too many wait for a turn" in caplog.text
        nursery.cancel_scope.cancel()
    assert exchange.running == 0
    assert await outcome(asked) == (200, None)  # no turn is lost


async def test_those_that_wait_are_told_of_a_pause(
    autojump_clock: MockClock, exchange: Exchange
) -> None:
    asked = Hook(URL, concurrency=1)
    exchange.answer = AWAY
    outcomes = []

    async def one() -> None:
        outcomes.append((trio.current_time(), await outcome(asked)))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert len(exchange.times) == 5
    assert trio.current_time() == 5


async def test_one_that_leaves_while_it_waits_takes_no_turn(
    autojump_clock: MockClock, exchange: Exchange
) -> None:
    asked = Hook(URL, concurrency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked, PEERS)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.5) as scope:
            await asked(PEERS)
        assert scope.cancelled_caught
    assert len(exchange.times) == 1
    assert await outcome(asked) == (200, None)


async def drips(stream: Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        await trio.sleep(1)
        await stream.send_all(b" ")


async def drips_headers(stream: Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await trio.sleep(1)
        await stream.send_all(b"X: y\r\n")


async def drips_a_refusal(stream: Stream) -> None:
    await stream.send_all(b"HTTP/1.1 401 No\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        await trio.sleep(1)
        await stream.send_all(b" ")


@pytest.mark.parametrize("script", [nothing, drips, drips_headers, drips_a_refusal])
async def test_an_answer_has_its_time_in_all(
    script: Script, patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with playing(script) as application:
        assert await outcome(Hook(application.url, timeout=4.5)) == (503, "5")
        assert trio.current_time() == pytest.approx(4.5)
        assert "no whole answer within 4.5 s" in caplog.text
        await application.deserted()


async def test_answers_that_do_not_come_open_a_pause(patient_clock: MockClock) -> None:
    async with playing(nothing) as application:
        asked = Hook(application.url, timeout=1)
        for _ in range(7):
            assert await outcome(asked) == (503, "5")
        assert trio.current_time() == pytest.approx(5)
        assert application.connections == 5


async def test_a_slow_answer_is_waited_for(patient_clock: MockClock) -> None:
    async def slow(stream: Stream) -> None:
        await trio.sleep(4)
        await stream.send_all(answer(200, "{}"))

    async with playing(slow) as application:
        assert await outcome(Hook(application.url)) == (200, None)
        assert trio.current_time() == pytest.approx(4)


def refusing() -> socket.socket:
    """A port at which nothing listens, and nothing else will."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def blackhole() -> socket.socket:
    """A port that answers no connecting any more."""
    return socket.create_server(("127.0.0.1", 0), backlog=0)


async def test_an_application_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    with refusing() as sock:
        asked = Hook(f"http://127.0.0.1:{sock.getsockname()[1]}/", timeout=60)
        assert await outcome(asked) == (503, "5")
    assert "/ cannot be reached: " in caplog.text
    assert "Connection refused" in caplog.text


# A label of 64 characters is none at all; the other name is nobody's (RFC 6761, section 6.4).
@pytest.mark.parametrize(
    "host", ["x" * 64, pytest.param("app.invalid", marks=pytest.mark.real)], ids=len
)
async def test_an_application_without_an_address(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await outcome(Hook(f"http://{host}/", timeout=60)) == (503, "5")
    assert f"http://{host}/ cannot be reached: " in caplog.text


async def test_an_application_that_does_not_take_connections(patient_clock: MockClock) -> None:
    with blackhole() as sock, socket.socket() as first, socket.socket() as second:
        address = sock.getsockname()
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(address)
        asked = Hook(f"http://127.0.0.1:{address[1]}/")
        assert await outcome(asked) == (503, "5")
        assert trio.current_time() == pytest.approx(5)
