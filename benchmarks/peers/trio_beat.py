"""trio-beat: its hub, as the bundled server runs it."""

import sys

import trio

from trio_beat import Heartbeat, Limits, open_hub, serve


async def main(interval: float) -> None:
    async with open_hub() as hub, trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[object]) -> None:
            await serve(
                None,
                0,
                hub=hub,
                heartbeat=Heartbeat(interval),
                limits=Limits(visitors=4096),
                task_status=task_status,
            )

        server = await nursery.start(run)
        print(server.port, flush=True)


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]))
