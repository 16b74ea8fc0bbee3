"""Waiting for sockets without an epoll: each reader waits by itself, with Trio's functions.

The watches have the interface of those of `epoll`. They are for the systems on which Trio waits
with kqueue (macOS, the BSDs) or with what Windows has, and for clients: an epoll, and a task for
it, is more than one connection saves by it. What is asked there before the reader is woken is asked
here in the reader's own task. So a quiet connection costs more than a server's with an epoll: its
reader is woken by each PONG, and keeps Trio's registration of the socket.

1. The system reports bytes for as long as they are there: there is no edge to keep. What is kept
   is `Watch.more`, which is about bytes that have left the kernel.
2. Turns are taken as in `epoll`.
3. A wait of Trio's is ended from outside by `trio.lowlevel.notify_closing`. It ends all waits for
   that socket, so that the one that writes has to look whether the socket was closed.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Self

import trio

from .._protocol.events import Event
from .._turns import Turns
from . import Take, awake


class Poller:
    """Makes watches.

    Args:
        turns: for the work that a peer can cause much of.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        #: How many sockets are watched.
        self.watches = 0

    def watch(self, sock: socket.socket) -> Watch:
        """Watch a non-blocking socket until `Watch.close`."""
        self.watches += 1
        return Watch(self, sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing is to be done; until cancelled."""
        task_status.started()
        await trio.sleep_forever()


class Watch:
    """One socket's reader."""

    __slots__ = ("_in_turn", "_poller", "_ready", "_socket", "_waiting")

    def __init__(self, poller: Poller, sock: socket.socket) -> None:
        self._poller = poller
        #: None once closed.
        self._socket: socket.socket | None = sock
        #: The reader waits in Trio.
        self._waiting = False
        self._ready = False
        #: The next read takes a turn.
        self._in_turn = False

    async def wait(self, take: Take = awake) -> Sequence[Event]:
        """Wait until `take` gives something back.

        Args:
            take: asked each time the socket may be readable.

        Returns:
            What it gave back; nothing where there is to be waited anew.

        Raises:
            OSError: the watch is closed meanwhile. And what `take` raises.
        """
        if self._ready or self._in_turn:
            return await self._take_in_turn(take)
        events: Sequence[Event] | None = None
        while events is None and not self._ready:
            await self._wait()
            if not self._ready:  # else it was woken
                events = take()
        return events or ()

    async def _take_in_turn(self, take: Take) -> Sequence[Event]:
        if not self._ready:
            await self._wait()
            self._ready = True
        await self._poller._turns.take()  # noqa: SLF001 - one mechanism
        # Only now: a reader that is cancelled has not read.
        self._ready = self._in_turn = False
        return take() or ()

    async def _wait(self) -> None:
        """Wait until the socket is readable, or the reader is woken."""
        if self._socket is None:
            raise ConnectionAbortedError("socket was closed")
        self._waiting = True
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except trio.ClosedResourceError:
            if self._socket is None:
                raise ConnectionAbortedError("socket was closed") from None
        finally:
            self._waiting = False

    def more(self) -> None:
        """There may be more to read: the next read comes at once, as soon as it has a turn."""
        self._ready = True

    def busy(self) -> None:
        """What was read has brought much work: the next read takes a turn."""
        self._in_turn = True

    def large(self) -> None:
        """What was read has taken a while: it was read in the reader's own step."""

    def empty(self) -> None:
        """A read found nothing: the reader waits for the socket."""
        self._ready = False

    def wake(self) -> None:
        """Wake the reader, since there is something to read."""
        self._ready = True
        if self._waiting and self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)

    def close(self) -> None:
        """Watch no more, before the socket is closed; a reader that waits gets an `OSError`."""
        self.wake()
        self._socket = None
        self._poller.watches -= 1
