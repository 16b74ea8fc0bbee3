"""A connection's consumer that connects it to a hub, as its URL asks for."""

from __future__ import annotations

from .._connection.beating import Engine
from .._connection.consumer import Consumer
from .._exceptions import BackendError, EndReason
from .._identity import Identity
from .._log import get_logger
from .hub import Hub
from .permissions import Channels

_log = get_logger("trio_beat.hub")


class HubConsumer(Consumer):
    """Connects a connection to a hub.

    Args:
        hub: where its channels are.
        channels: which they are.
        identity: who the peer is, or None. Only its names are kept, so that a quiet connection
            costs little more than they do.
    """

    __slots__ = ("_channels", "_hub", "_session", "_user")

    def __init__(self, hub: Hub, channels: Channels, identity: Identity | None) -> None:
        self._hub = hub
        self._channels = channels
        self._user = None if identity is None else identity.user
        self._session = None if identity is None else identity.session

    @property
    def user(self) -> str | None:
        return self._user

    @property
    def session(self) -> str | None:
        return self._session

    async def opened(self, engine: Engine) -> None:
        try:
            await self._hub.subscribe(engine, self._channels.subscribe)
        except BackendError as exc:
            self._refuse(engine, exc)

    def received_nowait(self, message: str | bytes) -> bool:
        return not self._channels.publish

    async def received(self, engine: Engine, message: str | bytes) -> None:
        sender = None if self._channels.echo else engine
        try:
            for channel in self._channels.publish:
                await self._hub.publish(channel, message, sender=sender)
        except BackendError as exc:
            self._refuse(engine, exc)

    def _refuse(self, engine: Engine, exc: BackendError) -> None:
        # Not a warning for each of many: what happens to the backend, the backend says.
        _log.info("%s refused: %s (%r)", engine.peer, exc, exc.__cause__)
        why = "refuses it" if self._hub.available else "is away"
        engine.end_nowait(EndReason.REFUSED, 1013, f"backend {why}, try again later")

    def closed(self, engine: Engine) -> None:
        self._hub.unsubscribe(engine, self._channels.subscribe)
