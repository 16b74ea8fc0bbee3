"""Handshakes while the hub's backend is away."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.hub import AskedBackend
from tests.support.pairs import declined
from trio_beat import HandshakeDeclined, Limits, open_hub
from trio_beat.testing import open_pairs

TARGET = "/ws/news?subscribe-broadcast&publish-broadcast"
GRACE = 3.0


async def test_is_accepted_when_the_backend_is_back(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub, open_pairs(hub=hub) as pairs:
        backend.go_away()
        async with trio.open_nursery() as nursery:

            async def come_back() -> None:
                await trio.sleep(GRACE - 1)
                assert pairs.server.statistics().accepted == 0
                backend.come_back()

            nursery.start_soon(come_back)
            peer = await pairs.connect(TARGET)
        assert trio.current_time() == GRACE - 1
        await hub.publish("broadcast:news", "x")
        assert await peer.receive() == "x"


@pytest.mark.parametrize(("grace", "timeout"), [(GRACE, 20.0), (20.0, GRACE), (0.0, 20.0)])
async def test_gets_503_when_the_grace_or_its_own_time_is_over(
    grace: float, timeout: float, autojump_clock: MockClock
) -> None:
    backend = AskedBackend()
    limits = Limits(handshake_timeout=timeout)
    async with open_hub(backend, backend_grace=grace) as hub:
        async with open_pairs(hub=hub, limits=limits) as pairs:
            backend.go_away()
            answer = await declined(pairs, TARGET)
            assert answer.status == 503
            assert ("retry-after", "5") in answer.headers
            assert answer.body == b"backend is away, try again later\n"
            assert trio.current_time() == min(grace, timeout)
            assert pairs.server.statistics().refused == {503: 1}


async def test_gets_503_when_draining_begins(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub, open_pairs(hub=hub) as pairs:
        backend.go_away()
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                await trio.sleep(1)
                pairs.server.drain()

            nursery.start_soon(drain)
            answer = await declined(pairs, TARGET)
        assert (answer.status, answer.body) == (503, b"server is shutting down\n")
        assert trio.current_time() == 1


async def test_the_last_place_is_given_once_when_it_is_back(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    limits = Limits(connections=1)
    async with open_hub(backend, backend_grace=GRACE) as hub:
        async with open_pairs(hub=hub, limits=limits) as pairs:
            backend.go_away()
            statuses: list[int] = []

            async def one() -> None:
                try:
                    await pairs.connect(TARGET)
                    statuses.append(101)
                except HandshakeDeclined as exc:
                    statuses.append(exc.status)

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(one)
                await wait_all_tasks_blocked()
                backend.come_back()
            assert sorted(statuses) == [101, 503, 503]
