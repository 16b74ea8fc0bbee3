"""The consumers of a server's connections: channels of its hub, or its handler.

1. A target that leads nowhere is refused before the application is asked for anything.
2. What a peer may do is decided after it is known who it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, NamedTuple, NoReturn

from .._channels.consumer import HubConsumer
from .._channels.grammar import ChannelError, parse_target
from .._channels.hub import Hub
from .._channels.permissions import Permissions, Permit, TooManyChannelsError
from .._connection.consumer import Consumer
from .._connection.handler import Handler, HandlerConsumer, HandlerErrors
from .._exceptions import Refused
from .._identity import Identity
from .._protocol.request import Request
from .limited import Limited


class Admitted(NamedTuple):
    """What is known of a peer that has been admitted."""

    target: str  #: path and query, as they were sent
    subprotocol: str | None  #: what the handshake agrees on
    request: Request | None  #: None: nothing needs it
    identity: Identity | None  #: None: it is anonymous, or nobody asked


class Consumers(ABC):
    """Makes the consumers of a server's connections.

    Attributes:
        waits: whether that may take time: the application is asked.
        keeps_requests: whether consumers keep their requests.
    """

    waits: bool = False
    keeps_requests: bool = False

    @abstractmethod
    def check(self, target: str) -> None:
        """Raise `Refused` where no peer can be connected to a target."""

    @abstractmethod
    def make_nowait(self, admitted: Admitted) -> Consumer:
        """Make a consumer where that takes no time; raises `Refused`."""

    async def make(self, admitted: Admitted) -> Consumer:
        """Make a consumer; raises `Refused`, and what the application raises."""
        return self.make_nowait(admitted)


class HubConsumers(Consumers):
    """Connects peers to channels.

    Args:
        hub: where the channels are.
        prefix: what the path of a target begins with.
        permissions: what peers may do.
        most: channels of a connection; 0: any number.
    """

    def __init__(self, hub: Hub, prefix: str, permissions: Permissions, most: int = 0) -> None:
        self._hub = hub
        self._prefix: Final = prefix
        self._permit = Permit(permissions, most)
        self.waits = self._permit.waits

    def check(self, target: str) -> None:
        try:
            parse_target(target, self._prefix)
        except ChannelError as exc:
            _refuse(exc)

    def make_nowait(self, admitted: Admitted) -> Consumer:
        try:
            target = parse_target(admitted.target, self._prefix)
            channels = self._permit.permit_nowait(target, admitted.identity)
        except ChannelError as exc:
            _refuse(exc)
        return HubConsumer(self._hub, channels, admitted.identity)

    async def make(self, admitted: Admitted) -> Consumer:
        if not self.waits:
            return self.make_nowait(admitted)
        assert admitted.request is not None
        try:
            target = parse_target(admitted.target, self._prefix)
            channels = await self._permit.permit(target, admitted.identity, admitted.request)
        except ChannelError as exc:
            _refuse(exc)
        return HubConsumer(self._hub, channels, admitted.identity)


class HandlerConsumers(Consumers):
    """Runs a handler for each peer.

    Args:
        handler: the application's.
        inbound: messages that may wait for it.
        errors: what to do with its exceptions.
    """

    keeps_requests = True

    def __init__(self, handler: Handler, inbound: int, errors: HandlerErrors) -> None:
        self._handler = handler
        self._inbound = inbound
        self._errors = errors

    def check(self, target: str) -> None:
        """Any target will do: what it means is the handler's."""

    def make_nowait(self, admitted: Admitted) -> Consumer:
        return HandlerConsumer(
            self._handler,
            self._inbound,
            self._errors,
            admitted.subprotocol,
            admitted.request,
            admitted.identity,
        )


class NoConsumers(Consumers):
    """There are no WebSockets."""

    def check(self, target: str) -> None:
        raise Refused(404, "no WebSocket here")

    def make_nowait(self, admitted: Admitted) -> Consumer:
        raise Refused(404, "no WebSocket here")


def _refuse(exc: ChannelError) -> NoReturn:
    if isinstance(exc, TooManyChannelsError):
        raise Limited("channels", exc.status, str(exc)) from None
    logged = "channels that are not there, or not allowed"
    raise Refused(exc.status, str(exc), logged=logged) from None
