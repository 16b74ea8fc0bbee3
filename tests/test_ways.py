"""What holds for a connection, whichever way it has come.

What a way cannot do stands in the table of the documentation, and is tested to be so.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Close, Opcode

from tests.support.documents import document
from tests.support.peer import Declined, Peer
from tests.support.ways import BEATS, WAYS, Place, Way
from trio_beat import (
    Closed,
    Connection,
    EndReason,
    Hub,
    Identity,
    Limits,
    ObservedConnection,
    Observer,
    Refused,
    Request,
    open_hub,
)

BEAT = str(BEATS.message)
#: Seconds for what only bytes are waited for.
SOON = 30.0


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    way = request.param
    assert isinstance(way, Way)
    return way


@pytest.fixture
def clock(way: Way) -> MockClock:
    return MockClock(autojump_threshold=way.threshold)


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)


class Kept:
    """A handler that keeps how its connections ended, and what came."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.messages: list[str | bytes] = []
        self.left = 0

    async def __call__(self, connection: Connection) -> None:
        self.connections.append(connection)
        try:
            async for message in connection:
                self.messages.append(message)
        finally:
            self.left += 1

    async def ended(self, count: int = 1) -> list[Closed]:
        """Wait until so many connections have ended."""
        closed: list[Closed] = []
        with trio.fail_after(SOON):
            for index in range(count):
                while index >= len(self.connections):  # noqa: ASYNC110 - it has no event
                    await trio.sleep(0.1)
                closed.append(await self.connections[index].wait_closed())
        return closed


@asynccontextmanager
async def hub_served(
    way: Way, *, expire: float = 3600, **options: Any
) -> AsyncIterator[tuple[Place, Hub]]:
    async with open_hub(expire=expire) as hub, way.serving(None, hub=hub, **options) as place:
        yield place, hub


async def answering(peer: Peer) -> None:
    """Be a peer that is alive and only listens, until the end."""
    try:
        while (frame := await peer.frame()) is not None:
            if frame.opcode is Opcode.PING:
                await peer.pong(frame)
            elif frame.data == BEAT.encode():
                await peer.send_text(BEAT)
            elif frame.opcode is Opcode.CLOSE:
                await peer.send_close(1000)
                return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


class EndedError(Exception):
    """The server has ended the stream."""


async def read(peer: Peer) -> str | bytes:
    """The next message that is no beat."""
    with trio.fail_after(SOON):
        data, binary = b"", False
        while True:
            frame = await peer.frame()
            if frame is None:
                raise EndedError
            if frame.opcode in (Opcode.PING, Opcode.PONG) or frame.data == BEAT.encode():
                continue
            assert frame.opcode is not Opcode.CLOSE, frame
            binary = frame.opcode is Opcode.BINARY or (binary and frame.opcode is Opcode.CONT)
            data += bytes(frame.data)
            if frame.fin:
                return data if binary else data.decode()


async def gone(place: Place) -> None:
    """Wait until no connection is left."""
    with trio.fail_after(SOON):
        while place.statistics().connections:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.1)


class TestMessages:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65_536, 300_000])
    @pytest.mark.parametrize("kind", [Opcode.TEXT, Opcode.BINARY])
    async def test_come_back(self, way: Way, clock: MockClock, kind: Opcode, size: int) -> None:
        async with way.serving(echo) as place, trio.open_nursery() as nursery:
            peer = await place.dial()
            nursery.start_soon(peer.send_frame, kind, b"x" * size)
            expected = b"x" * size
            assert await read(peer) == (expected if kind is Opcode.BINARY else expected.decode())
            await peer.aclose()

    async def test_in_fragments(self, way: Way, clock: MockClock) -> None:
        async with way.serving(echo) as place:
            peer = await place.dial()
            await peer.send_frame(Opcode.TEXT, b"one ", fin=False)
            await peer.send_frame(Opcode.PING, b"between")
            await peer.send_frame(Opcode.CONT, b"two ", fin=False)
            await peer.send_frame(Opcode.CONT, b"three")
            assert await read(peer) == "one two three"
            await peer.aclose()

    async def test_keep_their_order(self, way: Way, clock: MockClock) -> None:
        texts = [str(number) for number in range(300)]

        async def send(peer: Peer) -> None:
            for text in texts:
                await peer.send_text(text)

        async with way.serving(echo, limits=Limits(inbound=1000)) as place:
            async with trio.open_nursery() as nursery:
                peer = await place.dial()
                nursery.start_soon(send, peer)
                assert [await read(peer) for _ in texts] == texts
            await peer.aclose()

    async def test_a_ping_is_answered(self, way: Way, clock: MockClock) -> None:
        async with way.serving(echo) as place:
            peer = await place.dial()
            await peer.send_frame(Opcode.PING, b"hello")
            with trio.fail_after(SOON):
                while (frame := await peer.frame()) is None or frame.opcode is not Opcode.PONG:
                    pass
            assert bytes(frame.data) == b"hello"
            await peer.aclose()


