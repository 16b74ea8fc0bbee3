"""What an address and a user may take: connections, and handshakes a second."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.frames import Frame, Opcode

from tests.support.harness import echo, idle, tls_contexts
from tests.support.observing import Tally
from tests.support.peer import HANDSHAKE, Peer, dial
from tests.support.serving import deserted, serving, status
from trio_beat import Identity, Limits, Permissions, Refused, Request, Server
from trio_beat._server import places as places_module
from trio_beat._server.limited import Limited
from trio_beat._server.places import BUCKETS, Buckets, Place, Places, is_exempt, number

REQUEST = HANDSHAKE.format(target="/ws/x?subscribe-broadcast", headers="").encode()
PUBLIC = ip_address("8.8.8.8")
OTHER = ip_address("9.9.9.9")
LOOPBACK = ip_address("127.1.0.1")
ALICE, BOB = Identity(user="alice"), Identity(user="bob")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Places]:
    """The places of servers that are made, in their order."""
    made: list[Places] = []
    make = Places.__init__

    def note(this: Places, limits: Limits) -> None:
        make(this, limits)
        made.append(this)

    monkeypatch.setattr(Places, "__init__", note)
    return made


def places(**limits: Any) -> Places:
    return Places(Limits(**limits))


def test_limits_of_addresses_hold_by_default_for_public_ones() -> None:
    known = places()
    for _ in range(1000):
        known.enter(PUBLIC)
    with pytest.raises(Limited, match="too many connections from your address, at most 1,000"):
        known.enter(PUBLIC)
    assert known.enter(OTHER) is not None


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1"),
        *("::1", "fd00::1", "fe80::1"),
        None,
    ],
)
def test_the_defaults_do_not_hold_where_a_proxy_may_stand(address: str | None) -> None:
    where = None if address is None else ip_address(address)
    assert is_exempt(where)
    assert places().enter(where) is None
    given = places(connections_per_address=1)
    place = given.enter(where)
    with pytest.raises(Limited):
        given.enter(where)
    given.leave(place)
    assert given.enter(where) is not None


@pytest.mark.parametrize("address", ["8.8.8.8", "100.64.0.1", "2a00:1450::1"])
def test_the_defaults_hold_elsewhere(address: str) -> None:
    assert not is_exempt(ip_address(address))


def test_ipv6_counts_by_its_first_half() -> None:
    def of(address: str) -> int:
        return number(ip_address(address))

    assert of("2a00:1450:1:2::1") == of("2a00:1450:1:2:ffff::")
    assert of("2a00:1450:1:2::1") != of("2a00:1450:1:3::1")
    assert of("::808:808") != of("8.8.8.8")
    assert len({of("8.8.8.8"), of("8.8.8.9"), of("::"), number(None)}) == 4


def test_a_place_is_given_back_once() -> None:
    known = places(connections_per_address=2, connections_per_user=2)
    one, two = known.enter(PUBLIC), known.enter(PUBLIC)
    known.identified(one, BOB)
    known.identified(two, BOB)
    assert known.known == (1, 1, 0)
    for _ in range(2):
        known.leave(one)
    with pytest.raises(Limited):
        three = known.enter(PUBLIC)
        known.identified(three, BOB)
        known.enter(PUBLIC)
    known.leave(two)
    known.leave(three)
    known.leave(None)
    assert known.known == (0, 0, 0)


def test_a_user_counts_wherever_it_comes_from() -> None:
    known = places(connections_per_user=1, connections_per_address=0)
    known.identified(known.enter(PUBLIC), BOB)
    known.identified(known.enter(PUBLIC), ALICE)
    known.identified(known.enter(PUBLIC), None)
    known.identified(known.enter(PUBLIC), Identity(session="k3y"))
    with pytest.raises(Limited, match="too many connections of this user, at most 1") as caught:
        known.identified(known.enter(OTHER), BOB)
    assert (caught.value.status, caught.value.limit) == (429, "connections_per_user")
    assert dict(caught.value.headers) == {"Retry-After": "30"}


def test_off_is_off() -> None:
    known = places(connections_per_address=0, handshake_rate=0)
    for _ in range(5000):
        known.check_rate(PUBLIC)
        assert known.enter(PUBLIC) is None
    assert known.known == (0, 0, 0)


def test_a_connection_pays_little_for_its_place() -> None:
    """Also where each has an address of its own."""
    known = places(connections_per_address=1)
    kept: list[Place | None] = [None] * 10_000
    gc.collect()
    tracemalloc.start()
    try:
        for index in range(len(kept)):
            kept[index] = known.enter(PUBLIC + index)
        assert tracemalloc.get_traced_memory()[0] < 190 * len(kept)  # 3 % of 6.2 KiB
    finally:
        tracemalloc.stop()


async def refusals(known: Places, count: int) -> int:
    refused = []
    for _ in range(count):
        try:
            known.check_rate(PUBLIC)
        except Limited as exc:
            refused.append((exc.status, exc.limit, dict(exc.headers)))
    assert all(it == (429, "handshake_rate", {"Retry-After": "1"}) for it in refused)
    return len(refused)


async def test_a_burst_of_handshakes_and_then_the_rate(autojump_clock: MockClock) -> None:
    known = places()
    assert await refusals(known, 300) == 100
    known.check_rate(OTHER)
    await trio.sleep(1)
    assert await refusals(known, 300) == 250
    await trio.sleep(100)
    assert await refusals(known, 300) == 100


async def test_it_tells_when_to_come_again(autojump_clock: MockClock) -> None:
    known = places(handshake_rate=0.1)
    known.check_rate(None)
    await trio.sleep(2.5)
    with pytest.raises(Limited, match=r"at most 0\.1 a second") as caught:
        known.check_rate(None)
    assert dict(caught.value.headers) == {"Retry-After": "8"}


async def test_addresses_are_forgotten_when_their_buckets_are_full(
    autojump_clock: MockClock,
) -> None:
    known = places()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(known.run)
        for index in range(5000):
            known.check_rate(PUBLIC + index)
        await refusals(known, 300)
        assert known.known[2] == 5000
        await trio.sleep(5.1)
        assert known.known[2] == 0
        # One that comes all the time stays known.
        for _ in range(100):
            known.check_rate(PUBLIC)
            await trio.sleep(0.015)
            assert known.known[2] == 1
        await trio.sleep(10.1)
        assert known.known[2] == 0
        # An idle server is not woken.
        await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        nursery.cancel_scope.cancel()


async def test_a_full_table_refuses_no_newcomer(autojump_clock: MockClock) -> None:
    buckets = Buckets(1.0, most=100)
    for _ in range(4):
        assert buckets.take(0, 0.0) == 0
    for key in range(1, 10_000):
        assert buckets.take(0, 0.0) > 0  # it comes all the time, and is not forgotten
        assert buckets.take(key, 0.0) == 0
        assert len(buckets) <= 100
    assert BUCKETS >= 10_000


async def connected(server: Server, address: str, request: bytes = REQUEST) -> tuple[Peer, bytes]:
    """Shake hands; gives the peer, which stays, and the head of the answer."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port, local_address=address)
    await stream.send_all(request)
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.receive_some()
        assert data, head
        head += data
    return Peer(stream), head


