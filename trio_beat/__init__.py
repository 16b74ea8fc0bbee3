"""A WebSocket server for Trio in which every connection knows when it is dead.

See `serve` and `open_hub`, and ``python -m trio_beat --help`` for the bundled server.
"""

from ._connection import Connection, SlowPolicy, Statistics
from ._exceptions import (
    BackendError,
    Closed,
    ConnectionClosed,
    EndReason,
    TrioBeatError,
    UnknownBackend,
)
from ._heartbeat import Heartbeat
from ._hub import Hub, HubStatistics, open_hub
from ._server import Limits, Server, ServerStatistics, serve

__all__ = [
    # serving
    "serve",
    "Server",
    "ServerStatistics",
    "Limits",
    "SlowPolicy",
    # a connection
    "Connection",
    "Statistics",
    "Heartbeat",
    "Closed",
    "EndReason",
    # channels
    "open_hub",
    "Hub",
    "HubStatistics",
    # exceptions
    "TrioBeatError",
    "ConnectionClosed",
    "BackendError",
    "UnknownBackend",
]
