"""What a server holds at most, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .._checks import check_kind, check_rate, check_seconds, check_whole
from .._connection.pacing import RatePolicy
from .._connection.shared import SlowPolicy
from .._exceptions import EndReason
from .._protocol.compression import CompressionStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server holds at most.

    The limits of addresses, users, rates and channels are off where they are 0; no other one can be
    switched off.

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
        connections_per_address: open WebSockets of an address (of IPv6: of a /64), with those that
            are being admitted; beyond that 429. None: 1,000, except for loopback, Unix and private
            addresses, where a proxy may stand for everybody.
        connections_per_user: the same of a user (`Identity.user`), as `admit` tells it: a peer that
            `Connection.renew` makes a user later is not counted.
        handshake_rate: WebSocket handshakes a second of an address, which may save up those of four
            seconds; beyond that 429. None: 50, with the same exception.
        message_rate: messages a second of a connection, which may save up those of two seconds.
            Beyond that its reader waits. Text heartbeats and control frames are not counted.
        byte_rate: the same for bytes that are received, with frames and (over TLS) records.
        rate_policy: what happens to a connection that is held back so for 30 seconds without a
            break of one: ``disconnect``: it is closed with 1008. ``wait``: it waits on.
        channels: of a hub that one connection subscribes or publishes to; beyond that 403.
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
    connections_per_address: int | None = None
    connections_per_user: int = 0
    handshake_rate: float | None = None
    message_rate: float = 0.0
    byte_rate: float = 0.0
    rate_policy: RatePolicy = "disconnect"
    channels: int = 128

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
        if self.connections_per_address is not None:
            check_whole("connections_per_address", self.connections_per_address, least=0)
        check_whole("connections_per_user", self.connections_per_user, least=0)
        check_whole("channels", self.channels, least=0)
        if self.handshake_rate is not None:
            check_rate("handshake_rate", self.handshake_rate)
        check_rate("message_rate", self.message_rate)
        check_rate("byte_rate", self.byte_rate)
        if self.rate_policy not in ("disconnect", "wait"):
            text = "it must be 'disconnect' or 'wait'"
            raise ValueError(f"rate_policy is {self.rate_policy!r}; {text}")
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
    limited: dict[str, int]  #: times so far that a peer met a limit, by the field of `Limits`
    compression: CompressionStatistics | None  #: None: it is off
