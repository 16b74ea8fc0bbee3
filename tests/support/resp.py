"""RESP2 as tests speak it to a broker: a few lines that owe nothing to what is tested."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio


class ReplyError(Exception):
    """The broker's reply is an error; the first word of the text is its kind."""


class Client:
    """A connection to a broker. Replies are `bytes`, `int`, `None`, or a list of them.

    Args:
        stream: that of the connection; whoever opened it closes it.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._data = bytearray()

    async def ask(self, *words: str | bytes | int) -> Any:
        """Send a command and wait for its reply.

        Raises:
            ReplyError: the reply is an error.
            ConnectionError: the broker has ended the connection.
        """
        await self.send(*words)
        return await self.receive()

    async def send(self, *words: str | bytes | int) -> None:
        """Send a command; raises `ConnectionError` like `ask`."""
        with _translated():
            await self._stream.send_all(encode(*words))

    async def receive(self) -> Any:
        """Wait for the next reply, or message of a subscription; raises like `ask`."""
        while True:
            try:
                reply, size = decode(self._data)
            except IndexError:
                pass
            else:
                del self._data[:size]
                if isinstance(reply, ReplyError):
                    raise reply
                return reply
            with _translated():
                chunk = await self._stream.receive_some()
            if not chunk:
                raise ConnectionResetError("the broker closed the connection")
            self._data += chunk


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except trio.BrokenResourceError as error:
        raise ConnectionResetError("the connection is broken") from error


@asynccontextmanager
async def open_client(host: str, port: int, tls: ssl.SSLContext | None) -> AsyncIterator[Client]:
    """Connect to a broker; the connection is closed with the context."""
    stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
    try:
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_hostname=host, https_compatible=True)
        yield Client(stream)
    finally:
        await trio.aclose_forcefully(stream)


def encode(*words: str | bytes | int) -> bytes:
    """A command."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    head = b"*%d\r\n" % len(parts)
    return head + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def decode(data: bytes | bytearray) -> tuple[Any, int]:
    """The first reply in `data`, and its size; an error is returned as `ReplyError`.

    Raises:
        IndexError: the reply is incomplete.
    """
    return _decode(bytes(data), 0)


def _decode(data: bytes, start: int) -> tuple[Any, int]:
    end = data.find(b"\r\n", start)
    if end < 0:
        raise IndexError(start)
    kind, head, end = data[start : start + 1], data[start + 1 : end], end + 2
    match kind:
        case b"+":
            return head, end
        case b"-":
            return ReplyError(head.decode()), end
        case b":":
            return int(head), end
        case b"$" if int(head) >= 0:
            size = int(head)
            if len(data) < end + size + 2:
                raise IndexError(start)
            return data[end : end + size], end + size + 2
        case b"*" if int(head) >= 0:
            items = []
            for _ in range(int(head)):
                item, end = _decode(data, end)
                items.append(item)
            return items, end
        case b"$" | b"*":
            return None, end
    raise ValueError(f"no reply: {data[start : start + 100]!r}")


def pairs(reply: list[bytes]) -> Iterator[tuple[str, str]]:
    """Names and values that follow one another in a reply."""
    return zip(
        (name.decode() for name in reply[::2]),
        (value.decode() for value in reply[1::2]),
        strict=True,
    )
