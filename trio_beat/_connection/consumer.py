"""The contract between a connection and its application side."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .beating import Engine


class Consumer(ABC):
    """The application side of a connection.

    All of it runs in the connection's nursery, in this order: `opened`; then the messages, one at a
    time; `finished`, where the peer ends the connection; `closed`.
    """

    __slots__ = ()

    #: What the application raised, and the connection's nursery with it; None: nothing.
    failure: BaseException | None = None

    def forget_failure(self) -> None:  # noqa: B027 - most have none
        """Let go of `failure`, whose traceback refers back to this; it has been dealt with."""

    @property
    def user(self) -> str | None:
        """The peer's user; None: not known."""
        return None

    @property
    def session(self) -> str | None:
        """The key of the peer's session; None: there is none."""
        return None

    @abstractmethod
    async def opened(self, engine: Engine) -> None:
        """The peer is admitted; what is sent now follows the handshake's response.

        Args:
            engine: the connection: it sends, ends, and runs tasks (`start_soon`).
        """

    @abstractmethod
    def received_nowait(self, message: str | bytes) -> bool:
        """Take a message if that needs no waiting.

        Returns:
            False: `received` has to take it. This is asked outside of the reader's task.
        """

    @abstractmethod
    async def received(self, engine: Engine, message: str | bytes) -> None:
        """Take a message. While this waits the peer feels back-pressure, and is not judged."""

    async def finished(self, engine: Engine) -> None:  # noqa: B027 - most need no time
        """The peer sends no more: wait until what came before has been dealt with.

        It is cancelled after `CLOSE_TIMEOUT`. ``engine.closed`` says what has happened: the peer
        has closed; or, where it is None, it has broken the rules: the connection is open until this
        returns, and ends then.
        """

    @abstractmethod
    def closed(self, engine: Engine) -> None:
        """The connection has ended."""
