"""An application that is asked over HTTP, played byte by byte."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
#: What is done when a request has come; then the connection is closed.
Script = Callable[[Stream], Awaitable[object]]


def answer(status: int, body: str | bytes = b"", *headers: str) -> bytes:
    """An answer that is whole."""
    data = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


def says(data: bytes) -> Script:
    """Send some bytes."""

    async def script(stream: Stream) -> None:
        await stream.send_all(data)

    return script


async def nothing(stream: Stream) -> None:
    """Wait until the other side leaves."""
    while await stream.receive_some():
        pass


class Application:
    """A server that answers each request by a script.

    Attributes:
        script: for the next requests.
        requests: that have come.
        connections: how many there were.
        present: how many are open.
    """

    def __init__(self, script: Script, context: ssl.SSLContext | None) -> None:
        self.script = script
        self.requests: list[str] = []
        self.connections = self.present = 0
        self.port = 0
        self._context = context

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/hook"

    def headers(self) -> dict[str, str]:
        """Those of the last request; names in lower case."""
        _, *lines = self.requests[-1].removesuffix("\r\n\r\n").split("\r\n")
        pairs = [(name.lower(), value) for name, _, value in (li.partition(": ") for li in lines)]
        assert len(pairs) == len(dict(pairs))
        return dict(pairs)

    async def asked(self, count: int) -> None:
        """Wait until so many requests have come."""
        with trio.fail_after(60):
            while len(self.requests) < count:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.01)

    async def deserted(self) -> None:
        """Wait until no connection is open."""
        with trio.fail_after(60):
            while self.present:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.1)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._play, listeners)

    async def _play(self, tcp: trio.SocketStream) -> None:
        self.connections += 1
        self.present += 1
        stream: Stream = tcp
        if self._context is not None:
            stream = trio.SSLStream(tcp, self._context, server_side=True, https_compatible=True)
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                data = await stream.receive_some()
                if not data:
                    return
                head += data
            self.requests.append(head.decode("latin-1"))
            await self.script(stream)
            await stream.aclose()
        except trio.BrokenResourceError:
            pass  # the other side has left
        finally:
            tcp.socket.close()
            self.present -= 1


@asynccontextmanager
async def playing(
    script: Script, context: ssl.SSLContext | None = None
) -> AsyncIterator[Application]:
    """Run an application until the context ends.

    Args:
        script: for each request.
        context: for TLS; None: without.
    """
    async with trio.open_nursery() as nursery:
        application = Application(script, context)
        await nursery.start(application.run)
        yield application
        nursery.cancel_scope.cancel()
