"""Disconnecting users and sessions: what is open, and what is being admitted."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.support.broker import Broker
from tests.support.hub import CONTROL, MANY, AskedBackend, Disconnect
from tests.support.pairs import declined
from trio_beat import Connection, EndReason, Identity, Permissions, Refused, Request, open_hub
from trio_beat._server.disconnects import Disconnects
from trio_beat.testing import open_pair, open_pairs

TARGET = "/ws/news?subscribe-user"
BOB = Identity(user="bob", groups=["bob"], session="k3y")
EVE = Identity(user="eve", session="bob")
NOBODY = Identity(groups=["bob"])


class Opened:
    """A connection that records its end."""

    def __init__(self, identity: Identity | None) -> None:
        self.user = None if identity is None else identity.user
        self.session = None if identity is None else identity.session
        self.ends: list[tuple[EndReason, int, str]] = []

    def end_nowait(self, by: EndReason, code: int, reason: str) -> None:
        self.ends.append((by, code, reason))


def order(name: str = "bob", code: int = 4003, block: float = 0) -> Disconnect:
    return Disconnect("user", name, code, "go", block)


@asynccontextmanager
async def running(connections: Iterable[Opened] = (), noted: int = 8) -> AsyncIterator[Disconnects]:
    async with open_hub() as hub, trio.open_nursery() as nursery:
        disconnects = Disconnects(list(connections), hub.control, noted=noted)
        await nursery.start(disconnects.run)
        await disconnects.wait_ready()
        yield disconnects
        nursery.cancel_scope.cancel()


def refusal(disconnects: Disconnects, began: int, identity: Identity | None) -> Refused | None:
    try:
        disconnects.check(began, identity)
    except Refused as exc:
        return exc
    return None


async def test_ends_those_of_that_name() -> None:
    connections = [Opened(who) for who in (BOB, EVE, NOBODY, None)]
    async with running(connections) as disconnects:
        disconnects.disconnect(order())
        await trio.testing.wait_all_tasks_blocked()
        assert [it.ends for it in connections] == [
            [(EndReason.DISCONNECTED, 4003, "go")],
            [],
            [],
            [],
        ]
        disconnects.disconnect(Disconnect("session", "bob", 1000, "", 0))
        await trio.testing.wait_all_tasks_blocked()
        assert connections[1].ends == [(EndReason.DISCONNECTED, 1000, "")]
        assert [len(it.ends) for it in connections] == [1, 1, 0, 0]


async def test_many_are_scanned_in_turns() -> None:
    connections = [Opened(BOB) for _ in range(MANY)]
    async with running(connections) as disconnects:
        disconnects.disconnect(order())
        ended = []
        for _ in range(20):
            await trio.lowlevel.checkpoint()
            ended.append(sum(len(it.ends) for it in connections))
        assert {256, 512}.intersection(ended)  # not each is seen


async def test_many_names_are_scanned_for_at_once() -> None:
    connections = [Opened(Identity(user=f"{number}")) for number in range(30)]
    async with running(connections) as disconnects:
        for number in range(30):
            disconnects.disconnect(order(f"{number}", 4000 + number))
        # More than may wait: those before were done in place, and nothing is lost.
        assert sum(len(it.ends) for it in connections) == 24
        await trio.testing.wait_all_tasks_blocked()
        for number, it in enumerate(connections):
            assert it.ends == [(EndReason.DISCONNECTED, 4000 + number, "go")]


async def test_the_first_of_two_orders_stands() -> None:
    connection = Opened(BOB)
    async with running([connection]) as disconnects:
        disconnects.disconnect(order(code=4001))
        disconnects.disconnect(order(code=4002))
        await trio.testing.wait_all_tasks_blocked()
        assert [code for _, code, _ in connection.ends] == [4001]


async def test_refuses_admissions_that_began_before() -> None:
    async with running() as disconnects:
        with disconnects.admitting() as before:
            before.check(BOB)
            disconnects.disconnect(order())
            with disconnects.admitting() as later:
                later.check(BOB)
                for identity in (EVE, NOBODY, None):
                    before.check(identity)
                with pytest.raises(Refused, match=r"^go$") as info:
                    before.check(BOB)
                assert info.value.status == 403
                assert info.value.logged == "disconnected"
            # The same name again: for both now.
            with disconnects.admitting() as last:
                disconnects.disconnect(order())
                for admitting in (before, last):
                    with pytest.raises(Refused):
                        admitting.check(BOB)


@pytest.mark.parametrize(
    ("code", "expected"), [(4003, 403), (4099, 403), (1008, 403), (4100, 503), (1000, 503)]
)
async def test_the_status_says_whether_to_come_again(code: int, expected: int) -> None:
    async with running() as disconnects:
        with disconnects.admitting() as admitting:
            disconnects.disconnect(order(code=code))
            with pytest.raises(Refused) as info:
                admitting.check(BOB)
        assert info.value.status == expected
        assert dict(info.value.headers) == ({} if expected == 403 else {"Retry-After": "5"})


async def test_notes_only_what_an_admission_needs() -> None:
    async with running() as disconnects:
        disconnects.disconnect(order("a"))
        assert not disconnects._noted
        with disconnects.admitting():
            disconnects.disconnect(order("b"))
            with disconnects.admitting():
                disconnects.disconnect(order("c"))
            assert [name for _, name in disconnects._noted] == ["b", "c"]
        assert not disconnects._noted
    # In another order: the one that began first ends first.
    async with running() as disconnects:
        one, two = disconnects.admitting(), disconnects.admitting()
        one.__enter__()
        disconnects.disconnect(order("b"))
        two.__enter__()
        disconnects.disconnect(order("c"))
        one.__exit__(None, None, None)
        assert [name for _, name in disconnects._noted] == ["c"]
        two.__exit__(None, None, None)
        assert not disconnects._noted
        assert not disconnects._under_way


async def test_what_cannot_be_noted_refuses_all_that_began_before() -> None:
    async with running(noted=8) as disconnects:
        with disconnects.admitting() as before:
            for number in range(9):
                disconnects.disconnect(order(f"{number}"))
            assert len(disconnects._noted) == 8
            with pytest.raises(Refused, match="try again later") as info:
                before.check(BOB)
            assert info.value.status == 503
            assert dict(info.value.headers) == {"Retry-After": "5"}
            before.check(None)
            before.check(NOBODY)
            with disconnects.admitting() as later:
                later.check(BOB)


async def test_a_block_refuses_later_ones(autojump_clock: MockClock) -> None:
    async with running() as disconnects:
        disconnects.disconnect(order(block=60))
        disconnects.disconnect(order("eve", 4100, block=60))
        await trio.sleep(59)
        with disconnects.admitting() as admitting:
            with pytest.raises(Refused) as info:
                admitting.check(BOB)
            assert info.value.status == 403
            with pytest.raises(Refused) as info:
                admitting.check(EVE)
            assert info.value.status == 503
            assert dict(info.value.headers) == {"Retry-After": "1"}
            await trio.sleep(1)
            admitting.check(BOB)
            admitting.check(EVE)


async def test_a_loss_refuses_admissions_under_way(autojump_clock: MockClock) -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, trio.open_nursery() as nursery:
        disconnects = Disconnects([], hub.control)
        await nursery.start(disconnects.run)
        await disconnects.wait_ready()
        with disconnects.admitting() as before:
            backend.lose(CONTROL)
            with pytest.raises(Refused, match="cannot tell") as info:
                before.check(BOB)
            assert info.value.status == 503
            await disconnects.wait_ready()
            with disconnects.admitting() as later:
                later.check(BOB)
        nursery.cancel_scope.cancel()


async def test_without_a_hub_there_is_nothing_to_do() -> None:
    disconnects = Disconnects([], None)
    await disconnects.run()
    await disconnects.wait_ready()
    with disconnects.admitting() as admitting:
        admitting.check(BOB)


# a server


class Door:
    """An application that admits everybody as Bob, once it is let."""

    def __init__(self) -> None:
        self.asked = trio.Event()
        self.let = trio.Event()

    async def admit(self, _: Request) -> Identity:
        self.asked.set()
        await self.let.wait()
        return BOB


async def as_bob(_: Request) -> Identity:
    return BOB


async def test_a_server_closes_connections(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_beat")
    async with open_hub() as hub, open_pairs(hub=hub, admit=as_bob) as pairs:
        peers = [await pairs.connect(TARGET) for _ in range(2)]
        await hub.disconnect(user="eve")
        await hub.disconnect(session="k3y", reason="logged out")
        for peer in peers:
            assert await peer.wait_closed() == (4003, "logged out")
        # Its credentials are still good.
        peer = await pairs.connect(TARGET)
        assert pairs.server.statistics().ended[EndReason.DISCONNECTED] == 2
        await hub.disconnect(user="bob", code=1000, block=30)
        assert await peer.wait_closed() == (1000, "disconnected")
        answer = await declined(pairs, TARGET)
        assert answer.status == 503
        assert ("retry-after", "30") in answer.headers
        await trio.sleep(30)
        await pairs.connect(TARGET)
    assert "k3y" not in caplog.text


@pytest.mark.parametrize("deciding", [False, True])
async def test_one_that_is_being_admitted_is_refused(
    deciding: bool, autojump_clock: MockClock
) -> None:
    door = Door()

    async def decide(*_: object) -> bool:
        await door.admit(_)  # type: ignore[arg-type]
        return True

    admit = as_bob if deciding else door.admit
    permissions = Permissions(decide=decide if deciding else None)
    async with open_hub() as hub:
        async with open_pairs(hub=hub, admit=admit, permissions=permissions) as pairs:
            async with trio.open_nursery() as nursery:

                async def come() -> None:
                    answer = await declined(pairs, TARGET)
                    assert (answer.status, answer.body) == (403, b"disconnected\n")

                nursery.start_soon(come)
                await door.asked.wait()
                await hub.disconnect(user="bob")
                door.let.set()
            await pairs.connect(TARGET)
        assert pairs.server.statistics().accepted == 1


async def test_a_handler_beside_a_hub_is_disconnected(autojump_clock: MockClock) -> None:
    cancelled = trio.Event()

    async def handler(_: Connection) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_hub() as hub, open_pair(handler, hub=hub, admit=as_bob) as peer:
        await hub.disconnect(user="bob")
        assert await peer.wait_closed() == (4003, "disconnected")
        assert cancelled.is_set()


async def test_an_admission_that_is_given_up_leaves_nothing(autojump_clock: MockClock) -> None:
    door = Door()
    async with open_hub() as hub, open_pairs(hub=hub, admit=door.admit) as pairs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(declined, pairs, TARGET)
            await door.asked.wait()
            await hub.disconnect(user="bob")
            (disconnects,) = [o for o in gc.get_objects() if type(o) is Disconnects and o._noted]
            pairs.server.drain()
        assert not disconnects._noted
        assert not disconnects._under_way


async def test_an_outage_during_an_admission_refuses_it(autojump_clock: MockClock) -> None:
    backend, door = AskedBackend(), Door()
    async with open_hub(backend) as hub, open_pairs(hub=hub, admit=door.admit) as pairs:
        async with trio.open_nursery() as nursery:

            async def come() -> None:
                answer = await declined(pairs, TARGET)
                assert answer.status == 503
                assert ("retry-after", "5") in answer.headers

            nursery.start_soon(come)
            await door.asked.wait()
            backend.go_away()
            backend.come_back()
            door.let.set()
        await pairs.connect(TARGET)


async def test_the_application_is_asked_once_disconnects_are_heard(
    autojump_clock: MockClock,
) -> None:
    backend, door = AskedBackend(), Door()
    door.let.set()
    async with open_hub(backend) as hub, open_pairs(hub=hub, admit=door.admit) as pairs:
        backend.go_away()
        async with trio.open_nursery() as nursery:

            async def come_back() -> None:
                await trio.sleep(3)
                assert not door.asked.is_set()
                backend.come_back()

            nursery.start_soon(come_back)
            peer = await pairs.connect(TARGET)
        await peer.close()
        backend.go_away()
        answer = await declined(pairs, TARGET)
        assert answer.status == 503
        assert answer.body.startswith(b"backend is away")


async def test_nothing_is_asked_of_the_backend_where_nobody_has_a_name() -> None:
    backend = AskedBackend()
    async with open_hub(backend) as hub, open_pairs(hub=hub):
        await trio.testing.wait_all_tasks_blocked()
        assert backend.asked == []


@pytest.mark.real
async def test_a_hub_disconnects_at_the_servers_of_others(valkey: Broker, prefix: str) -> None:
    pytest.importorskip("hiredis")
    url = f"{valkey.url}?prefix={prefix}"
    with trio.fail_after(60):
        async with open_hub(url) as other, open_hub(url) as hub:
            async with open_pairs(hub=hub, admit=as_bob) as pairs:
                peer = await pairs.connect(TARGET)
                await other.disconnect(user="bob", code=4003, block=1000)
                assert await peer.wait_closed() == (4003, "disconnected")
                assert (await declined(pairs, TARGET)).status == 403
