"""What runs of an ASGI application while its lifespan lasts."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import Final

import trio

from .._channels.hub import Hub
from .._connection.ending import CLOSE_TIMEOUT
from .._exceptions import EndReason, Refused
from .._protocol.refusal import closing
from .._server.service import Entry, Service
from .._transports.asgi import ACCEPT, ASGITransport, Send, StartSoon

#: Seconds for which a call over HTTP/2 lasts behind its connection where nothing ever came: time
#: for a close over a bad network.
_SILENT_TIMEOUT: Final = 60.0


class Running:
    """An application that can serve.

    Args:
        service: serves the connections.
        hub: where they subscribe; None: there is none.
        start_soon: starts tasks that send and receive; they outlive connections, not the lifespan.
    """

    def __init__(self, service: Service, hub: Hub | None, start_soon: StartSoon) -> None:
        self.service = service
        self.hub = hub
        self.start_soon = start_soon
        #: Calls of the application that serve a connection.
        self._calls = 0
        self._deserted = trio.Event()

    def run(self, entry: Entry, transport: ASGITransport) -> Awaitable[None]:
        """Run the connection of a peer that was admitted just now; `leave` comes next, always.

        No coroutine of its own, of which each quiet connection would keep a frame.
        """
        self._calls += 1
        return self.service.run(entry, transport, ACCEPT)

    async def refuse_by_close(
        self, transport: ASGITransport, send: Send, refusal: Refused, subprotocol: str | None
    ) -> None:
        """Open the WebSocket of a peer that was refused, and close it; then as `leave`.

        Args:
            transport: to the peer; nothing was sent.
            send: the server's.
            refusal: with 401 or 403.
            subprotocol: what the handshake agrees on.
        """
        self._calls += 1
        try:
            frame = transport.close_frame(*closing(refusal))  # what comes is dropped from now on
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
            await send({"type": "websocket.close", "code": frame.code, "reason": frame.reason})
        finally:
            await self.leave(transport)

    async def leave(self, transport: ASGITransport) -> None:
        """Let what is left of a connection go out: the call may return then.

        Where a peer sends on a stream of HTTP/2 whose call has returned, Hypercorn 0.18 fails, with
        all streams of that connection. So such a call lasts until the server knows that the stream
        has ended: no longer than the HTTP/2 connection. But Hypercorn does not tell the end of a
        stream on which DATA came before the handshake was accepted, nor anything else of it. There
        a call, and with it Hypercorn's task for the TCP connection, would last for ever.
        """
        try:
            if transport.shares:
                await transport.leave(math.inf, silent=_SILENT_TIMEOUT)
            else:
                await transport.leave(CLOSE_TIMEOUT, silent=CLOSE_TIMEOUT)
        finally:
            self._calls -= 1
            if not self._calls:
                self._deserted.set()

    async def _wait_deserted(self) -> None:
        while self._calls:
            self._deserted = trio.Event()
            await self._deserted.wait()

    async def drain(self, grace: float) -> None:
        """Refuse handshakes, close the connections with 1001, and wait for their ends.

        Args:
            grace: seconds that this may take.
        """
        self.service.draining.set()
        self.service.gate.interrupt()
        with trio.move_on_after(grace):
            await self.service.drain(grace)
            await self._wait_deserted()

    async def give_up(self) -> None:
        """End the connections at once: what they need has ended, or was cancelled."""
        self.service.draining.set()
        self.service.gate.interrupt()
        by, code, reason = EndReason.SHUTDOWN, 1001, "server is shutting down"
        if self.hub is not None:
            by, code, reason = EndReason.BACKEND_LOST, 1012, "hub has ended, connect again"
        for connection in list(self.service.connections):
            connection.end_nowait(by, code, reason)
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self._wait_deserted()
