"""One epoll for all sockets of a server.

`trio.lowlevel.wait_readable` registers a socket anew each time, and keeps two coroutines and a
closure while it waits: half of what an idle connection's wait costs. Here a socket is registered
once, edge-triggered (epoll(7)), and a reader parks in its watch. One task waits for all sockets, by
waiting for the epoll itself. It asks a reader before it wakes it (`Parking`): most of what comes is
read in place.

An edge is reported once, so it is kept until the reader waits again:

1. An edge that finds no reader waiting makes the watch ready, and the next wait reads at once.
2. A read that fills the buffer may have left something: `Watch.more` makes the watch ready.
3. A shorter read has taken all (epoll(7), question 9), except that the end of the stream may stand
   behind it, or what follows an urgent mark (tcp(7): a read stops there). Once the peer has hung
   up, or sent a mark, the watch stays ready until a read finds nothing (`Watch.empty`).
4. Should bytes lie in the kernel although the reader waits, a beat sees them and wakes it.
5. Where the last read brought much work, or a reader need not wait, it is woken and takes a turn
   first: all peers together cause a few pieces of work in each pass of the scheduler, while a peer
   that sends little is read at once. Reads that bring much for the first time are
   counted over all sockets, and after a few of them other tasks get a turn.
"""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Final, Self

import outcome
import trio

from .._parking import Parking
from .._protocol.events import Event
from .._turns import Turns
from . import Take, awake

assert not TYPE_CHECKING or sys.platform == "linux"  # the rest is checked there only

_EDGES: Final = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
#: Behind a short read there may be more.
_STAYS: Final = select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
#: Readers that are asked before other tasks get a turn, for the reason of the metronome's `_TURN`.
_MOST_EVENTS: Final = 64
#: Reads that brought much work, or many bytes, the same.
_MOST_PIECES: Final = 4


class Poller:
    """Asks and wakes readers; nothing runs until `run` does.

    A context manager that closes the epoll; no watch may outlive it.

    Args:
        turns: for the work that a peer can cause much of.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}
        #: Reads that brought much work since other tasks had a turn.
        self._pieces = 0

    def watch(self, sock: socket.socket) -> Watch:
        """Watch a non-blocking socket until `Watch.close`."""
        fd = sock.fileno()
        self._epoll.register(fd, _EDGES)
        watch = self._watches[fd] = Watch(self, fd)
        return watch

    @property
    def watches(self) -> int:
        """How many sockets are watched."""
        return len(self._watches)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._epoll.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask and wake readers until cancelled."""
        epoll, watches = self._epoll, self._watches
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(epoll)
            self._pieces = 0
            for fd, flags in epoll.poll(0, _MOST_EVENTS):
                if self._pieces >= _MOST_PIECES:
                    await trio.lowlevel.checkpoint()
                    self._pieces = 0
                # A socket may have been closed since: to another one of its number an edge does no
                # harm.
                if (watch := watches.get(fd)) is not None:
                    watch._edge(stays=flags & _STAYS != 0)  # noqa: SLF001 - one mechanism

    def _forget(self, fd: int) -> None:
        del self._watches[fd]
        self._epoll.unregister(fd)


class Watch(Parking[Sequence[Event]]):
    """One socket's place in a poller."""

    __slots__ = ("_fd", "_in_turn", "_poller", "_ready", "_stays")

    def __init__(self, poller: Poller, fd: int) -> None:
        super().__init__()
        self._poller = poller
        self._fd = fd
        self._ready = False
        #: A read does not make it less ready.
        self._stays = False
        #: The next read takes a turn.
        self._in_turn = False

    def wait(self, take: Take = awake) -> Awaitable[Sequence[Event]]:
        """Wait until `take` gives something back; not a coroutine function, see `Parking.park`.

        Args:
            take: asked, in any task, each time the socket may be readable.

        Returns:
            An awaitable of what it gave back; of nothing where there is to be waited anew. It
            raises `OSError` when the watch is closed meanwhile.
        """
        if self._ready or self._in_turn:
            return self._take_in_turn(take)
        return self.park(take)

    async def _take_in_turn(self, take: Take) -> Sequence[Event]:
        if not self._ready:
            await self.park(awake)
            self._ready = True
        await self._poller._turns.take()  # noqa: SLF001 - one mechanism
        # Only now: a reader that is cancelled has not read, and the edge is not told again.
        self._ready, self._in_turn = self._stays, False
        return take() or ()

    def more(self) -> None:
        """There may be more to read: the next read comes at once, as soon as it has a turn."""
        self._ready = True

    def busy(self) -> None:
        """What was read has brought much work: the next read takes a turn."""
        self._in_turn = True
        self.large()

    def large(self) -> None:
        """What was read has taken a while: others are not kept waiting for more than a few such."""
        self._poller._pieces += 1  # noqa: SLF001

    def empty(self) -> None:
        """A read found nothing: only another edge makes the watch ready."""
        self._ready = self._stays = False

    def wake(self) -> None:
        """Wake the reader without asking, since there is something to read."""
        self._ready = True
        if self.parked:
            self.resume(outcome.Value(()))

    def close(self) -> None:
        """Watch no more, before the socket is closed; a reader that waits gets an `OSError`."""
        self._poller._forget(self._fd)  # noqa: SLF001
        self._ready = self._stays = True
        if self.parked:
            self.resume(outcome.Error(ConnectionAbortedError("socket was closed")))

    def _edge(self, *, stays: bool) -> None:
        self._stays |= stays
        if self.parked and not self._in_turn:
            self._ready = self._stays
            self.offer()
            if self._ready and self.parked:
                self.wake()
        else:
            self.wake()
