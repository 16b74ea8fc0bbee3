"""The other side: many connections on one epoll, as cheap as Python can make them."""

from __future__ import annotations

import contextlib
import select
import socket
import time

_REQUEST = (
    "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MASK = b"\0\0\0\0"


class Load:
    """Connections to one server, which answer every PING."""

    def __init__(self, port: int) -> None:
        self._address = ("127.0.0.1", port)
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self.pings = 0
        self.bytes = 0
        self.lost = 0

    def connect(self, count: int, target: str, window: int = 256) -> float:
        """Open connections, `window` at a time, and return the seconds that it took."""
        request = _REQUEST.format(target=target).encode()
        waiting: set[int] = set()
        begun = time.perf_counter()
        opened = done = 0
        while done < count:
            while opened < count and len(waiting) < window:
                sock = socket.socket()
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(self._address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets[sock.fileno()] = sock
                self._epoll.register(sock.fileno(), select.EPOLLOUT)
                waiting.add(sock.fileno())
                opened += 1
            for fd, event in self._epoll.poll(5):
                if fd not in waiting:
                    self._answer(fd)
                elif event & select.EPOLLOUT:
                    self._sockets[fd].send(request)
                    self._epoll.modify(fd, select.EPOLLIN)
                else:
                    head, _, rest = self._sockets[fd].recv(4096).partition(b"\r\n\r\n")
                    if not head.startswith(b"HTTP/1.1 101"):
                        raise RuntimeError(f"handshake refused: {head!r}")
                    self._take(fd, rest)
                    waiting.discard(fd)
                    done += 1
        return time.perf_counter() - begun

    def run(self, seconds: float) -> None:
        """Answer PINGs."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            for fd, _ in self._epoll.poll(left):
                self._answer(fd)

    def receive(self, total: int, timeout: float) -> float:
        """Wait until so many bytes of messages have come, and return the seconds that it took."""
        begun = time.perf_counter()
        self.bytes = 0
        while self.bytes < total:
            if time.perf_counter() - begun > timeout:
                raise RuntimeError(f"only {self.bytes} of {total} bytes came")
            for fd, _ in self._epoll.poll(1):
                self._answer(fd)
        return time.perf_counter() - begun

    def send(self, message: bytes) -> None:
        """Send a text of fewer than 126 bytes on the connection that was opened last."""
        sock = self._sockets[next(reversed(self._sockets))]
        sock.sendall(bytes((0x81, 0x80 | len(message))) + _MASK + message)

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._epoll.close()

    def _answer(self, fd: int) -> None:
        data = self._sockets[fd].recv(65536)
        if data:
            self._take(fd, data)
        else:
            self.lost += 1
            self._epoll.unregister(fd)

    def _take(self, fd: int, data: bytes) -> None:
        while data:
            length = data[1]
            if data[0] == 0x89:
                self.pings += 1
                payload = data[2 : 2 + length]
                self._sockets[fd].send(bytes((0x8A, 0x80 | length)) + _MASK + payload)
            else:
                self.bytes += 2 + length
            data = data[2 + length :]
