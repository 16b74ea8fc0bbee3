"""A WebSocket server for Trio in which every connection knows when it is dead."""

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

__all__ = [
    "Heartbeat",
    "Closed",
    "EndReason",
    "TrioBeatError",
    "ConnectionClosed",
    "BackendError",
    "UnknownBackend",
    "Connection",
    "SlowPolicy",
    "Statistics",
    "Hub",
    "HubStatistics",
    "open_hub",
]
