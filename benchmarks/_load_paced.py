"""The load, with messages at a given pace, and listeners of many channels.

Run as ``python -m benchmarks._load_paced``, and asked like `benchmarks._load`.
"""

from __future__ import annotations

import contextlib
import gc
import select
import time
from typing import Any, Final

from ._client import Client
from ._frames import frame
from ._load import Generator
from ._statistics import percentile

_SEQUENCE: Final = 8  #: digits that number a message, at its beginning


class PacedGenerator(Generator):
    """Knows some commands more."""

    def __init__(self) -> None:
        super().__init__()
        #: Messages that listeners have had.
        self._heard = 0

    def pace(
        self, publisher: str, subscriber: str, count: int, rate: float, burst: int, size: int
    ) -> dict[str, Any]:
        """Publish at a pace that does not wait for the server, and note when messages come.

        Args:
            publisher: beginning of the targets of those that publish, in turn.
            subscriber: of those that subscribe.
            count: of messages.
            rate: messages a second.
            burst: so many are sent at once.
            size: bytes of each.
        """
        sources, subscribers = self._some(publisher), self._some(subscriber)
        latencies, sent = list[float](), list[float]()
        messages = [
            frame(1, b"%0*d" % (_SEQUENCE, number) + b"x" * (size - _SEQUENCE))
            for number in range(count)
        ]

        def received(client: Client, data: memoryview, begin: int, finish: int) -> None:
            latencies.append(time.monotonic() - sent[int(bytes(data[begin : begin + _SEQUENCE]))])

        self._received = received
        begun, cpu = time.monotonic(), time.process_time()
        for number, message in enumerate(messages):
            if number % burst == 0:
                self._turn_until_due(begun + number / rate)
            sent.append(time.monotonic())
            self._send(sources[number % len(sources)], message)
        expected = count * len(subscribers)
        with contextlib.suppress(TimeoutError):
            self._turn_until(lambda: len(latencies) >= expected, patience=10.0)
        took = time.monotonic() - begun
        busy = (time.process_time() - cpu) / took
        self._received = self._ignore
        if not latencies:
            raise RuntimeError("no message was delivered")
        latencies.sort()
        return {
            "busy": busy,
            "rate": count / (sent[-1] - begun + 1 / rate),
            "lost": expected - len(latencies),
            "p50": percentile(latencies, 50),
            "p99": percentile(latencies, 99),
        }

    def listen(self, host: str, port: int, target: str, count: int) -> dict[str, Any]:
        """Open connections, and wait until each has had a message.

        Returns:
            Seconds until all were open, and until all had one.
        """

        def received(client: Client, data: memoryview, begin: int, finish: int) -> None:
            client.count += 1
            self._heard += 1

        self._received = received
        begun, cpu = time.monotonic(), time.process_time()
        opened = self.connect(host, port, target, count)["seconds"]
        if self.unheard(1)["unheard"]:
            raise RuntimeError("not every listener has had its channel's last message")
        seconds = time.monotonic() - begun
        busy = (time.process_time() - cpu) / seconds
        return {"opened": opened, "seconds": seconds, "busy": busy}

    def unheard(self, times: int) -> dict[str, Any]:
        """After `listen`, wait until each has had so many messages; returns how many have not."""

        clients = self._clients.values()
        with contextlib.suppress(TimeoutError):
            self._turn_until(lambda: self._heard >= times * len(clients), patience=10.0)
        return {"unheard": sum(client.count != times for client in clients)}

    def _turn_until_due(self, due: float) -> None:
        # select(2) waits for microseconds, where epoll_wait(2) waits for milliseconds.
        while (left := due - time.monotonic()) > 0:
            ready, _, _ = select.select([self._epoll.fileno()], [], [], left)
            if ready:
                self._turn(0.0)


def main() -> None:
    """Serve commands."""
    # As in `benchmarks._load`.
    gc.disable()
    PacedGenerator().run()


if __name__ == "__main__":
    main()
