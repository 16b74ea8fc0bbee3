"""What a connection of trio-beat consists of, object by object.

Run as ``python -m benchmarks._objects``, a server that answers each line of its standard input with
a census of its objects, as a line of JSON; `census` compares one with connections to one without.
"""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Final

import trio

from trio_beat import Heartbeat, Limits, open_hub, serve

from ._processes import open_load, open_module

#: Seconds between beats; the census is taken when several have passed.
_INTERVAL: Final = 0.5
#: Objects of which there are fewer for each connection do not belong to a connection.
_FEWEST: Final = 0.5
Census = dict[str, tuple[int, int]]


def _name(value: object) -> str:
    match value:
        case CoroutineType():
            return f"coroutine {value.__qualname__}"
        case AsyncGeneratorType() | GeneratorType():
            return f"generator {value.__qualname__}"
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def take_census() -> Census:
    """Count all objects, and their bytes, by kind.

    Those that the collector does not track, such as bytes and numbers, are found through those
    that it does.
    """
    gc.collect()
    tracked = gc.get_objects()
    seen = {id(value) for value in tracked}
    counts, sizes = Counter[str](), Counter[str]()
    ours = {id(tracked), id(seen), id(counts), id(sizes)}

    def add(value: object) -> None:
        name = _name(value)
        counts[name] += 1
        sizes[name] += sys.getsizeof(value)

    for value in tracked:
        if id(value) in ours:
            continue
        add(value)
        for referent in gc.get_referents(value):
            if not gc.is_tracked(referent) and id(referent) not in seen:
                seen.add(id(referent))
                add(referent)
    return {name: (counts[name], sizes[name]) for name in counts}


async def census(connections: int) -> list[list[str | float]]:
    """Rows of a table: object, how many a connection has, and their bytes; at last the sum.

    Args:
        connections: to take the average of.

    Raises:
        Failed: the server or the load could not do it.
    """
    async with open_module("benchmarks._objects") as server, open_load() as load:
        arguments = {
            "host": "127.0.0.1",
            "port": server.port,
            "target": "/ws/x?subscribe-broadcast",
        }
        await load.call("connect", **arguments, count=10)
        await trio.sleep(3 * _INTERVAL)
        before: Census = await server.ask("census")
        await load.call("connect", **arguments, count=connections)
        await trio.sleep(3 * _INTERVAL)
        after: Census = await server.ask("census")
    rows = list[list[str | float]]()
    for name, (count, size) in after.items():
        count_before, size_before = before.get(name, (0, 0))
        each = (count - count_before) / connections
        if each >= _FEWEST:
            rows.append([name, round(each, 1), round((size - size_before) / connections)])
    rows.sort(key=lambda row: row[2], reverse=True)
    counts, sizes = (sum(float(row[column]) for row in rows) for column in (1, 2))
    return [*rows, ["all of these", round(counts, 1), round(sizes)]]


async def _main() -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[object]) -> None:
            limits = Limits(pending=4096, connections=20_000)
            heartbeat = Heartbeat(_INTERVAL)
            await serve(
                None, 0, hub=hub, heartbeat=heartbeat, limits=limits, task_status=task_status
            )

        server = await nursery.start(run)
        print(f"port {server.port}", flush=True)
        async for _ in trio.lowlevel.FdStream(sys.stdin.fileno()):
            print(json.dumps(take_census()), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_main)
