"""Handshakes while the hub's backend is away."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.hub import AskedBackend
from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import deserted, serving, status
from trio_beat import Limits, open_hub

TARGET = "/ws/news?subscribe-broadcast&publish-broadcast"
GRACE = 3.0


async def ask(port: int) -> bytes:
    """Begin a handshake; gives what is answered at first."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(HANDSHAKE.format(target=TARGET, headers="").encode())
        return bytes(await stream.receive_some())


def is_away(answer: bytes) -> bool:
    assert status(answer) == 503
    assert b"\r\nRetry-After: 5\r\n" in answer
    return b"backend is away, try again later" in answer


async def test_is_accepted_when_the_backend_is_back(patient_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub, serving(hub=hub) as server:
        backend.go_away()
        async with trio.open_nursery() as nursery:

            async def come_back() -> None:
                await trio.sleep(GRACE - 1)
                assert server.statistics().accepted == 0
                backend.come_back()

            nursery.start_soon(come_back)
            peer = await dial(server.port, TARGET)
        await hub.publish("broadcast:news", "x")
        assert await peer.text() == "x"
        await peer.aclose()
        await deserted(server)


@pytest.mark.parametrize(("grace", "timeout"), [(GRACE, 20.0), (20.0, GRACE), (0.0, 20.0)])
async def test_gets_503_when_the_grace_or_its_own_time_is_over(
    grace: float, timeout: float, patient_clock: MockClock
) -> None:
    backend = AskedBackend()
    limits = Limits(handshake_timeout=timeout)
    async with open_hub(backend, backend_grace=grace) as hub:
        async with serving(hub=hub, limits=limits) as server:
            backend.go_away()
            began = trio.current_time()
            assert is_away(await ask(server.port))
            waited = trio.current_time() - began
            assert min(grace, timeout) <= waited < min(grace, timeout) + 2
            await deserted(server)
            assert server.statistics().refused == {503: 1}


async def test_gets_503_when_draining_begins(patient_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend, backend_grace=GRACE) as hub, serving(hub=hub) as server:
        backend.go_away()
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                await trio.sleep(1)
                server.drain()

            nursery.start_soon(drain)
            answer = await ask(server.port)
        assert status(answer) == 503
        assert b"server is shutting down" in answer


async def test_the_last_place_is_given_once_when_it_is_back(patient_clock: MockClock) -> None:
    backend = AskedBackend()
    limits = Limits(connections=1)
    async with open_hub(backend, backend_grace=GRACE) as hub:
        async with serving(hub=hub, limits=limits) as server:
            backend.go_away()
            answers: list[bytes] = []

            async def one() -> None:
                async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                    await stream.send_all(HANDSHAKE.format(target=TARGET, headers="").encode())
                    answers.append(bytes(await stream.receive_some())[9:12])
                    await trio.sleep(5)

            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(one)
                await trio.sleep(1)
                await wait_all_tasks_blocked()
                backend.come_back()
            await trio.sleep(1)
            assert sorted(answers) == [b"101", b"503", b"503"]
            await deserted(server)