async def test_an_address_has_so_many_connections(
    patient_clock: MockClock, served: list[Places]
) -> None:
    tally = Tally()
    limits = Limits(connections_per_address=2)
    async with serving(limits=limits, observer=tally) as server:
        peers = []
        for address in ("127.0.0.2", "127.0.0.2", "127.0.0.3"):
            peer, head = await connected(server, address)
            assert b" 101 " in head
            peers.append(peer)
        refused, head = await connected(server, "127.0.0.2")
        assert b" 429 Too Many Requests\r\n" in head
        assert b"\r\nRetry-After: 30\r\n" in head
        await refused.aclose()
        await peers[0].aclose()
        await trio.sleep(3)
        peer, head = await connected(server, "127.0.0.2")
        assert b" 101 " in head
        for each in (*peers, peer):
            await each.aclose()
        await deserted(server)
        assert served[0].known == (0, 0, 0)
        assert server.statistics().limited["connections_per_address"] == 1
        assert server.statistics().refused == {429: 1}
        tally.check(server.statistics())


async def test_handshakes_under_way_count_and_give_back(
    patient_clock: MockClock, served: list[Places]
) -> None:
    """Whatever becomes of them."""
    answers: list[object] = [None, Refused(403, "no"), ZeroDivisionError("x"), BOB]

    async def admit(request: Request) -> Identity | None:
        await trio.sleep(1)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert answer is None or isinstance(answer, Identity)
        return answer

    limits = Limits(connections_per_address=1, connections_per_user=1)
    async with serving(admit=admit, limits=limits) as server:
        async with trio.open_nursery() as nursery:
            first, second = await asked(server, nursery), await asked(server, nursery)
            assert b" 429 " in await second()
            assert b" 101 " in await first()
        await deserted(server)
        for expected in (b" 403 ", b" 500 ", b" 101 "):
            peer, head = await connected(server, "127.0.0.1")
            assert expected in head
            await peer.aclose()
            await deserted(server)
            assert served[0].known == (0, 0, 0)
        # A peer that leaves meanwhile, and one that is cut off by the time limit.
        answers[:] = [None]
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(REQUEST)
        await stream.aclose()
        await deserted(server)
        assert served[0].known == (0, 0, 0)


