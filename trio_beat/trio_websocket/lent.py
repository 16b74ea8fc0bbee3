"""Connections over a WebSocket that trio-websocket has accepted, and that the service runs."""

from __future__ import annotations

from typing import Protocol

from .._connection.beating import Engine
from .._connection.consumer import Consumer
from .._exceptions import Closed


class Below(Protocol):
    """The stream below trio-websocket, see `ServiceStream`."""

    def attach(self, engine: Engine) -> None: ...
    def conclude(self, closed: Closed, *, between: bool) -> None: ...


class LentConsumer(Consumer):
    """A handler's consumer, or a hub's; trio-websocket may send beside it, and learns of the end.

    Args:
        consumer: what it stands for.
        stream: below trio-websocket.
    """

    __slots__ = ("_consumer", "_stream")

    def __init__(self, consumer: Consumer, stream: Below) -> None:
        self._consumer = consumer
        self._stream = stream

    @property
    def failure(self) -> BaseException | None:  # type: ignore[override]
        return self._consumer.failure

    def forget_failure(self) -> None:
        self._consumer.forget_failure()

    @property
    def user(self) -> str | None:
        return self._consumer.user

    @property
    def session(self) -> str | None:
        return self._consumer.session

    async def opened(self, engine: Engine) -> None:
        await self._consumer.opened(engine)
        self._stream.attach(engine)

    def received_nowait(self, message: str | bytes) -> bool:
        return self._consumer.received_nowait(message)

    async def received(self, engine: Engine, message: str | bytes) -> None:
        await self._consumer.received(engine, message)

    async def finished(self, engine: Engine) -> None:
        await self._consumer.finished(engine)

    def closed(self, engine: Engine) -> None:
        assert engine.closed is not None
        try:
            self._consumer.closed(engine)
        finally:
            self._stream.conclude(engine.closed, between=True)