class TestBeats:
    async def test_a_text_at_each_beat(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place:
            peer = await place.dial()
            beats: list[float] = []
            while len(beats) < 5:
                frame = await peer.frame()
                assert frame is not None
                if frame.opcode is Opcode.PING:
                    await peer.pong(frame)
                elif frame.opcode is Opcode.TEXT:
                    assert bytes(frame.data) == BEAT.encode()
                    beats.append(trio.current_time())
                    await peer.send_text(BEAT)
            pauses = [late - early for early, late in itertools.pairwise(beats)]
            assert pauses == pytest.approx([BEATS.interval] * 4, abs=0.1)
            await peer.aclose()
            await kept.ended()
            assert kept.messages == []  # a beat is no message

    async def test_who_answers_lives(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place, trio.open_nursery() as nursery:
            peer = await place.dial()
            nursery.start_soon(answering, peer)
            await trio.sleep(10 * BEATS.interval)
            (connection,) = kept.connections
            assert connection.closed is None
            assert connection.statistics().missed_beats == 0
            nursery.cancel_scope.cancel()
        await peer.aclose()

    async def test_who_is_silent_is_gone_in_time(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place:
            peer = await place.dial()
            began = trio.current_time()
            (closed,) = await kept.ended()
            assert closed.by is EndReason.MISSED_BEATS
            assert 3 * BEATS.interval - 0.1 <= trio.current_time() - began
            assert trio.current_time() - began <= (BEATS.misses + 1) * BEATS.interval + 0.2
            await gone(place)
            await peer.aclose()

    async def test_messages_are_life(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept, limits=Limits(inbound=100)) as place:
            peer = await place.dial()
            for number in range(6):
                await peer.send_text(str(number))
                await trio.sleep(BEATS.interval)
            (connection,) = kept.connections
            assert connection.closed is None
            await peer.aclose()


class TestEnds:
    async def test_the_peer_closes(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place:
            peer = await place.dial()
            await peer.send_text("first")
            await peer.send_close(4000, "enough")
            (closed,) = await kept.ended()
            assert closed.by is EndReason.PEER
            assert kept.messages == ["first"]
            with trio.fail_after(SOON):
                assert await peer.closed() is not None
            await gone(place)
            await peer.aclose()

    async def test_the_handler_closes(self, way: Way, clock: MockClock) -> None:
        async def close(connection: Connection) -> None:
            await connection.send("last")
            await connection.aclose(4001, "enough")

        async with way.serving(close) as place:
            peer = await place.dial()
            assert await read(peer) == "last"
            with trio.fail_after(SOON):
                assert await peer.closed() == Close(4001, "enough")
            with suppress(trio.BrokenResourceError):  # some servers wait for no answer
                await peer.send_close(4001)
            await gone(place)
            await peer.aclose()

    async def test_the_handler_returns(self, way: Way, clock: MockClock) -> None:
        async def nothing(connection: Connection) -> None:
            pass

        async with way.serving(nothing) as place:
            peer = await place.dial()
            with trio.fail_after(SOON):
                assert await peer.closed() == Close(1000, "")
            await peer.aclose()

    async def test_a_handler_that_fails_ends_its_own(self, way: Way, clock: MockClock) -> None:
        async def fail(connection: Connection) -> None:
            async for message in connection:
                if message == "fail":
                    raise ValueError(message)
                await connection.send(message)

        async with way.serving(fail, handler_errors="close") as place:
            peer, neighbour = await place.dial(), await place.dial()
            await peer.send_text("fail")
            with trio.fail_after(SOON):
                closed = await peer.closed()
            assert closed is not None
            assert closed.code == 1011
            await neighbour.send_text("still here")
            assert await read(neighbour) == "still here"
            assert place.statistics().handler_errors == 1
            await peer.aclose()
            await neighbour.aclose()

    async def test_the_peer_leaves_without_a_word(self, way: Way, clock: MockClock) -> None:
        kept = Kept()
        async with way.serving(kept) as place:
            peer = await place.dial()
            await peer.send_text("first")
            await trio.sleep(1)
            await peer.aclose()
            (closed,) = await kept.ended()
            assert closed.by in (EndReason.PEER, EndReason.LOST)
            assert closed.code == 1006
            assert kept.messages == ["first"]
            await gone(place)

    @pytest.mark.parametrize(
        ("opcode", "data", "code"),
        [
            (Opcode.TEXT, b"\xff", None),  # who is told so, see `CAN`
            (Opcode.CONT, b"x", None),
            (Opcode.TEXT, b"x" * 1001, 1009),
        ],
    )
    async def test_the_peer_breaks_the_rules(
        self, way: Way, clock: MockClock, opcode: Opcode, data: bytes, code: int | None
    ) -> None:
        kept = Kept()
        limits = Limits(message_size=1000)
        async with way.serving(kept, limits=limits) as place:
            peer, neighbour = await place.dial(), await place.dial()
            await peer.send_frame(opcode, data)
            with trio.fail_after(SOON):
                closed = await peer.closed()
            if code is not None:
                assert closed is not None
                assert closed.code == code
            await kept.ended()
            assert kept.connections[1].closed is None
            assert kept.messages == []
            await peer.aclose()
            await neighbour.aclose()


class TestChannels:
    async def test_all_subscribers_get_it(self, way: Way, clock: MockClock) -> None:
        async with hub_served(way) as (place, hub):
            peers = [await place.dial() for _ in range(20)]
            await hub.publish("broadcast:news", "to all")
            for peer in peers:
                assert await read(peer) == "to all"
                await peer.aclose()
            await gone(place)
            assert hub.statistics().subscriptions == 0

    async def test_peers_publish(self, way: Way, clock: MockClock) -> None:
        async with hub_served(way) as (place, _):
            peer = await place.dial("/ws/news?subscribe-broadcast&publish-broadcast&echo")
            listener = await place.dial()
            await peer.send_text("to all")
            assert await read(peer) == await read(listener) == "to all"
            late = await place.dial()
            assert await read(late) == "to all"  # the last message
            for one in (peer, listener, late):
                await one.aclose()

    async def test_a_silent_subscriber_is_forgotten_in_time(
        self, way: Way, clock: MockClock
    ) -> None:
        async with hub_served(way) as (place, hub):
            peer = await place.dial()
            assert hub.statistics().subscriptions == 1
            await trio.sleep((BEATS.misses + 1) * BEATS.interval + 0.2)
            assert hub.statistics().subscriptions == 0
            await peer.aclose()

    async def test_a_slow_subscriber_holds_nobody_up(self, way: Way, clock: MockClock) -> None:
        async with hub_served(way, limits=Limits(outbox=100_000)) as (place, hub):
            slow, other = await place.dial(), await place.dial()
            for number in range(200):
                await hub.publish("broadcast:news", str(number) + "x" * 65_536)
                assert str(await read(other)).startswith(f"{number}x")
            await slow.aclose()
            await other.aclose()


class TestAdmission:
    async def test_the_application_sees_the_request(self, way: Way, clock: MockClock) -> None:
        requests: list[Request] = []

        async def admit(request: Request) -> Identity:
            requests.append(request)
            return Identity(user="bob")

        async def tell(connection: Connection) -> None:
            identity, request = connection.identity, connection.request
            assert identity is not None
            assert request is not None
            await connection.send(f"{identity.user} {request.target} {connection.path}")

        async with way.serving(tell, admit=admit) as place:
            peer = await place.dial("/chat/a%20b?x=%2F&y", "Cookie: a=1\r\nX-Some: thing\r\n")
            assert await read(peer) == "bob /chat/a%20b?x=%2F&y /chat/a%20b?x=%2F&y"
            (request,) = requests
            assert request.headers["X-Some"] == "thing"
            assert request.cookies == {"a": "1"}
            await peer.aclose()

    @pytest.mark.parametrize("status", [401, 403, 429, 503])
    async def test_the_application_refuses(self, way: Way, clock: MockClock, status: int) -> None:
        async def admit(request: Request) -> Identity:
            raise Refused(status, "not you", {"Retry-After": "7"})

        async with way.serving(echo, admit=admit) as place:
            with pytest.raises(Declined) as caught:
                await place.dial()
            assert caught.value.status == status
            assert b"not you" in caught.value.answer
            assert b"retry-after: 7" in caught.value.answer.lower()
            assert place.statistics().refused == {status: 1}
            assert place.statistics().connections == 0

    async def test_no_such_channel(self, way: Way, clock: MockClock) -> None:
        async with hub_served(way) as (place, _):
            for target, status in [
                ("/ws/news?subscribe-nobody", 400),
                ("/ws/news?subscribe-user", 403),
            ]:
                with pytest.raises(Declined) as caught:
                    await place.dial(target)
                assert caught.value.status == status

    async def test_a_foreign_page(self, way: Way, clock: MockClock) -> None:
        async with way.serving(echo) as place:
            with pytest.raises(Declined) as caught:
                await place.dial(headers="Origin: https://elsewhere.example\r\n")
            assert caught.value.status == 403

    async def test_no_room(self, way: Way, clock: MockClock) -> None:
        async with way.serving(echo, limits=Limits(connections=1)) as place:
            peer = await place.dial()
            with pytest.raises(Declined) as caught:
                await place.dial()
            assert caught.value.status == 503
            await peer.aclose()
            await gone(place)
            await (await place.dial()).aclose()

    async def test_a_subprotocol(self, way: Way, clock: MockClock) -> None:
        async def tell(connection: Connection) -> None:
            await connection.send(str(connection.subprotocol))

        async with way.serving(tell, subprotocols=["two", "one"]) as place:
            peer = await place.dial(headers="Sec-WebSocket-Protocol: one, two\r\n")
            assert b"sec-websocket-protocol: two" in peer.head.lower()
            assert await read(peer) == "two"
            await peer.aclose()

    async def test_an_identity_expires(self, way: Way, clock: MockClock) -> None:
        async def renew(connection: Connection) -> None:
            connection.renew(Identity(user="bob", expires_at=time.time() - 1))
            await trio.sleep_forever()

        async with way.serving(renew) as place:
            peer = await place.dial()
            with trio.fail_after(SOON):
                closed = await peer.closed()
            assert closed is not None
            assert closed.code == 3000
            await peer.aclose()

    async def test_a_user_is_disconnected(self, way: Way, clock: MockClock) -> None:
        async def admit(request: Request) -> Identity:
            return Identity(user="bob")

        async with open_hub() as hub, way.serving(Kept(), hub=hub, admit=admit) as place:
            peer = await place.dial()
            await hub.disconnect(user="bob", code=4003, reason="out")
            with trio.fail_after(SOON):
                assert await peer.closed() == Close(4003, "out")
            await peer.aclose()


async def pong_is_life(way: Way) -> bool:
    """Be a peer that answers PINGs, and no text heartbeat."""
    kept = Kept()
    async with way.serving(kept) as place, trio.open_nursery() as nursery:
        peer = await place.dial()

        async def pong() -> None:
            while (frame := await peer.frame()) is not None:
                if frame.opcode is Opcode.PING:
                    await peer.pong(frame)

        nursery.start_soon(pong)
        await trio.sleep((BEATS.misses + 2) * BEATS.interval)
        (connection,) = kept.connections
        lives = connection.closed is None
        assert lives == (connection.latency is not None)
        nursery.cancel_scope.cancel()
    await peer.aclose()
    return lives


async def close_code_is_known(way: Way) -> bool:
    kept = Kept()
    async with way.serving(kept) as place:
        peer = await place.dial()
        await peer.send_close(4000, "enough")
        (closed,) = await kept.ended()
        await peer.aclose()
    assert closed.by is EndReason.PEER
    return (closed.code, closed.reason) == (4000, "enough")


async def socket_is_closed_at_once(way: Way) -> bool:
    """Be a peer that takes nothing of much, and is dead."""
    kept = Kept()
    async with way.serving(kept) as place:
        peer = await place.dial()
        while not kept.connections:  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.1)
        (connection,) = kept.connections
        for _ in range(9):
            connection.send_nowait(b"x" * 100_000)
        before = open_sockets()
        await connection.wait_closed()
        await trio.sleep(1)
        after = open_sockets()
        await peer.aclose()
    return after < before


def open_sockets() -> int:
    """Sockets of this process."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that listed them
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


async def handler_slows_its_peer(way: Way) -> bool:
    """Be a peer that sends more than its handler takes."""
    connections: list[Connection] = []

    async def idle(connection: Connection) -> None:
        connections.append(connection)
        await trio.sleep_forever()

    async with way.serving(idle) as place:
        peer = await place.dial()
        for number in range(200):
            try:
                await peer.send_text(str(number))
            except trio.BrokenResourceError:
                break
        with trio.move_on_after(10 * BEATS.interval):
            await connections[0].wait_closed()
        closed = connections[0].closed
        await peer.aclose()
    assert closed is None or closed.by is EndReason.INBOX_FULL
    return closed is None


async def slow_policy_is_met(way: Way) -> bool:
    """Be a peer that reads nothing of very much."""
    async with hub_served(way, limits=Limits(outbox=100_000)) as (place, hub):
        peer = await place.dial()
        for _ in range(100):
            await hub.publish("broadcast:news", "x" * 65_536)
            await trio.sleep(0.01)
        await gone(place)
        await peer.aclose()
        return place.statistics().ended[EndReason.SLOW] == 1


async def wrong_frame_is_told(way: Way) -> bool:
    codes = []
    for opcode, data in [(Opcode.TEXT, b"\xff"), (Opcode.CONT, b"x")]:
        async with way.serving(Kept()) as place:
            peer = await place.dial()
            await peer.send_frame(opcode, data)
            with trio.fail_after(SOON):
                codes.append(await peer.closed())
            await peer.aclose()
    return [None if close is None else close.code for close in codes] == [1007, 1002]


async def shutdown_is_told(way: Way) -> bool:
    async with way.serving(Kept(), grace=8) as place:
        peers = [await place.dial() for _ in range(3)]
        place.drain()
        codes = []
        for peer in peers:
            with trio.fail_after(SOON):
                codes.append(await peer.closed())
            await peer.aclose()
    return all(close is not None and close.code == 1001 for close in codes)


async def shutdown_is_spread(way: Way) -> bool:
    kept, times = Kept(), []

    async def until_closed(peer: Peer) -> None:
        await peer.closed()
        times.append(trio.current_time())
        await peer.aclose()

    async with way.serving(kept, grace=8) as place:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(until_closed, await place.dial())
            await trio.sleep(0.1)
            place.drain()
    return max(times) - min(times) > 2


#: By the words of the table.
CAN: Final[dict[str, Callable[[Way], Awaitable[bool]]]] = {
    "a PONG proves life, with a latency": pong_is_life,
    "the peer's close code is known": close_code_is_known,
    "a dead peer's socket goes at once": socket_is_closed_at_once,
    "a slow handler slows its peer down": handler_slows_its_peer,
    "a slow peer meets the slow policy": slow_policy_is_met,
    "who breaks RFC 6455 is told so": wrong_frame_is_told,
    "all are told of a shutdown": shutdown_is_told,
    "closing at shutdown is spread out": shutdown_is_spread,
}


def table() -> dict[tuple[str, str], bool]:
    """What the documentation says, by what and way."""
    page = document("embedding")
    lines = page[page.index("\nWhat each way can do\n") :].splitlines()
    first, _, last = [index for index, line in enumerate(lines) if "== ==" in line][:3]
    edges = [match.span() for match in re.finditer("=+", lines[first])]
    rows = [[line[begin:end].strip() for begin, end in edges] for line in lines[first:last]]
    _, (_, *ways), _, *rest = rows
    return {
        (what, way): {"yes": True, "no": False}[word]
        for what, *words in rest
        for way, word in zip(ways, words, strict=True)
    }


TABLE: Final = table()


@pytest.mark.slow
class TestTable:
    @pytest.mark.parametrize("what", CAN)
    async def test_says_what_is_so(self, way: Way, clock: MockClock, what: str) -> None:
        assert await CAN[what](way) is TABLE[what, way.name]

    def test_has_nothing_else(self) -> None:
        assert set(TABLE) == {(what, way.name) for what in CAN for way in WAYS}


class AtStep(trio.abc.Instrument):
    """Does something once so many steps of tasks were made."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        self._left, self._act = step, act

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()

    @property
    def done(self) -> bool:
        return self._left <= 0


class Counted(Observer):
    """Counts connections that were opened and have ended."""

    def __init__(self) -> None:
        self.open = 0

    def opened(self, connection: ObservedConnection) -> None:
        self.open += 1

    def ended(self, connection: ObservedConnection, closed: Closed) -> None:
        if connection.path:
            self.open -= 1


async def talk(way: Way, place: Place, hub: Hub, opened: Callable[[Peer], None]) -> None:
    """A short life: a connection that subscribes, publishes, hears, beats and closes."""
    peer = await place.dial("/ws/news?subscribe-broadcast&publish-broadcast&echo")
    opened(peer)
    try:
        await peer.send_text("hello")
        assert await read(peer) == "hello"
        await hub.publish("broadcast:news", "x" * 100_000)
        assert len(await read(peer)) == 100_000
        if not way.threshold:  # else it takes long
            await trio.sleep(BEATS.interval)
        await peer.send_close(1000)
        with trio.fail_after(SOON):
            await peer.closed()
        await gone(place)
    finally:
        await peer.aclose()


@pytest.mark.slow
class TestFaults:
    @pytest.fixture
    def clock(self, way: Way) -> MockClock:
        """One that jumps sooner: a beat too early does no harm here."""
        return MockClock(autojump_threshold=way.threshold / 20)

    async def test_cancelled_at_each_step_it_leaves_nothing(
        self, way: Way, clock: MockClock
    ) -> None:
        step, done = 0, True
        async with open_hub(expire=0) as hub:
            while done:
                step += 1
                counted, scope = Counted(), trio.CancelScope()
                at = AtStep(step, scope.cancel)
                trio.lowlevel.add_instrument(at)
                try:
                    with scope:
                        async with way.serving(None, hub=hub, observer=counted) as place:
                            await talk(way, place, hub, lambda _: None)
                finally:
                    trio.lowlevel.remove_instrument(at)
                done = at.done
                assert counted.open == 0, step
                assert hub.statistics().subscriptions == 0, step
        assert step > 20

    async def test_a_peer_cut_at_each_step_leaves_nothing(self, way: Way, clock: MockClock) -> None:
        step, done = 0, True
        counted = Counted()
        async with hub_served(way, expire=0, observer=counted) as (place, hub):
            while done:
                step += 1
                peers: list[Peer] = []
                at = AtStep(step, partial(cut, peers))
                trio.lowlevel.add_instrument(at)
                try:
                    with suppress(trio.BrokenResourceError, Declined, EndedError):
                        await talk(way, place, hub, peers.append)
                finally:
                    trio.lowlevel.remove_instrument(at)
                done = at.done
                await gone(place)
                assert counted.open == 0, step
                assert hub.statistics().subscriptions == 0, step
        assert step > 20


def cut(peers: list[Peer]) -> None:
    """End both directions of the sockets of peers at once, without their streams' knowledge."""
    for peer in peers:
        # It may have been closed.
        with suppress(OSError), socket.socket(fileno=os.dup(peer.plain.socket.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