async def asked(server: Server, nursery: trio.Nursery) -> Any:
    """Send a handshake; gives a function that waits for its answer, and closes."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    await stream.send_all(REQUEST)
    await trio.sleep(0.1)

    async def answer() -> bytes:
        async with stream:
            return bytes(await stream.receive_some())

    return answer


async def test_a_user_has_so_many_connections(
    patient_clock: MockClock, served: list[Places]
) -> None:
    async def admit(request: Request) -> Identity | None:
        name = request.headers.get("X-User")
        return None if name is None else Identity(user=name)

    def request(name: str) -> bytes:
        return HANDSHAKE.format(target="/ws/x", headers=f"X-User: {name}\r\n").encode()

    async with serving(admit=admit, limits=Limits(connections_per_user=1)) as server:
        bob, head = await connected(server, "127.0.0.1", request("bob"))
        assert b" 101 " in head
        again, head = await connected(server, "127.0.0.2", request("bob"))
        assert b" 429 " in head
        alice, head = await connected(server, "127.0.0.2", request("alice"))
        assert b" 101 " in head
        assert server.statistics().limited["connections_per_user"] == 1
        for peer in (bob, again, alice):
            await peer.aclose()
        await deserted(server)
        assert served[0].known == (0, 0, 0)


async def test_a_handshake_over_the_rate_is_refused_and_not_waited_for(
    patient_clock: MockClock,
) -> None:
    limits = Limits(handshake_rate=1)
    async with serving(idle, limits=limits) as server:
        peers = [await connected(server, "127.0.0.2") for _ in range(6)]
        heads = [head.split(b" ")[1] for _, head in peers]
        assert heads == [b"101"] * 4 + [b"429"] * 2
        assert b"\r\nRetry-After: 1\r\n" in peers[-1][1]
        assert server.statistics().pending == 0  # although the peers have not closed
        other, head = await connected(server, "127.0.0.3")
        assert b" 101 " in head
        assert server.statistics().limited["handshake_rate"] == 2
        for peer, _ in (*peers, (other, head)):
            await peer.aclose()
        await deserted(server)


async def test_over_tls_it_is_told_as_well(patient_clock: MockClock) -> None:
    server_context, client_context = tls_contexts()
    limits = Limits(handshake_rate=0.001)
    async with serving(idle, limits=limits, ssl_context=server_context) as server:
        codes = []
        for _ in range(2):
            tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
            stream = trio.SSLStream(tcp, client_context, server_hostname="localhost")
            async with stream:
                await stream.send_all(REQUEST)
                codes.append(bytes(await stream.receive_some()).split(b" ")[1])
        assert codes == [b"101", b"429"]


async def test_a_user_of_too_many_groups_is_told_which_limit(patient_clock: MockClock) -> None:
    async def admit(request: Request) -> Identity:
        return Identity(user="bob", groups=[f"group{number}" for number in range(1000)])

    request = HANDSHAKE.format(target="/ws/x?subscribe-group", headers="").encode()
    asked: list[str] = []

    def decide(identity: object, action: str, channel: str, request: object) -> bool:
        asked.append(channel)
        return True

    for permissions in (Permissions(), Permissions(denied="drop"), Permissions(decide=decide)):
        async with serving(admit=admit, permissions=permissions) as server:
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            async with stream:
                await stream.send_all(request)
                answer = b"".join([bytes(data) async for data in stream])
            assert status(answer) == 403
            assert b"more than 128 channels" in answer
            assert server.statistics().limited["channels"] == 1
    assert len(asked) == 129


async def answer(server: Server, address: str, stack: AsyncExitStack) -> bytes:
    """The status of a handshake; a connection stays until the stack is left."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port, local_address=address)
    await stack.enter_async_context(stream)
    await stream.send_all(REQUEST)
    return bytes(await stream.receive_some()).split(b" ")[1]


