"""What idle connections cost inside of other programs, beside what is written there by hand.

Over trio-websocket that is its own recipe for a heartbeat, over ASGI an application that sends text
heartbeats and counts the answers: what Hypercorn itself sends, nobody checks an answer to. All of
them are asked over HTTP/1.1, by one load that answers PINGs as well as text heartbeats. A Unix
socket stands beside TCP, and ``trio_beat_keep_alive``, one line in a program, has no goal.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import trio

from ._processes import Load, Server, open_load, open_server
from ._suite import TARGET, Command, Figure, Goal, Options, Run, warm_up
from .idle import OWN, beats, own_cpu
from .peers import EMBEDDED
from .peers._server import HEARTBEAT

_FIGURES = (
    Figure("memory", "KiB"),
    Figure("cpu", "us/beat"),
    Figure("cpu_user", "user", 0),
    Figure("cpu_system", "system", 0),
)
_UNIX: Final = "trio_beat_unix"
#: Ours with a hub, with what is written by hand; with a handler they are called ``..._handler``.
_OVER: Final = {
    "trio_beat_trio_websocket": "trio_websocket",
    "trio_beat_accepted": "trio_websocket",
    "trio_beat_asgi": "hypercorn_text",
}
_GOALS = tuple(
    goal
    for figure in ("memory", "cpu")
    for goal in (
        *(Goal(figure, 1.15, by_hand, server=ours) for ours, by_hand in _OVER.items()),
        *(Goal(figure, 1.30, by_hand, server=f"{ours}_handler") for ours, by_hand in _OVER.items()),
        Goal(figure, 1.03, "trio_beat", server=_UNIX),
    )
)


async def _measure(run: Run, peer: str) -> dict[str, float | None]:
    options = run.options
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket") if peer == _UNIX else None
        async with (
            open_server(peer, "idle", interval=options.interval, uds=path) as server,
            open_load(module="benchmarks._load_text") as load,
        ):
            address: dict[str, Any] = {"host": "127.0.0.1", "port": server.port}
            if path is not None:
                address = {"host": path, "port": None}
            return await _costs(run, peer, server, load, address | {"target": TARGET})


async def _costs(
    run: Run, peer: str, server: Server, load: Load, address: dict[str, Any]
) -> dict[str, float | None]:
    options = run.options
    # Until the load has answered, it is still starting, and so may be the server.
    await load.call("answer", text=HEARTBEAT)
    own = await own_cpu(server, min(OWN, options.interval))
    address["spread"] = options.spread
    await load.call("connect", **address, count=warm_up(options.connections))
    before = server.pss()
    await load.call("connect", **address, count=options.connections)
    await trio.sleep(options.interval)
    beat, _ = await beats(run, peer, server, load, own)
    return {
        "memory": (server.pss() - before) / options.connections / 1024,
        "cpu": 1e6 * beat.total,
        "cpu_user": 1e6 * beat.user,
        "cpu_system": 1e6 * beat.system,
    }


async def _run(run: Run) -> None:
    async def measure(peer: str) -> dict[str, float | None]:
        return await _measure(run, peer)

    with run.progress(run.options.rounds * len(run.peers)):
        await run.alternate(measure)


COMMAND = Command(
    "embed",
    "idle connections inside of other programs",
    Options(connections=2000, interval=4.0, peers=EMBEDDED),
    Options(connections=400, interval=0.5, rounds=1, peers=EMBEDDED),
    ("connections", "interval", "spread"),
    lambda _: _FIGURES,
    lambda _: _GOALS,
    _run,
)
