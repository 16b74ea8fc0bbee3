"""How messages and control items reach the peer.

A transport knows its socket and the protocol; it knows neither heartbeats nor channels. One that
needs tasks has a `run` for them, and starts none outside of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from .._exceptions import EndReason
from .._protocol.deflate import Deflate
from .._protocol.events import END_OF_STREAM, Event, Failure, PeerClose, Pong
from .._protocol.messages import BeatFrames, CloseFrame, Outgoing, Reply, Response
from .outbox import Outbox

__all__ = [
    "Transport",
    "Owner",
    "Take",
    "awake",
    # what is received
    "Event",
    "Pong",
    "PeerClose",
    "Failure",
    "END_OF_STREAM",
    # what is sent, besides messages; a `Reply` is received as well
    "Outgoing",
    "BeatFrames",
    "Reply",
    "CloseFrame",
    "Response",
]

#: Takes what has come, in any task; None: the reader's task need not know of it.
Take = Callable[[], Sequence[Event] | None]


def awake() -> Sequence[Event]:
    """Wake the reader, which then calls `receive_nowait` itself."""
    return ()


class Owner(Protocol):
    """The connection that a transport is of."""

    def end_nowait(self, by: EndReason, code: int, reason: str) -> None:
        """End it, without waiting."""


class Transport(ABC):
    """One peer's bytes.

    One task reads (`wait_readable`, whose `take` calls `receive_nowait`), and one at a time waits
    in `drain`; `write_nowait` is for when no task does. All that waits here may be cancelled at any
    time. A transport over bytes writes the frames of the items that it is given; another one may
    write their contents.

    A failing socket shows as `OSError`, with the cause kept.
    """

    __slots__ = ()

    #: How messages to the peer are compressed; None: they are not.
    deflate: Deflate | None = None

    def attach(self, owner: Owner) -> None:  # noqa: B027 - most need no owner
        """Take the connection, which begins; `abort` lets go of it.

        For a transport that cannot hold the peer back while the reader is away: it keeps what comes
        within a limit, and ends the connection beyond that.
        """

    @abstractmethod
    def wait_readable(self, take: Take = awake) -> Awaitable[Sequence[Event]]:
        """Wait until there is something for the reader's task to do.

        Args:
            take: asked each time there may be something to receive, or the peer is gone; it must
                not wait, and may be asked in another task.

        Returns:
            An awaitable of what `take` gave back that was not None; or of nothing, and then there
            may be more to wait for.

        Raises:
            OSError: the socket failed, or was aborted. And what `take` raises.
        """

    @abstractmethod
    def receive_nowait(self) -> Sequence[Event] | None:
        """Take what has come.

        Returns:
            Events in the order in which they came; none where what came is not yet whole, and
            None where not a byte came. `PeerClose`, `Failure` and `END_OF_STREAM` are the last.

        Raises:
            OSError: the socket failed.
        """

    @property
    def read_size(self) -> int:
        """Bytes that `receive_nowait` has read, as long as nothing was awaited since.

        0 where that is not known: how fast the peer sends is then not limited in bytes.
        """
        return 0

    @abstractmethod
    def write_nowait(self, item: Outgoing) -> int:
        """Write what can be written without waiting.

        Args:
            item: what to write, from its first byte on.

        Returns:
            How many bytes of its frame were taken, from 0 to all of them.

        Raises:
            OSError: the socket failed.
        """

    @abstractmethod
    async def drain(self, outbox: Outbox) -> None:
        """Wait until something can be written, and write some of the outbox.

        What waits in the outbox may change until then.

        Raises:
            OSError: the socket failed, or was aborted.
        """

    @abstractmethod
    def rest(self, *, heard: bool, listening: bool = True) -> None:
        """A beat has passed: free what an idle connection need not keep.

        Args:
            heard: the peer was not silent in it, and need not be compared with at the next beat.
            listening: the reader waits for bytes, and the process did not stand still: a message
                that is not finished may be counted as the peer's delay.
        """

    @abstractmethod
    def stirring(self, queued: int) -> bool:
        """Whether the silence may not be the peer's.

        Asked only when a beat is about to be counted as missed, or the next one may be, and just
        before a PING is sent.

        Args:
            queued: bytes that wait in the outbox, and so before that PING.

        Returns:
            True when bytes from the peer lie unread in the kernel, so that the reader is woken
            (but not at two beats in a row), or when the PING that was sent after this was last
            asked still stands behind other bytes of which the peer takes some. (The peer's kernel
            takes them; what of it the peer's program has read, and whether it has come to the
            PING, cannot be known.)
        """

    def lossy(self) -> bool:
        """Whether TCP sends again what the network has lost, so that an answer may be late.

        Asked behind `stirring`, about the same beat.

        Returns:
            True when since the beat before something that we sent was sent again, and something
            was acknowledged. (A peer's kernel does that for a process that is stopped, too.)
        """
        return False

    @abstractmethod
    def unreachable(self, patience: float) -> bool:
        """The kernel's verdict, for when the reader does not listen and silence says nothing.

        Asked at beats. (``TCP_USER_TIMEOUT`` would also end a peer that is there, and does not
        read for so long.)

        Args:
            patience: seconds.

        Returns:
            True when what was sent is not acknowledged, and nothing at all has been, for so long.
        """

    @abstractmethod
    def close_frame(self, code: int, reason: str) -> CloseFrame:
        """Begin the closing handshake.

        Args:
            code: close code (RFC 6455, section 7.4).
            reason: at most 123 bytes of UTF-8.

        Returns:
            The close frame, to be written by the caller; nothing but it may follow.
        """

    @abstractmethod
    async def finish(self, *, answered: bool) -> None:
        """After the close frame was written, let the peer have it before the socket goes.

        Args:
            answered: the peer's close frame has come or need not be waited for; else it is
                waited for first.

        Waits for the peer without limit: the caller sets one.

        Raises:
            OSError: the socket failed.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close the socket at once; what waits for it raises `OSError`. Idempotent."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """The peer's address, for people."""
