"""The load: very many WebSocket clients in one process, as cheap as Python can make them.

Run as ``python -m benchmarks._load`` by `benchmarks._processes.Load`, which sends commands as lines
of JSON and gets one line of JSON for each. All clients stand in one epoll and answer every PING,
also while no command runs.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import random
import select
import ssl
import time
from array import array
from collections.abc import Callable
from typing import Any, Final

from ._client import Address, Client, dial, request, response_end, time_opening
from ._commands import COMMANDS, Commands
from ._frames import frame
from ._statistics import median, percentile

#: Handshakes under way at once: enough to keep a server busy, and less than any backlog.
_WINDOW: Final = 256
_BUFFER: Final = 1 << 18
#: Seconds that a server may take for anything at all.
_PATIENCE: Final = 60.0
#: Seconds after which a server is given up that lets in too few to be ready within `_PATIENCE`.
_TRIAL: Final = 20.0
_SEGMENT: Final = 1400  #: bytes, as over Ethernet
_SEQUENCE: Final = 8  #: digits that number a message, at its beginning


def hopeless(done: int, count: int, seconds: float) -> bool:
    """Whether a server that let in so many in so many seconds cannot let in all in time."""
    return seconds > _TRIAL and done * _PATIENCE < count * seconds


class Generator:
    """All clients of this process, and what can be asked of them."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._clients: dict[int, Client] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._received: Callable[[Client, memoryview, int, int], None] = self._ignore
        self._pings = 0
        self._lost = 0
        self._beats: array[float] | None = None
        self._tls: ssl.SSLContext | None = None
        self._server_name = ""
        self._buffer = memoryview(bytearray(_BUFFER))

    # The commands.

    def connect(
        self,
        host: str,
        port: int | None,
        target: str,
        count: int,
        ca: str | None = None,
        spread: float = 0.0,
        receive_buffer: int | None = None,
    ) -> dict[str, Any]:
        """Open connections, as fast as the server lets them in or spread over some seconds.

        Without a port, `host` is the path of a Unix socket.
        """
        address = host if port is None else (host, port)
        if ca is not None and self._tls is None:
            self._tls = ssl.create_default_context(cafile=ca)
            self._server_name = host
        waiting: set[int] = set()
        begun, cpu, opened, done = time.monotonic(), time.process_time(), 0, 0
        ciphers: set[str] = set()
        while done < count:
            took = time.monotonic() - begun
            if took > _PATIENCE + spread or (not spread and hopeless(done, count, took)):
                raise TimeoutError(
                    f"only {done} of {count} connections were let in within {took:.0f} s, "
                    f"and {_PATIENCE:g} s are not enough"
                )
            while opened < count and len(waiting) < _WINDOW:
                if spread and time.monotonic() < begun + spread * opened / count:
                    break
                client = self._dial(address, target.format(opened), receive_buffer)
                waiting.add(client.sock.fileno())
                opened += 1
            self._turn(0.005 if spread else 1.0)
            settled = {fd for fd in waiting if self._clients[fd].open}
            if any(self._clients[fd].gone for fd in waiting - settled):
                raise RuntimeError("the server closed a connection during its handshake")
            waiting -= settled
            done += len(settled)
            ciphers.update(self._cipher(fd) for fd in settled)
        seconds = time.monotonic() - begun
        busy = (time.process_time() - cpu) / seconds
        return {"seconds": seconds, "busy": busy, "ciphers": sorted(ciphers - {""})}

    def open_alone(
        self, host: str, port: int, target: str, count: int, ca: str | None = None
    ) -> dict[str, Any]:
        """Open and close connections one at a time, and tell how long one waits in the middle."""
        context = ssl.create_default_context(cafile=ca) if ca is not None else None
        seconds = [time_opening((host, port), target, context) for _ in range(count)]
        return {"seconds": median(seconds)}

    def counters(self) -> dict[str, Any]:
        """What has come so far."""
        return {
            "time": time.monotonic(),
            "cpu": time.process_time(),
            "pings": self._pings,
            "lost": self._lost,
            "open": sum(client.open for client in self._clients.values()),
        }

    def record_beats(self) -> dict[str, Any]:
        """Note from now on when PINGs come."""
        self._beats = array("d")
        return {}

    def beats(self, interval: float, bins: int) -> dict[str, Any]:
        """How many PINGs came in each part of the interval."""
        assert self._beats is not None
        histogram = [0] * bins
        for when in self._beats:
            histogram[int(when % interval / interval * bins) % bins] += 1
        self._beats = None
        return {"histogram": histogram}

    def echo(self, size: int, seconds: float, text: bool) -> dict[str, Any]:
        """Send a message on every connection, and the next one when it has come back."""
        payload = b"x" * size if text else random.randbytes(size)
        message = frame(1 if text else 2, payload)
        clients = [client for client in self._clients.values() if client.open]
        begun, cpu = time.monotonic(), time.process_time()
        end, messages, under_way = begun + seconds, 0, len(clients)

        def received(client: Client, data: memoryview, begin: int, finish: int) -> None:
            nonlocal messages, under_way
            if finish - begin != size or data[begin : begin + 8] != payload[:8]:
                raise RuntimeError(f"{finish - begin} bytes came back for {size}")
            messages += 1
            if time.monotonic() < end:
                self._send(client, message)
            else:
                under_way -= 1

        self._received = received
        for client in clients:
            self._send(client, message)
        self._turn_until(lambda: under_way == 0)
        self._received = self._ignore
        took = time.monotonic() - begun
        return {
            "messages": messages,
            "seconds": took,
            "busy": (time.process_time() - cpu) / took,
        }

    def pause(self, target: str) -> dict[str, Any]:
        """Read no more, where the target begins so."""
        for client in self._some(target):
            self._epoll.modify(client.sock.fileno(), 0)
        return {}

    def resume(self, target: str, count: int) -> dict[str, Any]:
        """Read again, and tell how many of so many messages are missing in the end."""
        clients = self._some(target)

        def received(client: Client, data: memoryview, begin: int, finish: int) -> None:
            client.count += int(bytes(data[begin : begin + _SEQUENCE])) == client.count

        self._received = received
        for client in clients:
            if client.gone is None:
                self._epoll.modify(client.sock.fileno(), select.EPOLLIN)
        with contextlib.suppress(TimeoutError):
            self._turn_until(lambda: all(c.count >= count or c.gone for c in clients), 10.0)
        self._received = self._ignore
        return {"lost": sum(count - client.count for client in clients)}

    def publish(
        self, publisher: str, slow: str, first: int, count: int, size: int
    ) -> dict[str, Any]:
        """Publish messages, each when all have the one before; note when each subscriber gets it.

        Args:
            publisher: target of the connection that publishes.
            slow: target of a connection that does not read; it is not waited for.
            first: number of the first message.
            count: of messages.
            size: bytes of each.
        """
        subscribers = [c for c in self._clients.values() if c.target not in (publisher, slow)]
        source = next(c for c in self._clients.values() if c.target == publisher)
        latencies: list[float] = []
        sent_at, missing, disorder, number = 0.0, 0, 0, b""
        for client in subscribers:
            client.count = 0

        def received(client: Client, data: memoryview, begin: int, finish: int) -> None:
            nonlocal missing, disorder
            latencies.append(time.monotonic() - sent_at)
            if data[begin : begin + _SEQUENCE] != number or finish - begin != size:
                disorder += 1
            client.count += 1
            missing -= 1

        def all_have_it() -> bool:
            return missing <= 0

        self._received = received
        cpu, begun = time.process_time(), time.monotonic()
        for index in range(first, first + count):
            number = b"%0*d" % (_SEQUENCE, index)
            message = frame(1, number + b"x" * (size - _SEQUENCE))
            missing, sent_at = len(subscribers), time.monotonic()
            self._send(source, message)
            try:
                self._turn_until(all_have_it, patience=10.0)
            except TimeoutError:
                break
        took = time.monotonic() - begun
        busy = (time.process_time() - cpu) / took
        self._received = self._ignore
        if not latencies:
            raise RuntimeError("no message was delivered")
        # Who got one twice, got another one not.
        disorder += sum(client.count > count for client in subscribers)
        latencies.sort()
        return {
            "seconds": took,
            "busy": busy,
            "delivered": len(latencies),
            "lost": count * len(subscribers) - len(latencies) + disorder,
            "p50": percentile(latencies, 50),
            "p99": percentile(latencies, 99),
            "worst": latencies[-1],
        }

    def send(self, target: str, texts: list[str]) -> dict[str, Any]:
        """Send texts on the connections whose target begins so."""
        for client in self._some(target):
            for text in texts:
                self._send(client, frame(1, text.encode()))
        return {}

    def mute(self, target: str) -> dict[str, Any]:
        """Answer no more: where the target begins so."""
        for client in self._some(target):
            client.mute = True
        return {}

    def trickle(self, target: str, size: int, seconds: float, parts: int) -> dict[str, Any]:
        """Send one large frame slowly: nothing else can be said meanwhile, not even a PONG."""
        data = frame(2, random.randbytes(size))
        step = len(data) // parts + 1
        now = time.monotonic()
        for client in self._some(target):
            client.mute = True
            for part in range(parts):
                chunk = data[part * step : (part + 1) * step]
                self._later(now + seconds * part / parts, client, chunk)
            self._later(now + seconds, client, None)
        return {}

    def last_sent(self, target: str) -> dict[str, Any]:
        """When they last sent a byte, by target, where it begins so."""
        return {client.target: client.last_sent for client in self._some(target)}

    def gone(self) -> dict[str, Any]:
        """When the server was seen to leave, by target."""
        return {c.target: c.gone for c in self._clients.values() if c.gone is not None}

    # What they are made of.

    def run(self) -> None:
        """Answer PINGs and commands until standard input ends."""
        self._epoll.register(COMMANDS, select.EPOLLIN)
        commands = Commands(self)
        while not self._turn(60.0) or commands.obey():
            pass

    def _some(self, target: str) -> list[Client]:
        return [client for client in self._clients.values() if client.target.startswith(target)]

    def _turn(self, timeout: float) -> bool:
        """Wait for something and deal with it; true when a command has come."""
        if self._timers:
            timeout = max(0.0, min(timeout, self._timers[0][0] - time.monotonic()))
        command = False
        for fd, flags in self._epoll.poll(timeout):
            if fd == COMMANDS:
                command = True
                continue
            client = self._clients[fd]
            if client.shaking:
                self._shake(client)
                continue
            if flags & select.EPOLLOUT:
                self._flush(client)
            if flags & ~select.EPOLLOUT and client.gone is None:
                self._read(client)
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
        return command

    def _turn_until(self, done: Callable[[], bool], patience: float = _PATIENCE) -> None:
        end = time.monotonic() + patience
        while not done():
            if time.monotonic() > end:
                raise TimeoutError("the server does not answer")
            self._turn(0.1)

    def _later(self, when: float, client: Client, chunk: bytes | None) -> None:
        def act() -> None:
            if chunk is None:
                client.mute = False
            elif client.gone is None:
                self._send(client, chunk)

        heapq.heappush(self._timers, (when, next(self._order), act))

    def _dial(self, address: Address, target: str, receive_buffer: int | None) -> Client:
        # Loopback's segments are so large that the server's kernel would take megabytes.
        segment = _SEGMENT if receive_buffer is not None else None
        sock = dial(address, segment, receive_buffer)
        client = self._clients[sock.fileno()] = Client(sock, target)
        client.shaking = self._tls is not None
        client.outgoing = bytearray(request(target))
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        return client

    def _shake(self, client: Client) -> None:
        """Go on with a TLS handshake; the request follows at once."""
        fd = client.sock.fileno()
        try:
            if not isinstance(client.sock, ssl.SSLSocket):
                assert self._tls is not None
                client.sock = self._tls.wrap_socket(
                    client.sock, server_hostname=self._server_name, do_handshake_on_connect=False
                )
            client.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._epoll.modify(fd, select.EPOLLIN)
        except ssl.SSLWantWriteError:
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            self._leave(client)
        else:
            client.shaking = False
            self._epoll.modify(fd, select.EPOLLIN | select.EPOLLOUT)
            self._flush(client)

    def _cipher(self, fd: int) -> str:
        """TLS version and cipher of a connection; empty without TLS."""
        sock = self._clients[fd].sock
        if not isinstance(sock, ssl.SSLSocket) or (cipher := sock.cipher()) is None:
            return ""
        return f"{sock.version()} {cipher[0]}"

    def _send(self, client: Client, data: bytes) -> None:
        client.last_sent = time.monotonic()
        if client.outgoing is not None:
            client.outgoing += data
            return
        try:
            taken = client.sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            taken = 0
        except OSError:
            self._leave(client)
            return
        if taken < len(data):
            client.outgoing = bytearray(data[taken:])
            self._epoll.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, client: Client) -> None:
        outgoing = client.outgoing
        if outgoing is None:
            return
        try:
            del outgoing[: client.sock.send(outgoing)]
        except (BlockingIOError, ssl.SSLWantWriteError):
            return
        except OSError:
            self._leave(client)
            return
        if not outgoing:
            client.outgoing = None
            self._epoll.modify(client.sock.fileno(), select.EPOLLIN)

    def _read(self, client: Client) -> None:
        while True:
            try:
                size = client.sock.recv_into(self._buffer)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                self._leave(client)
                return
            if not size:
                self._leave(client)
                return
            self._parse(client, self._buffer[:size])
            # What TLS has decrypted already, no epoll tells of.
            if not isinstance(client.sock, ssl.SSLSocket) or not client.sock.pending():
                return

    def _leave(self, client: Client) -> None:
        client.gone = time.monotonic()
        client.open = False
        self._lost += 1
        self._epoll.unregister(client.sock.fileno())

    def _parse(self, client: Client, data: memoryview) -> None:
        if client.incoming is not None:
            client.incoming += data
            data, client.incoming = memoryview(client.incoming), None
        begin, size = 0, len(data)
        if not client.open:
            begin = self._handshake(client, data)
            if not client.open:
                client.incoming = bytearray(data)
                return
        while size - begin >= 2:
            length, payload = data[begin + 1], begin + 2
            if length >= 126:
                payload += 2 if length == 126 else 8
                if payload > size:
                    break
                length = int.from_bytes(data[begin + 2 : payload], "big")
            end = payload + length
            if end > size:
                break
            opcode = data[begin] & 0x0F
            if opcode == 9:
                self._pinged(client, bytes(data[payload:end]))
            elif opcode < 8:
                self._received(client, data, payload, end)
            begin = end
        if begin < size:
            client.incoming = bytearray(data[begin:])

    def _handshake(self, client: Client, data: memoryview) -> int:
        end = response_end(bytes(data))
        if not end:
            return 0
        client.open = True
        client.last_sent = time.monotonic()
        return end

    def _count_beat(self) -> None:
        self._pings += 1
        if self._beats is not None:
            self._beats.append(time.monotonic())

    def _pinged(self, client: Client, payload: bytes) -> None:
        self._count_beat()
        if not client.mute:
            # A key of zeros: the load need not pay for a mask that hides nothing.
            self._send(client, bytes((0x8A, 0x80 | len(payload))) + b"\0\0\0\0" + payload)

    def _ignore(self, client: Client, data: memoryview, begin: int, finish: int) -> None:
        pass


def main() -> None:
    """Serve commands."""
    # Nothing here is cyclic garbage, and a collection would look like a slow server.
    gc.disable()
    Generator().run()


if __name__ == "__main__":
    main()
