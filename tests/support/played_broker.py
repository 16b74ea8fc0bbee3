"""A broker's end of a connection, written by a test (RESP3)."""

from __future__ import annotations

from collections import deque

import trio
from hiredis import Reader
from trio.testing import MemoryReceiveStream, MemorySendStream


def reply(value: bytes | int | None) -> bytes:
    """A plain reply."""
    if value is None:
        return b"_\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    return b"$%d\r\n%b\r\n" % (len(value), value)


def error(text: str) -> bytes:
    """A refusal."""
    return b"-%b\r\n" % text.encode()


def push(*parts: bytes | int) -> bytes:
    """What comes without being asked for."""
    return b">%d\r\n" % len(parts) + b"".join(map(reply, parts))


def message(channel: bytes, payload: bytes) -> bytes:
    """A message of a channel."""
    return push(b"message", channel, payload)


def mapping(**fields: bytes | int) -> bytes:
    """A map, as HELLO answers."""
    items = b"".join(reply(name.encode()) + reply(value) for name, value in fields.items())
    return b"%%%d\r\n" % len(fields) + items


def hello(server: str = "valkey", version: str = "9.1.2", **others: bytes) -> bytes:
    """What a primary says of itself."""
    fields: dict[str, bytes] = {"mode": b"standalone", "role": b"master"} | others
    return mapping(server=server.encode(), version=version.encode(), proto=3, **fields)


class BrokerEnd:
    """Reads commands and writes what a broker would.

    Args:
        stream: the broker's end of a memory stream.
    """

    def __init__(self, stream: trio.StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
        self.stream = stream
        self._reader = Reader()
        self._commands: deque[list[bytes]] = deque()

    async def command(self) -> list[bytes]:
        """The next command."""
        while not self._commands:
            data = await self.stream.receive_some()
            assert data, "the connection was closed"
            self._reader.feed(bytes(data))
            while (item := self._reader.gets()) is not False:
                self._commands.append(item)
        return self._commands.popleft()

    async def send(self, *parts: bytes) -> None:
        """Write parts at once."""
        await self.stream.send_all(b"".join(parts))
