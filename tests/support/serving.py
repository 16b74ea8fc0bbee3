"""A server that runs for the length of a test, over TCP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

from trio_beat import Heartbeat, Server, open_hub, serve
from trio_beat._connection.handler import Handler

#: Every beat is a moment of real time for a virtual clock that is patient.
RARELY: Final = Heartbeat(3600)


@asynccontextmanager
async def serving(handler: Handler | None = None, **options: Any) -> AsyncIterator[Server]:
    """Serve while the context lasts.

    Args:
        handler: None: there is a hub, one of its own where none is given.
        options: those of `trio_beat.serve`; the heartbeat is a slow one where none is given.
    """
    options.setdefault("heartbeat", RARELY)
    async with AsyncExitStack() as stack:
        if handler is None and "hub" not in options:
            options["hub"] = await stack.enter_async_context(open_hub())
        nursery = await stack.enter_async_context(trio.open_nursery())
        server = await nursery.start(partial(serve, handler, 0, **options))
        assert isinstance(server, Server)
        yield server
        nursery.cancel_scope.cancel()


async def deserted(server: Server) -> None:
    """Wait until no peer is left; fails where that takes longer than any peer is given."""
    with trio.fail_after(30):
        # A pending socket has become a connection after the first pause.
        await trio.sleep(0.25)
        while any(server.statistics()[:2]):  # noqa: ASYNC110 - it has no event
            await trio.sleep(0.25)


async def ask(port: int, request: bytes) -> bytes:
    """Send bytes, and give back all that is answered."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        return b"".join([bytes(data) async for data in stream])


def status(answer: bytes) -> int:
    """The status of an answer, which must be whole."""
    head, _, body = answer.partition(b"\r\n\r\n")
    version, code, _ = head.split(b" ", 2)
    assert version == b"HTTP/1.1"
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head
    assert b"\r\nConnection: " in head
    assert body.endswith(b"\n")
    return int(code)
