"""Two servers on one broker, under load, while something happens to the broker.

After each fault: what was confirmed has arrived at every listener that was not told of a gap, in
order and once; what was not confirmed was told to its publisher; nobody lost a heartbeat; nothing
is left at the broker.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from tests.support.broker import Broker, made_broker, open_broker
from tests.support.command import command
from tests.support.sentinel import open_sentinels
from tests.support.serving import serving
from trio_beat import (
    BackendError,
    ConnectFailed,
    ConnectionClosed,
    EndReason,
    Heartbeat,
    Hub,
    Observer,
    connect,
    open_hub,
)

pytestmark = pytest.mark.real

CHANNELS = ("red", "green", "blue")
#: Seconds between two messages of a publisher.
PACE = 0.01
#: Seconds in which anything here has happened.
LONG = 40.0
BEAT = Heartbeat(interval=0.5, misses=3)


class Confirmed(NamedTuple):
    """A message that the broker has confirmed."""

    channel: str
    text: str
    begun: float


class Listening:
    """What one connection heard."""

    def __init__(self, channel: str, port: int) -> None:
        self.channel = channel
        self.port = port
        self.joined = trio.current_time()
        self.texts: list[str] = []
        #: Whether it was closed with 1012.
        self.told = False
        self.ended = False


class Outages(Observer):
    """When the last outage of a hub began."""

    def __init__(self) -> None:
        self.last = -math.inf

    def away(self, why: str) -> None:
        self.last = trio.current_time()


class Load:
    """Publishers and listeners, and what came of them.

    Args:
        hubs: those of the servers.
        ports: the servers'.
        outages: the hubs'.
    """

    def __init__(self, hubs: list[Hub], ports: list[int], outages: list[Outages]) -> None:
        self.hubs = hubs
        self.ports = ports
        self.outages = outages
        self.confirmed: list[Confirmed] = []
        self.failed = 0
        self.listenings: list[Listening] = []
        self.codes: Counter[int] = Counter()
        self.over = False
        self._changed = trio.Event()

    async def publish(self, hub: Hub, channel: str, name: str) -> None:
        number = 0
        while not self.over:
            begun = trio.current_time()
            text = f"{name} {number}"
            number += 1
            try:
                await hub.publish(f"broadcast:{channel}", text)
            except BackendError:
                self.failed += 1
            else:
                self.confirmed.append(Confirmed(channel, text, begun))
            await trio.sleep(PACE)

    async def listen(self, port: int, channel: str) -> None:
        url = f"ws://127.0.0.1:{port}/ws/{channel}?subscribe-broadcast"
        while not self.over:
            try:
                listening: Listening | None = None
                async with connect(url, heartbeat=BEAT) as connection:
                    async for text in connection:
                        # With the first message it is known to be subscribed.
                        if listening is None:
                            listening = Listening(channel, port)
                            self.listenings.append(listening)
                        assert isinstance(text, str)
                        listening.texts.append(text)
                    assert connection.closed is not None
                    self.codes[connection.closed.code] += 1
                    if listening is not None:
                        listening.told = connection.closed.code == 1012
            except (ConnectFailed, ConnectionClosed):
                await trio.sleep(0.1)
            finally:
                if listening is not None:
                    listening.ended = True

    async def flows(self) -> None:
        """Wait until messages are confirmed, and come to all listeners."""
        with trio.fail_after(LONG):
            begun = trio.current_time()
            for channel in CHANNELS:
                while not any(  # noqa: ASYNC110 - it has no event
                    it.channel == channel and it.begun > begun for it in self.confirmed
                ):
                    await trio.sleep(0.05)
            expected = 2 * len(self.ports) * len(CHANNELS)
            while sum(not it.told for it in self.listenings) < expected:  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def told(self) -> None:
        """Wait until all are told that there was an outage: that is spread over some seconds."""
        last = dict(zip(self.ports, (outages.last for outages in self.outages), strict=True))
        await until(
            lambda: all(it.ended or it.joined > last[it.port] for it in self.listenings),
        )

    def check(self) -> None:
        """What must hold in the end."""
        for listening in self.listenings:
            heard: dict[str, int] = {}
            for index, text in enumerate(listening.texts):
                name, number = text.split()
                # The first is the last message of before; it may be followed by older ones of
                # other publishers only.
                assert heard.get(name, -1) < int(number), (index, listening.texts[: index + 2])
                heard[name] = int(number)
            if not listening.told:
                expected = {
                    it.text
                    for it in self.confirmed
                    if it.channel == listening.channel and it.begun > listening.joined
                }
                assert expected <= set(listening.texts)


@asynccontextmanager
async def loaded(url: str, query: str = "?timeout=1") -> AsyncIterator[Load]:
    """Two servers with publishers and listeners, which are checked at the end."""
    first_outages, second_outages = Outages(), Outages()
    async with (
        open_hub(url + query, observer=first_outages) as one,
        open_hub(url + query, observer=second_outages) as two,
        serving(hub=one, heartbeat=BEAT) as first,
        serving(hub=two, heartbeat=BEAT) as second,
    ):
        load = Load([one, two], [first.port, second.port], [first_outages, second_outages])
        async with trio.open_nursery() as nursery:
            for channel in CHANNELS:
                for index, hub in enumerate(load.hubs):
                    nursery.start_soon(load.publish, hub, channel, f"{channel}{index}")
                for port in load.ports * 2:
                    nursery.start_soon(load.listen, port, channel)
            await load.flows()
            yield load
            await load.flows()
            await load.told()
            load.over = True
            await trio.sleep(0.5)  # for the last messages to come
            nursery.cancel_scope.cancel()
        load.check()
        for server in (first, second):
            assert server.statistics().ended[EndReason.MISSED_BEATS] == 0


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(LONG):
        while not condition():  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.02)


async def left_alone(broker: Broker) -> None:
    """Check that no connection is left at a broker, once it has seen the last ones end."""
    with trio.fail_after(LONG):
        while await broker.clients():  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.02)


async def outage(
    load: Load, begin: Callable[[], object], end: Callable[[], Awaitable[object]]
) -> None:
    """Let the broker go away, and come back; listeners are told once of each server."""
    before = load.codes[1012]
    begin()
    await until(lambda: not any(hub.available for hub in load.hubs))
    await end()
    await until(lambda: all(hub.available for hub in load.hubs))
    await until(lambda: load.codes[1012] == before + 2 * len(load.ports) * len(CHANNELS))


async def test_a_broker_is_killed_and_restarted() -> None:
    async with open_broker() as broker:
        async with loaded(broker.url) as load:
            for _ in range(2):
                await outage(load, broker.kill, broker.start)
                await load.flows()
        assert load.failed > 0
        assert load.codes.keys() <= {1012}
        await left_alone(broker)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [5, 30])
async def test_a_broker_stands_still(seconds: float) -> None:
    async with open_broker() as broker:

        async def go_on() -> None:
            await trio.sleep(seconds)
            broker.go_on()

        async with loaded(broker.url) as load:
            await outage(load, broker.stop, go_on)
        assert load.failed > 0
        assert load.codes.keys() <= {1012}
        await left_alone(broker)


async def test_connections_to_the_broker_are_killed_ten_times() -> None:
    async with open_broker() as broker:
        async with loaded(broker.url) as load:
            for number in range(1, 11):
                await broker.kill_clients()
                await until(
                    lambda: all(hub.statistics().outages == number for hub in load.hubs)  # noqa: B023
                )
                await until(lambda: all(hub.available for hub in load.hubs))
        assert load.codes[1012] >= 2 * len(load.ports) * len(CHANNELS)
        assert load.codes.keys() <= {1012}
        await left_alone(broker)


async def test_what_overflows_at_the_broker_is_told_to_listeners() -> None:
    # Published in one step: nothing is written before all of it waits at the broker.
    script = """
        for number = 1, 1000 do
            redis.call("PUBLISH", KEYS[1], "much" .. " " .. number .. (" "):rep(10000))
        end
    """
    async with open_broker(config=["client-output-buffer-limit pubsub 1mb 0 0"]) as broker:
        async with loaded(broker.url) as load:
            for number in range(1, 3):
                before = load.codes[1012]
                await broker.ask("EVAL", script, 1, "broadcast:red")
                await until(
                    lambda: all(hub.statistics().outages == number for hub in load.hubs)  # noqa: B023
                )
                await until(lambda: all(hub.available for hub in load.hubs))
                # All channels of a hub are on the connection that was cut off.
                expected = before + 2 * len(load.ports) * len(CHANNELS)
                await until(lambda: load.codes[1012] == expected)  # noqa: B023
                await load.flows()
        assert load.codes.keys() <= {1012}
        assert not any("much" in text for it in load.listenings for text in it.texts)
        await left_alone(broker)


async def test_a_broker_has_no_room_for_clients() -> None:
    async with open_broker() as broker:
        async with loaded(broker.url) as load, broker.client() as admin:
            await admin.ask("CONFIG", "SET", "maxclients", 1)
            await admin.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: not any(hub.available for hub in load.hubs))
            await trio.sleep(1)
            assert not any(hub.available for hub in load.hubs)
            await admin.ask("CONFIG", "SET", "maxclients", 100)
            await until(lambda: all(hub.available for hub in load.hubs))
        assert load.codes.keys() <= {1012}
        await left_alone(broker)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [True, False])
async def test_a_failover(killed: bool) -> None:
    async with open_sentinels() as sentinels:
        async with loaded(sentinels.url) as load:
            old = await (sentinels.kill_primary() if killed else sentinels.failover())
            await sentinels.promoted(old)
            await until(lambda: all(hub.statistics().outages for hub in load.hubs))
            await until(lambda: all(hub.available for hub in load.hubs))
            await until(lambda: load.codes[1012] == 2 * len(load.ports) * len(CHANNELS))
        assert load.codes.keys() <= {1012}


@pytest.mark.parametrize(
    ("config", "query", "words"),
    [
        (["requirepass s3cret"], "", "asks for a password"),
        ([], "/99", "has no database 99"),
        (["replicaof 127.0.0.1 1"], "", "is a replica"),
    ],
)
async def test_what_is_wrong_at_the_start_is_an_error(
    config: list[str], query: str, words: str
) -> None:
    async with open_broker(config=config) as broker:
        with pytest.raises(BackendError, match=words):
            async with open_hub(broker.url + query):
                raise AssertionError


async def test_what_is_no_broker_is_an_error() -> None:
    async with serving() as server:
        with pytest.raises(BackendError, match="is no Redis or Valkey"):
            async with open_hub(f"redis://127.0.0.1:{server.port}"):
                raise AssertionError


async def test_what_becomes_wrong_later_is_an_outage() -> None:
    with made_broker() as broker:
        await broker.start()
        async with loaded(broker.url) as load:
            await broker.ask("CONFIG", "SET", "requirepass", "s3cret")
            await broker.kill_clients()
            await until(lambda: not any(hub.available for hub in load.hubs))
            await trio.sleep(0.5)
            assert not any(hub.available for hub in load.hubs)
            await broker.ask("CONFIG", "SET", "requirepass", "")
            await until(lambda: all(hub.available for hub in load.hubs))
        assert load.codes.keys() <= {1012}
        await left_alone(broker)


async def test_one_of_two_servers_is_killed_while_it_publishes(tmp_path: Path) -> None:
    async with open_broker() as broker:
        option = f"--backend={broker.url}"
        with command(tmp_path, option) as one, command(tmp_path, option) as two:
            target = "news?subscribe-broadcast&publish-broadcast"
            sent, heard = 0, []
            async with connect(two.websocket(target)) as stays, trio.open_nursery() as nursery:

                async def hear() -> None:
                    async for text in stays:
                        heard.append(text)

                async def publish() -> None:
                    nonlocal sent
                    # With the echo, each is known to be confirmed.
                    with pytest.raises(ConnectionClosed):
                        async with connect(one.websocket(target + "&echo")) as connection:
                            while True:
                                await connection.send(f"{sent}")
                                while await connection.receive() != f"{sent}":
                                    pass
                                sent += 1

                nursery.start_soon(hear)
                await trio.sleep(0.3)
                async with trio.open_nursery() as publishing:
                    publishing.start_soon(publish)
                    await until(lambda: sent >= 200)
                    one.process.kill()
                await stays.send("still here")
                async with connect(two.websocket(target)) as other:
                    assert await other.receive() == "still here"
                    await other.send("end")
                    await until(lambda: heard[-1:] == ["end"])
                assert stays.closed is None
                nursery.cancel_scope.cancel()
            assert heard[:sent] == [f"{number}" for number in range(sent)]
            assert len(heard) <= sent + 2
