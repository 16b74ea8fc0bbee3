"""What a broker between the processes costs, beside a hub that is alone.

The broker is a process of its own, on loopback, and keeps nothing on disk. It has no core of its
own: where there are two, it shares them with the server and the load.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import trio

from ._broker import Broker, open_broker
from ._processes import Failed, Load, Server, open_load, open_module, run_module
from ._suite import TARGET, Command, Figure, Goal, Options, Run, warm_up
from .idle import OWN, beats, own_cpu
from .peers import BACKENDS

#: Messages a second, how many are a burst, and bytes of each.
_RATE: Final = 1000
_BURST: Final = 20
_SIZE: Final = 100
#: Subscribers while it is measured how long a message takes.
_FEW: Final = 10
_WARM_UP: Final = 200
_TASKS: Final = 100
#: Seconds between PINGs where what is counted is messages.
_QUIET: Final = 20.0
#: Seconds for which the broker is away: attempts are then as rare as they become.
_AWAY: Final = 3.0
#: The paces: how many publish in turn, and how many messages come at once. One connection alone
#: waits for each of its messages to be confirmed before it publishes the next.
_PACES: Final = {"even": (1, 1), "burst": (_BURST, _BURST), "single": (1, _BURST)}

_LATENCY: Final = f"publish to client, {_RATE:,} messages a second"
_PUBLISHING: Final = f"publishes by {_TASKS} tasks, kept and confirmed"
_FANOUT: Final = "one message to many subscribers"
_CHANNELS: Final = "many channels with one listener each"
_IDLE: Final = "idle connections"

FIGURES = (
    Figure("even_p50", "p50 ms, even", 2, part=_LATENCY),
    Figure("even_p99", "p99 ms, even", 2, part=_LATENCY),
    Figure("burst_p50", "p50 ms, bursts", 2, part=_LATENCY),
    Figure("burst_p99", "p99 ms, bursts", 2, part=_LATENCY),
    Figure("single_p50", "p50 ms, bursts of one client", 2, part=_LATENCY),
    Figure("single_p99", "p99 ms, bursts of one client", 2, part=_LATENCY),
    Figure("paced_lost", "lost", 0, always=True, part=_LATENCY),
    Figure("publish_rate", "publishes/s", 0, part=_PUBLISHING),
    Figure("publish_cpu", "us", part=_PUBLISHING),
    Figure("fanout_cpu", "us", 2, part=_FANOUT),
    Figure("fanout_p99", "p99 ms", part=_FANOUT),
    Figure("fanout_lost", "lost", 0, always=True, part=_FANOUT),
    Figure("opened", "open, s", 2, part=_CHANNELS),
    Figure("listening", "last messages read, s", 2, part=_CHANNELS),
    Figure("again", "again after a restart, s", 2, part=_CHANNELS),
    Figure("deaf", "deaf afterwards", 0, always=True, part=_CHANNELS),
    Figure("memory", "KiB", part=_IDLE),
    Figure("cpu", "us/beat", part=_IDLE),
)
GOALS = (
    Goal("even_p99", 5.0, "memory", server="redis", above=True),
    Goal("burst_p99", 5.0, "memory", server="redis", above=True),
    Goal("paced_lost", 0, server="redis"),
    Goal("publish_rate", 0.9, "coredis", at_least=True, server="redis"),
    Goal("publish_rate", 0.9, "coredis_script", at_least=True, server="redis"),
    Goal("fanout_cpu", 1.15, "memory", server="redis"),
    Goal("fanout_lost", 0, server="redis"),
    Goal("listening", 2.0, server="redis"),
    Goal("again", 2.0, server="redis"),
    Goal("deaf", 0, server="redis"),
    # Unchanged: rounds of one and the same server differ by that much.
    Goal("memory", 1.1, "memory", server="redis"),
    Goal("cpu", 1.1, "memory", server="redis"),
)


class _Way:
    """A backend that is measured.

    Args:
        run: under way.
        name: of it.
        broker: None: it needs none.
    """

    def __init__(self, run: Run, name: str, broker: Broker | None) -> None:
        self.run: Final = run
        self.name: Final = name
        self.broker: Final = broker
        self.url: Final = "memory://" if broker is None else broker.url

    @contextlib.asynccontextmanager
    async def _both(self, interval: float) -> AsyncIterator[tuple[Server, Load, dict[str, Any]]]:
        """A server and a load, and where the load finds the server."""
        arguments = ["--backend", self.url, "--interval", str(interval)]
        async with (
            open_module("benchmarks._hub_server", *arguments) as server,
            open_load(module="benchmarks._load_paced") as load,
        ):
            yield server, load, {"host": "127.0.0.1", "port": server.port}

    async def latency(self) -> dict[str, float | None]:
        """How long a message takes from the client that publishes it to another."""
        figures: dict[str, float | None] = {}
        subscribe, publish = "/ws/pace?subscribe-broadcast", "/ws/pace?publish-broadcast&{}"
        count, lost = self.run.options.messages, 0
        async with self._both(_QUIET) as (_, load, address):
            await load.call("connect", **address, target=subscribe, count=_FEW)
            await load.call("connect", **address, target=publish, count=_BURST)
            many, one = publish.format(""), publish.format(0)
            common = {"subscriber": subscribe, "rate": _RATE, "size": _SIZE}
            await load.call("pace", publisher=many, count=_WARM_UP, burst=1, **common)
            for pace, (publishers, burst) in _PACES.items():
                publisher = one if publishers == 1 else many
                told = await load.call(
                    "pace", publisher=publisher, count=count, burst=burst, **common
                )
                self.run.check_load(self.name, f"messages at a pace, {pace}", told["busy"])
                lost += told["lost"]
                for key in ("p50", "p99"):
                    figures[f"{pace}_{key}"] = 1e3 * told[key]
        return figures | {"paced_lost": lost}

    async def publishing(self) -> dict[str, float | None]:
        """How many messages are confirmed in a second, and what each costs the client."""
        ours = self.name in ("memory", "redis")
        arguments = ["--tasks", str(_TASKS), "--seconds", str(self.run.options.seconds)]
        way = "backend" if ours else self.name
        told = await run_module("benchmarks._publishers", way, self.url, *arguments)
        count = told["confirmed"]
        return {
            "publish_rate": count / told["seconds"],
            "publish_cpu": 1e6 * told["cpu"] / count,
        }

    async def fanout(self) -> dict[str, float | None]:
        """What it costs the server to give a message to each of many subscribers."""
        options = self.run.options
        async with self._both(_QUIET) as (server, load, address):
            subscribe, publish = "/ws/many?subscribe-broadcast", "/ws/many?publish-broadcast"
            await load.call("connect", **address, target=subscribe, count=options.connections)
            await load.call("connect", **address, target=publish, count=1)
            count = max(1, options.messages // 25)
            common = {"publisher": publish, "slow": "", "size": _SIZE}
            await load.call("publish", first=0, count=3, **common)
            cpu = server.cpu()
            told = await load.call("publish", first=3, count=count, **common)
            used = server.cpu() - cpu
            self.run.check_load(self.name, "fan-out", told["busy"])
        return {
            "fanout_cpu": 1e6 * used.total / told["delivered"],
            "fanout_p99": 1e3 * told["p99"],
            "fanout_lost": told["lost"],
        }

    async def channels(self) -> dict[str, float | None]:
        """How long it takes to listen to many channels, and again when the broker is back."""
        count = self.run.options.channels
        async with self._both(_QUIET) as (server, load, address):
            await server.ask(f"{count} last")
            target = "/ws/c{}?subscribe-broadcast"
            told = await load.call("listen", **address, target=target, count=count)
            self.run.check_load(self.name, "listeners", told["busy"])
            figures: dict[str, float | None] = {
                "opened": told["opened"],
                "listening": told["seconds"],
            }
            if self.broker is not None:
                self.broker.kill()
                await trio.sleep(_AWAY)
                answered = await self.broker.start()
                figures["again"] = await self.broker.wait_subscribed(count) - answered
            await server.ask(f"{count} again")
            figures["deaf"] = (await load.call("unheard", times=2))["unheard"]
            if (await load.call("counters"))["lost"]:
                raise Failed("connections were lost with the broker")
        return figures

    async def idle(self) -> dict[str, float | None]:
        """What an idle connection costs, as `benchmarks.idle` has it."""
        options, interval = self.run.options, self.run.options.interval
        count = options.connections
        async with self._both(interval) as (server, load, address):
            await load.call("counters")
            own = await own_cpu(server, min(OWN, interval))
            await load.call("connect", **address, target=TARGET, count=warm_up(count))
            before = server.pss()
            await load.call("connect", **address, target=TARGET, count=count)
            await trio.sleep(interval)
            beat, _ = await beats(self.run, self.name, server, load, own)
            memory = (server.pss() - before) / count / 1024
        return {"memory": memory, "cpu": 1e6 * beat.total}


async def _measure(run: Run, name: str) -> Mapping[str, float | None]:
    async with contextlib.AsyncExitStack() as stack:
        broker = None if name == "memory" else await stack.enter_async_context(open_broker())
        way = _Way(run, name, broker)
        figures = await way.publishing()
        if name in ("memory", "redis"):
            for part in (way.latency, way.fanout, way.channels, way.idle):
                figures |= await part()
    return figures


async def _run(run: Run) -> None:
    async def measure(name: str) -> Mapping[str, float | None]:
        return await _measure(run, name)

    with run.progress(run.options.rounds * len(run.peers)):
        await run.alternate(measure)


COMMAND = Command(
    "backends",
    "over memory, and over a broker",
    Options(
        connections=2000, channels=5000, messages=5000, seconds=5.0, interval=4.0, peers=BACKENDS
    ),
    Options(
        connections=300,
        channels=500,
        messages=1000,
        seconds=1.0,
        interval=0.5,
        rounds=1,
        peers=BACKENDS,
    ),
    ("connections", "channels", "messages", "seconds", "interval"),
    lambda _: FIGURES,
    lambda _: GOALS,
    _run,
    "redis",
)
