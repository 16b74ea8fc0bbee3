"""Log lines for events that may come faster than a person can read."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock

from trio_beat._summary import ALONE, Summary

from .support.peer import dial
from .support.serving import ask, deserted, serving


@pytest.fixture
def summary(caplog: pytest.LogCaptureFixture) -> Summary:
    caplog.set_level(logging.INFO, "trio_beat")
    return Summary(logging.getLogger("trio_beat.test"), "things happened")


def test_few_have_a_line_each(summary: Summary, caplog: pytest.LogCaptureFixture) -> None:
    assert all(summary.alone("x", now / ALONE) for now in range(10 * ALONE))
    summary.tell()
    assert caplog.messages == []


def test_many_are_counted_by_kind(summary: Summary, caplog: pytest.LogCaptureFixture) -> None:
    assert sum(summary.alone("peer", 7.0) for _ in range(1220)) == ALONE
    assert not any(summary.alone("missed-beats", 7.99) for _ in range(34))
    summary.tell()
    assert caplog.messages == ["1,234 things happened: peer 1,200, missed-beats 34"]
    assert vars(caplog.records[0])["counts"] == {"peer": 1200, "missed-beats": 34}
    summary.tell()
    assert len(caplog.messages) == 1


def test_next_second_begins_anew(summary: Summary, caplog: pytest.LogCaptureFixture) -> None:
    for now in (0.0, 1.0, 2.5):
        assert sum(summary.alone("x", now) for _ in range(50)) == ALONE
    # Without a task, the next event tells the rest of those before.
    assert caplog.messages == ["30 things happened: x 30"] * 2


async def test_rest_is_told_when_the_second_is_over(
    summary: Summary, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(summary.run)
        for expected in (1, 2):
            begun = trio.current_time()
            for _ in range(50):
                summary.alone("x", trio.current_time())
            await trio.sleep(0.99)
            assert len(caplog.messages) == expected - 1
            await trio.sleep(0.02)
            assert len(caplog.messages) == expected
            assert trio.current_time() - begun < 1.1
            await trio.sleep(100)
        assert len(caplog.messages) == 2
        nursery.cancel_scope.cancel()


async def test_ends_of_connections_are_summed_up(
    caplog: pytest.LogCaptureFixture, patient_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_beat")
    async with serving() as server:
        peers = [await dial(server.port) for _ in range(60)]
        for peer in peers:
            await peer.aclose()
        await deserted(server)
        await trio.sleep(2)
        assert sum(server.statistics().ended.values()) == 60
        assert sum(" ended: peer (1006" in line for line in caplog.messages) == ALONE
        assert [line for line in caplog.messages if "connections ended" in line] == [
            "40 connections ended: peer 40"
        ]


async def test_ends_of_a_cancelled_server_are_told(
    caplog: pytest.LogCaptureFixture, patient_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_beat")
    async with serving() as server:
        peers = [await dial(server.port) for _ in range(60)]
        await trio.sleep(1)
        assert server.statistics().connections == 60
    assert "40 connections ended: shutdown 40" in caplog.messages
    for peer in peers:
        await peer.aclose()


async def test_refusals_are_summed_up(
    caplog: pytest.LogCaptureFixture, patient_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO, "trio_beat")
    async with serving() as server:
        for _ in range(60):
            await ask(server.port, b"GET /nothing?token=s3cret HTTP/1.1\r\nHost: x\r\n\r\n")
        await deserted(server)
        refused = server.statistics().refused
        await trio.sleep(2)
    (status, count), *rest = refused.items()
    assert (count, rest) == (60, [])
    told = [line for line in caplog.messages if " peers refused: " in line]
    alone = sum(f" refused: {status} " in line for line in caplog.messages) - len(told)
    # How long sixty requests take on this clock is not certain.
    assert alone + sum(int(line.split()[0]) for line in told) == 60
    assert alone < 60