@pytest.mark.real
@pytest.mark.slow
async def test_a_thousand_addresses_get_in_although_one_is_at_its_limit(
    served: list[Places],
) -> None:
    limits = Limits(connections_per_address=1, handshake_rate=0.01)
    async with serving(idle, limits=limits) as server, AsyncExitStack() as stack:
        assert await answer(server, "127.0.0.1", stack) == b"101"
        tracemalloc.start()
        try:
            codes = []
            for index in range(1000):
                codes.append(await answer(server, str(LOOPBACK + index), stack))
                if not index % 100:
                    assert await answer(server, "127.0.0.1", stack) == b"429"
            snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        assert set(codes) == {b"101"}
        ours = [tracemalloc.Filter(True, places_module.__file__)]
        held = sum(it.size for it in snapshot.filter_traces(ours).statistics("filename"))
        assert held < 400 * 1000
        assert served[0].known == (1001, 0, 1001)
        await stack.aclose()
        await deserted(server)
        assert served[0].known[:2] == (0, 0)


@pytest.mark.real
@pytest.mark.slow
async def test_a_flood_is_held_at_its_bucket_and_a_healthy_echo_is_not() -> None:
    # So few that a busy machine carries more, in which case alone there is something to hold.
    rate, seconds, pause = 20, 3.0, 0.1
    limits = Limits(message_rate=rate)
    async with serving(echo, limits=limits) as server:
        healthy, floods = await dial(server.port), [await dial(server.port) for _ in range(5)]
        echoed = 0

        async def send(number: int) -> None:
            frame = Frame(Opcode.TEXT, b"flood").serialize(mask=True)
            while True:
                await floods[number].send(frame * 1000)

        async def count(number: int) -> None:
            nonlocal echoed
            while True:
                await floods[number].text()
                echoed += 1

        def held() -> int:
            return server.statistics().limited["message_rate"]

        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(len(floods)):
                nursery.start_soon(send, number)
                nursery.start_soon(count, number)
            while (
                trio.current_time() < begin + seconds
                or held() < len(floods)
                or echoed < 2 * rate * len(floods)
            ):
                await healthy.send_text("x")
                assert await healthy.text() == "x"
                await trio.sleep(pause)
            nursery.cancel_scope.cancel()
        passed = trio.current_time() - begin
        assert echoed <= (2 + passed) * rate * len(floods)
        assert held() == len(floods)
        for peer in (healthy, *floods):
            await peer.aclose()
        await deserted(server)
