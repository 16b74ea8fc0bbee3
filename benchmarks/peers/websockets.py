"""websockets on asyncio, compression off, its keepalive at the same interval."""

import asyncio
import logging
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main(interval: float) -> None:
    # The load leaves without a word at the end of a round, for each of which it logs a traceback.
    logging.getLogger("websockets.server").disabled = True
    subscribers: set[ServerConnection] = set()

    async def handler(connection: ServerConnection) -> None:
        assert connection.request is not None
        if "subscribe" in connection.request.path:
            subscribers.add(connection)
        try:
            async for message in connection:
                broadcast(subscribers, message)
        finally:
            subscribers.discard(connection)

    async with serve(
        handler,
        "127.0.0.1",
        0,
        compression=None,
        ping_interval=interval,
        ping_timeout=3 * interval,
        backlog=4096,
    ) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
