"""What a server holds at most, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .._checks import check_kind, check_seconds, check_whole
from .._connection.shared import SlowPolicy
from .._exceptions import EndReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server holds at most. No limit can be switched off.

    Args:
        connections: open WebSocket connections; beyond that a peer is refused with 503.
        pending: handshakes under way, and as many sockets again that speak plain HTTP; then 503.
        handshake_timeout: seconds for TLS, the first request's headers, and the `admit` of `serve`;
            then 408.
        message_size: bytes of a message that a peer sends; beyond that it is closed with 1009.
        message_timeout: seconds that a message may take from its first byte to its last, and one
            more for each KiB of it that has come; beyond that its peer is closed with 1013. Time
            counts while the server waits for the rest, and is checked at each beat.
        unfinished: bytes of all messages that have not come whole yet; beyond that the peer whose
            message began first is closed with 1013.
        inbound: messages that wait for a handler before the peer feels back-pressure.
        outbox: bytes that wait for a peer's socket before `slow_policy` applies.
        slow_policy: what happens to a peer whose outbox is full.
    """

    connections: int = 10_000
    pending: int = 1024
    handshake_timeout: float = 10.0
    message_size: int = 2**20
    message_timeout: float = 60.0
    unfinished: int = 2**26
    inbound: int = 16
    outbox: int = 2**20
    slow_policy: SlowPolicy = SlowPolicy.DISCONNECT

    def __post_init__(self) -> None:
        for name in (
            "connections",
            "pending",
            "message_size",
            "unfinished",
            "inbound",
            "outbox",
        ):
            check_whole(name, getattr(self, name))
        check_seconds("handshake_timeout", self.handshake_timeout)
        check_seconds("message_timeout", self.message_timeout)
        check_kind("slow_policy", self.slow_policy, SlowPolicy, "a SlowPolicy")


class ServerStatistics(NamedTuple):
    """A server at one moment."""

    connections: int  #: open WebSocket connections
    pending: int  #: handshakes under way
    http: int  #: sockets that speak plain HTTP
    accepted: int  #: connections so far
    ended: dict[EndReason, int]  #: connections so far, by how they ended
    refused: dict[int, int]  #: peers so far, by HTTP status
    dropped: int  #: messages that the policy `drop-oldest` dropped
    handler_errors: int  #: handlers that failed and ended their own connection only
    unfinished: int  #: bytes of messages of which not all has come
