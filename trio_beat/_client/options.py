"""The arguments of `connect` and `reconnecting`, checked."""

from __future__ import annotations

from dataclasses import dataclass

from .._checks import check_kind, check_seconds, check_whole
from .._heartbeat import Heartbeat
from .._protocol.compression import Compression
from .destination import Destination


@dataclass(frozen=True, slots=True)
class Options:
    """How a client connects, and the limits of its connections; see `connect`."""

    destination: Destination
    heartbeat: Heartbeat
    connect_timeout: float
    message_size: int
    inbound: int
    outbox: int
    compression: Compression | None

    def __post_init__(self) -> None:
        check_kind("heartbeat", self.heartbeat, Heartbeat, "a Heartbeat")
        for name in ("message_size", "inbound", "outbox"):
            check_whole(name, getattr(self, name))
        if self.compression is not None:
            check_kind("compression", self.compression, Compression, "a Compression, or None")
        check_seconds("connect_timeout", self.connect_timeout, endless=True)
