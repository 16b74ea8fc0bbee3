"""What every peer needs: its arguments, the lines it prints, and what targets and messages ask."""

from __future__ import annotations

import argparse
import logging
import ssl
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

#: Connections that may wait to be accepted.
BACKLOG: Final = 4096
#: Messages that may wait for one subscriber, where the library has no broadcast of its own.
QUEUE_SIZE: Final = 1024
#: The message with which a server beats that sends no PING; its peers send it back.
HEARTBEAT: Final = "--heartbeat--"


@dataclass(frozen=True, slots=True)
class Options:
    """A server's arguments."""

    role: str
    interval: float
    misses: int
    host: str
    cert: str | None
    key: str | None
    uds: str | None
    deflate: bool

    @property
    def patience(self) -> float:
        """Seconds that a peer may take to answer a ping."""
        return self.misses * self.interval

    def ssl_context(self) -> ssl.SSLContext | None:
        """What to serve TLS with; None: no TLS."""
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context


class Part(NamedTuple):
    """What a connection has to do with the fan-out."""

    subscribes: bool
    publishes: bool


def parse(*roles: str) -> Options:
    """Take the process's arguments, and turn logging off: a load leaves without a word.

    Args:
        roles: that this peer knows; none: all.
    """
    logging.disable()
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=roles or ("idle", "fanout", "echo", "detect"))
    parser.add_argument("--interval", type=float, required=True, help="seconds between pings")
    parser.add_argument("--misses", type=int, required=True, help="pings that may go unanswered")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--cert", help="serve TLS with this certificate")
    parser.add_argument("--key", help="its key, where that is in a file of its own")
    parser.add_argument("--uds", metavar="PATH", help="listen on this Unix socket instead")
    parser.add_argument("--deflate", action="store_true", help="compress, where it can")
    return Options(**vars(parser.parse_args()))


def announce(port: int) -> None:
    """Say that the server accepts."""
    print(f"port {port}", flush=True)


def report_end(target: str) -> None:
    """Say that the application has learnt that a connection has ended."""
    print(f"end {target} {time.monotonic()}", flush=True)


def part(target: str) -> Part:
    """Tell from a request's target who subscribes, and who publishes."""
    query = target.partition("?")[2]
    return Part("subscribe" in query, "publish" in query)


def nap(message: str | bytes) -> float:
    """Tell from a message for how many seconds its handler is to sleep."""
    if isinstance(message, str) and message.startswith("sleep "):
        return float(message.removeprefix("sleep "))
    return 0.0
