"""picows on uvloop: its automatic pings."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import uvloop
from picows import (
    WSAutoPingStrategy,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

from ._server import BACKLOG, Options, announce, nap, parse, part, report_end

#: Bytes that `send_reuse_external_bytearray` wants before the payload.
_HEAD = 14


class Idle(WSListener):
    """What all roles have in common."""

    def __init__(self, request: WSUpgradeRequest) -> None:
        super().__init__()
        self.target = request.path.decode()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type != WSMsgType.PONG:
            self.on_data(transport, frame)

    def on_data(self, transport: WSTransport, frame: WSFrame) -> None:
        """A part of a message came, or a whole one."""


class Fanout(Idle):
    subscribers: ClassVar[set[WSTransport]] = set()

    def __init__(self, request: WSUpgradeRequest) -> None:
        super().__init__(request)
        self.subscribes, self.publishes = part(self.target)

    def on_ws_connected(self, transport: WSTransport) -> None:
        if self.subscribes:
            self.subscribers.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.subscribers.discard(transport)

    def on_data(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.publishes:
            # Room for a head is left, which saves it from copying the payload for each.
            buffer = bytearray(_HEAD) + frame.get_payload_as_memoryview()
            for subscriber in self.subscribers:
                if subscriber is not transport:
                    subscriber.send_reuse_external_bytearray(
                        frame.msg_type, buffer, _HEAD, frame.fin
                    )


class Echo(Idle):
    def on_data(self, transport: WSTransport, frame: WSFrame) -> None:
        transport.send(frame.msg_type, frame.get_payload_as_memoryview(), frame.fin)


class Detect(Idle):
    """Its handler is a task, since callbacks cannot wait; what it has not taken is kept for it."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._messages: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._task = asyncio.create_task(self._handle())

    def on_data(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            self._messages.put_nowait(frame.get_payload_as_utf8_text())
        else:
            self._messages.put_nowait(frame.get_payload_as_bytes())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        report_end(self.target)
        self._task.cancel()

    async def _handle(self) -> None:
        while True:
            message = await self._messages.get()
            await asyncio.sleep(nap(message))


LISTENERS = {"idle": Idle, "fanout": Fanout, "echo": Echo, "detect": Detect}


async def main(options: Options) -> None:
    server = await ws_create_server(
        LISTENERS[options.role],
        options.host,
        0,
        ssl=options.ssl_context(),
        backlog=BACKLOG,
        # What answers counts as data, so that this pings an idle peer every interval. The periodic
        # strategy would add the reply timeout to each, and no reply timeout may be longer.
        enable_auto_ping=True,
        auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
        auto_ping_idle_timeout=options.interval,
        auto_ping_reply_timeout=options.interval,
        # The least; a connection that needs more gets it.
        read_buffer_init_size=2048,
    )
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(parse()))
