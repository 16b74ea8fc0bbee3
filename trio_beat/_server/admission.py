"""From a pending socket to a connection, to HTTP, or to a refusal.

1. One time limit covers the first request and the application's `admit`. If the request has come
   with its socket and nothing is waited for, no limit is set.
2. Nothing is read while the application is asked. If the peer leaves meanwhile, its connection ends
   at once after it; its socket is pending no longer than the time limit.
3. A peer of too many handshakes is refused before anything else, and its socket is closed at once.
4. Anything wrong with a request is a `Refused`, which is sent here and nowhere else. What is wrong
   is decided by the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from .._channels.grammar import below
from .._checks import check_kind
from .._connection.consumer import Consumer
from .._connection.life import Life
from .._exceptions import Refused
from .._log import get_logger
from .._protocol.compression import Compression, CompressionStatistics
from .._protocol.deflate import Deflate
from .._protocol.extensions import Negotiation
from .._protocol.handshake import accept
from .._protocol.head import Head, fields
from .._protocol.headers import EXTENSIONS
from .._protocol.refusal import closing_response, refusal_response
from .._protocol.request import Request, release
from .consumers import Admitted
from .gate import RefuseBy, TimeLimit
from .limited import Limited
from .parts import Parts
from .pending import FirstRequest, PendingSocket
from .proxies import Proxies, asked_for
from .service import Service

_log = get_logger("trio_beat.server")


class _Handshake(NamedTuple):
    """A request that may become a connection."""

    request: Request | None  #: None: the application will not see it
    subprotocol: str | None
    deflate: Deflate | None  #: how messages are compressed; None: they are not
    response: bytes


class _Attempt:
    """A socket that wants to become a connection."""

    __slots__ = ("handshake", "pending")

    def __init__(self, pending: PendingSocket) -> None:
        self.pending = pending
        #: None until it is seen that the request is one for a target that is there.
        self.handshake: _Handshake | None = None


class Admission:
    """Decides what becomes of pending sockets.

    Args:
        parts: what the server's sockets share.
        service: serves the connections.
        proxies: tell who the client is.
        subprotocols: that the server speaks, the preferred one first.
        compression: of messages, for peers that offer it; None: there is none.
        refuse_by: how a peer is refused with 401 or 403.
        http_prefix: a request whose path does not begin with it is HTTP; None: no request is.
        http_only: each request is HTTP.
    """

    def __init__(
        self,
        parts: Parts,
        service: Service,
        proxies: Proxies,
        subprotocols: Sequence[str],
        *,
        compression: Compression | None = None,
        refuse_by: RefuseBy,
        http_prefix: str | None,
        http_only: bool = False,
    ) -> None:
        self._parts = parts
        self._service = service
        self._gate = service.gate
        self._proxies = proxies
        self._subprotocols = subprotocols
        if compression is not None:
            check_kind("compression", compression, Compression, "a Compression, or None")
        self._negotiation = None if compression is None else Negotiation(compression)
        self._refuse_by = refuse_by
        self._http_prefix = http_prefix
        self._http_only = http_only

    @property
    def compression(self) -> CompressionStatistics | None:
        """What was compressed so far; None: it is off."""
        return None if self._negotiation is None else self._negotiation.statistics()

    async def admit(self, pending: PendingSocket) -> Life | FirstRequest | None:
        """Read a pending socket's first request, and act on it.

        Args:
            pending: the socket; the caller closes it where nothing came of it.

        Returns:
            A connection that is to be run, a request that is HTTP, or None.
        """
        attempt = _Attempt(pending)
        try:
            first = pending.read_head_nowait()
            if first is not None and self._is_http(first.head):
                return first
            if first is None or self._gate.waits:
                return await self._gate.in_time(partial(self._admit_in_time, attempt, first))
            handshake = self._check(attempt, first.head)
            consumer = self._gate.admit_nowait(_asked(first, handshake))
            return self._connection(pending, handshake, consumer, first)
        except Refused as refusal:
            # An application may raise one object again and again.
            refusal.__traceback__ = refusal.__context__ = None
            self._service.places.leave(pending.place)
            if isinstance(refusal, Limited) and refusal.limit == "handshake_rate":
                # Many come: none is lingered for.
                self._service.refusals.refuse_nowait(pending, refusal)
                return None
            self._service.refusals.note(pending.peer, refusal)
            await pending.answer(self._answer(refusal, attempt.handshake), self._parts.turns)
        except OSError as exc:
            _log.debug("%s left: %s", pending.peer, exc)
        return None

    def _answer(self, refusal: Refused, handshake: _Handshake | None) -> bytes:
        if self._refuse_by == "close" and handshake is not None and refusal.status in (401, 403):
            return handshake.response + closing_response(refusal)
        return refusal_response(refusal)

    async def _admit_in_time(
        self, attempt: _Attempt, first: FirstRequest | None, limit: TimeLimit
    ) -> Life | FirstRequest | None:
        pending = attempt.pending
        if first is None:
            await pending.begin()
            first = await pending.read_head(self._parts.turns)
        if first is None or self._is_http(first.head):
            return first
        handshake = self._check(attempt, first.head)
        consumer, identity = await self._gate.admit(_asked(first, handshake), pending.place, limit)
        life = self._connection(pending, handshake, consumer, first)
        life.expire_at(None if identity is None else identity.expires_at)
        return life

    def _is_http(self, head: Head) -> bool:
        if self._http_prefix is None:
            return self._http_only
        return below(head.target.partition("?")[0], self._http_prefix) is None

    def _check(self, attempt: _Attempt, head: Head) -> _Handshake:
        """See that a request is a handshake for a target that is there, and that there is room."""
        pending, parsed = attempt.pending, fields(head.raw)
        client = self._proxies.client(pending, parsed)
        pending.client_name = client.peer
        self._gate.check_arrival(client)
        deflate = extension = None
        if self._negotiation is not None:
            deflate, extension = self._negotiation.answer(parsed.get_all(EXTENSIONS))
        response, subprotocol = accept(head, self._subprotocols, parsed, extension)
        pending.place = self._gate.enter(head.target, client)
        request = None
        if self._gate.wants_requests:
            head, parsed = asked_for(head, parsed, client.host)
            request = Request(head, client.peer, secure=client.scheme == "https", parsed=parsed)
        attempt.handshake = _Handshake(request, subprotocol, deflate, response)
        self._gate.check_origin(client, parsed)
        return attempt.handshake

    def _connection(
        self,
        pending: PendingSocket,
        handshake: _Handshake,
        consumer: Consumer,
        first: FirstRequest,
    ) -> Life:
        parts, deflate = self._parts, handshake.deflate
        transport = pending.transport(parts.reads, parts.poller, first.behind, deflate)
        if deflate is not None:
            deflate.counts.accepted += 1
        if handshake.request is not None:
            release(handshake.request, transport.peer)
        return Life(
            transport,
            self._service.shared,
            consumer,
            path=first.head.target,
            response=handshake.response,
        )


def _asked(first: FirstRequest, handshake: _Handshake) -> Admitted:
    return Admitted(first.head.target, handshake.subprotocol, handshake.request, None)
