"""The floor: one bare Trio task for each socket, which waits until it is readable."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Final

import trio

from ._server import BACKLOG, Options, announce, parse

#: To the key of RFC 6455, section 1.3.
RESPONSE: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


async def idle(sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):
        await trio.lowlevel.wait_readable(sock)
        sock.recv(65536)
        sock.send(RESPONSE)
        while True:
            await trio.lowlevel.wait_readable(sock)
            if not sock.recv(65536):
                break


async def main(options: Options) -> None:
    with socket.create_server((options.host, 0), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        announce(listener.getsockname()[1])
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock, _ = listener.accept()
                        sock.setblocking(False)
                        nursery.start_soon(idle, sock)


if __name__ == "__main__":
    options = parse()
    if options.role != "idle" or options.cert is not None:
        print("the floor is idle, and without TLS", file=sys.stderr)
        sys.exit(2)
    trio.run(main, options)
