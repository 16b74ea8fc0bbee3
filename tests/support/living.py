"""Handlers and peers for the suite of all ways to a connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from websockets.frames import Opcode

from tests.support.peer import Peer
from tests.support.ways import BEATS, Place, Way
from trio_beat import (
    Closed,
    Connection,
    Hub,
    open_hub,
)

BEAT = str(BEATS.message)
#: Seconds for what only bytes are waited for.
SOON = 30.0


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
