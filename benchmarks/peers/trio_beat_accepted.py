"""trio-beat with its hub, over WebSockets that trio-websocket has accepted."""

from __future__ import annotations

import trio
from trio_websocket import WebSocketRequest

from trio_beat.trio_websocket import TrioWebSocketService

from ._server import parse
from .trio_beat_trio_websocket import main


async def serve(service: TrioWebSocketService, request: WebSocketRequest) -> None:
    await service.run(await request.accept())


if __name__ == "__main__":
    trio.run(main, parse("idle"), None, serve)
