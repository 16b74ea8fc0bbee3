"""What an observer sees of a server equals what the server counts."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from tests.support.observing import Broken, Tally, failed_calls
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, deserted, serving, status
from trio_beat import Connection, EndReason, Heartbeat, Limits, Observer, Server, SlowPolicy
from trio_beat._server.pending import PendingTCP

INTERVAL = 4.0


async def behave(connection: Connection) -> None:
    """Do as the peer says."""
    async for message in connection:
        match message:
            case "raise":
                raise ZeroDivisionError
            case "return":
                return
            case "flood":
                for _ in range(100):
                    connection.send_nowait(b"\0" * 100_000)
            case _:
                await connection.send(message)


async def go_through_all(server: Server) -> None:
    """End connections in several ways, be refused, fail, and lose messages."""
    closing, raising, returning, slow, silent, leaving = [
        await dial(server.port, f"/{number}") for number in range(6)
    ]
    await closing.send_close()
    await raising.send_text("raise")
    await returning.send_text("return")
    await slow.send_text("flood")
    await leaving.send_text("hello")
    assert await leaving.text() == "hello"
    await leaving.aclose()
    for request in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert status(await ask(server.port, request)) >= 400
    for peer in (closing, raising, returning):
        await peer.closed()
        await peer.aclose()
    await trio.sleep(1)
    assert server.statistics().dropped
    await slow.aclose()
    await silent.closed()
    await silent.aclose()
    await deserted(server)


def check(server: Server) -> None:
    """Check that everything has happened."""
    statistics = server.statistics()
    assert statistics.accepted == sum(statistics.ended.values()) == 6
    assert statistics.handler_errors == 1
    assert sum(statistics.refused.values()) == 2
    assert statistics.ended[EndReason.MISSED_BEATS] == 1


OPTIONS = {
    "heartbeat": Heartbeat(INTERVAL),
    "handler_errors": "close",
    "limits": Limits(outbox=100_000, slow_policy=SlowPolicy.DROP_OLDEST),
}


async def test_an_observer_hears_what_the_server_counts(patient_clock: MockClock) -> None:
    tally = Tally()
    async with serving(behave, observer=tally, **OPTIONS) as server:
        await go_through_all(server)
        check(server)
        tally.check(server.statistics())
    assert len(tally.peers) == 8
    assert [type(exc) for exc in tally.failures] == [ZeroDivisionError]
    assert max(missed for missed, _ in tally.beats["/4"]) == 3


@pytest.mark.parametrize("observer", [None, Observer(), Broken()], ids=["none", "idle", "broken"])
async def test_the_counts_are_the_same_whatever_the_observer_does(
    observer: Observer | None, patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trio_beat.observer")
    async with serving(behave, observer=observer, **OPTIONS) as server:
        await go_through_all(server)
        check(server)
    failed = failed_calls(caplog.records)
    if isinstance(observer, Broken):
        assert failed == {"opened", "ended", "beat", "dropped", "refused", "handler_failed"}
    else:
        assert failed == set()


async def test_a_socket_that_fails_before_it_is_a_connection_is_told(
    monkeypatch: pytest.MonkeyPatch, patient_clock: MockClock
) -> None:
    tally = Tally()

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(PendingTCP, "read_head_nowait", fail)
    async with serving(behave, observer=tally) as server:
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            await dial(server.port)
        await deserted(server)
        tally.check(server.statistics())
    assert (tally.opens, tally.ends) == (0, {EndReason.INTERNAL_ERROR: 1})


async def test_a_server_that_is_full_refuses_and_tells(patient_clock: MockClock) -> None:
    tally = Tally()
    async with serving(behave, observer=tally, limits=Limits(connections=1)) as server:
        peer = await dial(server.port)
        request = HANDSHAKE.format(target="/", headers="")
        assert status(await ask(server.port, request.encode())) == 503
        await peer.aclose()
        await deserted(server)
        tally.check(server.statistics())
    assert tally.refusals == {503: 1}


async def test_an_observer_that_exits_leaves_no_socket_open(patient_clock: MockClock) -> None:
    class Exits(Observer):
        def refused(self, peer: str, status: int) -> None:
            raise SystemExit

    refused = None
    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True) as raised:
        async with serving(behave, observer=Exits(), limits=Limits(pending=1)) as server:
            async with await trio.open_tcp_stream("127.0.0.1", server.port):
                refused = await trio.open_tcp_stream("127.0.0.1", server.port)
                await trio.sleep_forever()
    assert refused is not None
    async with refused:
        with trio.fail_after(1):
            assert await refused.receive_some() == b""
    # Until here its traceback would have kept the socket of the server.
    assert raised.value.exceptions


async def test_what_is_no_observer_is_rejected() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with serving(behave, observer=3):
            pass
    assert raised.group_contains(TypeError, match=r"^observer is 3; it must be an Observer")
