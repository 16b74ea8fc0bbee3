"""A primary, its replica, and three Sentinels that agree by two: all of them real processes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Final

import trio

from tests.support.broker import HOST, LOOK, Broker, Kind, made_broker
from tests.support.resp import ReplyError, pairs

#: Seconds within which a failover is over, and the old primary a replica if it is there.
FAILOVER: Final = 15.0
#: A Sentinel asks servers (every 10 s) and announces itself (every 2 s) as often as this, in ms.
#: No replica is chosen that it has not heard of for three times the first.
PERIODS: Final = {"info-period": 1000, "publish-period": 200}


class Sentinels:
    """A primary with its replica, and the Sentinels that watch them.

    Args:
        name: of the primary, to the Sentinels.
        servers: the first primary, and its replica.
        sentinels: those that watch.
    """

    def __init__(self, name: str, servers: tuple[Broker, Broker], sentinels: list[Broker]) -> None:
        self.name: Final = name
        self.servers: Final = servers
        self.sentinels: Final = sentinels

    @property
    def url(self) -> str:
        """Their address: all Sentinels, name, and database 0."""
        hosts = ",".join(f"{it.host}:{it.port}" for it in self.sentinels)
        return f"{self.sentinels[0].kind}+sentinel://{hosts}/{self.name}/0"

    async def primary(self) -> Broker:
        """The server that the first Sentinel names."""
        return await self._named_by(self.sentinels[0])

    async def _named_by(self, sentinel: Broker) -> Broker:
        _, port = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        [found] = [server for server in self.servers if server.port == int(port)]
        return found

    async def kill_primary(self) -> Broker:
        """Kill the primary; returns it. The Sentinels notice after a second.

        Within twice the ``failover-timeout`` after another failover they wait for its end.
        """
        primary = await self.primary()
        primary.kill()
        return primary

    async def failover(self) -> Broker:
        """Have the replica promoted while the primary lives; returns the old one.

        The Sentinels have begun when this returns, and the old primary goes on as one for a while.

        Raises:
            ReplyError: the Sentinel refuses, such as one that is at it.
        """
        old = await self.primary()
        await self.sentinels[0].ask("SENTINEL", "FAILOVER", self.name)
        return old

    async def promoted(self, old: Broker) -> Broker:
        """Wait until all Sentinels name the other server, and it is a primary; returns it.

        Args:
            old: the primary that was.

        Raises:
            TimeoutError: it took more than `FAILOVER`.
        """
        [new] = [server for server in self.servers if server is not old]
        await self._wait(partial(self._is_promoted, new))
        return new

    async def _is_promoted(self, new: Broker) -> bool:
        """Whether all agree that a server is the primary."""
        role, *_ = await new.ask("ROLE")
        return role == b"master" and all([await self._named_by(it) is new for it in self.sentinels])

    async def wait_in_step(self) -> None:
        """Wait until one server is the other's replica; raises like `settle`."""
        await self._wait(self._is_in_step)

    async def _is_in_step(self) -> bool:
        roles = [await server.ask("ROLE") for server in self.servers]
        return any(role[0] == b"slave" and role[3] == b"connected" for role in roles)

    async def settle(self) -> None:
        """Wait until primary and replica are in step, and all Sentinels know it and one another.

        Raises:
            TimeoutError: it took more than `FAILOVER`.
        """
        for sentinel in self.sentinels:
            await self._wait(partial(self._is_settled, sentinel))

    async def _wait(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition; the deadline is in real time, like that of a broker's start."""
        deadline = time.monotonic() + FAILOVER
        while not await _holds(condition):
            if time.monotonic() > deadline:
                logs = "\n".join(it.log()[-2000:] for it in self.sentinels)
                raise TimeoutError(f"the Sentinels do not agree: {logs}")
            await trio.sleep(LOOK)

    async def _is_settled(self, sentinel: Broker) -> bool:
        """Whether a Sentinel would begin a failover now."""
        async with sentinel.client() as client:
            replicas = [
                dict(pairs(it)) for it in await client.ask("SENTINEL", "REPLICAS", self.name)
            ]
            others = [
                dict(pairs(it)) for it in await client.ask("SENTINEL", "SENTINELS", self.name)
            ]
            try:
                await client.ask("SENTINEL", "CKQUORUM", self.name)
            except ReplyError:
                return False
        return (
            [(it["flags"], it["master-link-status"]) for it in replicas] == [("slave", "ok")]
            and len(others) == len(self.sentinels) - 1
            # What it has heard of an earlier primary (``master_down``) says nothing.
            and all({"s_down", "disconnected"}.isdisjoint(it["flags"].split(",")) for it in others)
            # 0 until its first INFO.
            and all(it["slave-repl-offset"] != "0" for it in replicas)
        )


async def _holds(condition: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await condition()
    except ConnectionError:  # a server whose role changes ends its connections
        return False


@asynccontextmanager
async def open_sentinels(
    name: str = "primary",
    kind: Kind = "valkey",
    *,
    config: Iterable[str] = (),
    sentinel_config: Iterable[str] = (),
) -> AsyncIterator[Sentinels]:
    """Start all of them; they live while the context lasts.

    Args:
        name: of the primary, to the Sentinels.
        kind: which program they all are.
        config: lines of both servers' configuration.
        sentinel_config: lines of the Sentinels' configuration.

    Raises:
        StartError: one of them does not start.
        TimeoutError: they started, and do not get to know one another.
    """
    with ExitStack() as stack:
        primary = stack.enter_context(made_broker(kind, config=config))
        following = [*config, f"replicaof {HOST} {primary.port}"]
        replica = stack.enter_context(made_broker(kind, config=following))
        watching = [
            f"sentinel monitor {name} {HOST} {primary.port} 2",
            f"sentinel down-after-milliseconds {name} 1000",
            f"sentinel failover-timeout {name} 2000",
            *sentinel_config,
        ]
        sentinels = [
            stack.enter_context(made_broker(kind, config=watching, sentinel=True)) for _ in range(3)
        ]
        await _start(primary, replica)
        cluster = Sentinels(name, (primary, replica), sentinels)
        await cluster.wait_in_step()  # a Sentinel asks at once, and then after a second
        await _start(*sentinels)
        for sentinel in sentinels:
            for period, value in PERIODS.items():
                await sentinel.ask("SENTINEL", "DEBUG", period, value)
        await cluster.settle()
        yield cluster


async def _start(*brokers: Broker) -> None:
    async with trio.open_nursery() as nursery:
        for broker in brokers:
            nursery.start_soon(broker.start)
