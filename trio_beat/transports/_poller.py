"""One epoll for all sockets of a server.

`trio.lowlevel.wait_readable` registers a socket anew each time, and keeps two coroutines and a
closure for as long as it waits: a good half of what the waiting of an idle connection costs. Here
a socket is registered once, edge-triggered (epoll(7)), and a reader parks in its watch; one task
waits for all of them, by waiting for the epoll itself.

An edge is told once, so whatever it told is kept until the reader waits again:

1. An edge that finds nobody waiting makes the watch ready, and the next wait returns at once.
2. A read that fills the buffer may have left something: `Watch.more` makes the watch ready.
3. A shorter read has taken all (epoll(7), question 9), except that the end of the stream may stand
   behind it, or what follows an urgent mark (tcp(7): a read stops there). Once the peer has hung
   up, or sent a mark, the watch stays ready until a read finds nothing (`Watch.empty`).
4. Should bytes lie in the kernel although the reader waits, a beat sees them and wakes it.
5. Where the last read brought much work, or a reader need not wait, it takes a turn first: all
   peers together cause a few pieces of work in each pass of the scheduler, while a peer that sends
   little is woken at once.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Awaitable
from typing import Final, Self

import outcome
import trio

from .._turns import Turns

_EDGES: Final = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
#: Behind a short read there may be more.
_STAYS: Final = select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
#: Readers that are woken before other tasks get a turn, for the reason of the metronome's `_TURN`.
_MOST_EVENTS: Final = 64


class Poller:
    """Wakes readers; nothing runs until `run` does.

    A context manager that closes the epoll; no watch may outlive it.

    Args:
        turns: for the work that a peer can cause much of.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._epoll = select.epoll()
        self._watches: dict[int, Watch] = {}

    def watch(self, sock: socket.socket) -> Watch:
        """Watch a non-blocking socket until `Watch.close`."""
        fd = sock.fileno()
        self._epoll.register(fd, _EDGES)
        watch = self._watches[fd] = Watch(self, fd)
        return watch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._epoll.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wake readers until cancelled."""
        epoll, watches = self._epoll, self._watches
        task_status.started()
        while True:
            await trio.lowlevel.wait_readable(epoll)
            for fd, flags in epoll.poll(0, _MOST_EVENTS):
                # An edge of a socket that was closed since is nobody's.
                if (watch := watches.get(fd)) is not None:
                    watch._edge(stays=flags & _STAYS != 0)  # noqa: SLF001 - one mechanism

    def _forget(self, fd: int) -> None:
        del self._watches[fd]
        self._epoll.unregister(fd)


class Watch:
    """One socket's place in a poller."""

    __slots__ = ("_fd", "_in_turn", "_poller", "_ready", "_stays", "_task")

    def __init__(self, poller: Poller, fd: int) -> None:
        self._poller = poller
        self._fd = fd
        self._task: trio.lowlevel.Task | None = None
        self._ready = False
        #: A read does not make it less ready.
        self._stays = False
        #: The next wait ends with a turn.
        self._in_turn = False

    def wait(self) -> Awaitable[None]:
        """Wait until the socket may be readable; not a coroutine function, see `Seat.beat`.

        Returns:
            An awaitable, which raises `OSError` when the watch is closed meanwhile.
        """
        if self._ready or self._in_turn:
            return self._wait_in_turn()
        return self._park()

    def _park(self) -> Awaitable[None]:
        self._task = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105

    async def _wait_in_turn(self) -> None:
        if not self._ready:
            await self._park()
            self._ready = True
        await self._poller._turns.take()  # noqa: SLF001 - one mechanism
        # Only now: a reader that is cancelled has not read, and the edge is not told again.
        self._ready, self._in_turn = self._stays, False

    def more(self) -> None:
        """There may be more to read: the next wait returns at once, as soon as it has a turn."""
        self._ready = True

    async def wait_writable(self) -> None:
        """Wait until the socket takes bytes, in place of `wait`: a read has to write first.

        That is seldom: what the peer sends meanwhile is not told, so that nobody is woken in vain.
        """
        epoll, watches = self._poller._epoll, self._poller._watches  # noqa: SLF001
        if watches.get(self._fd) is not self:
            raise ConnectionAbortedError("socket was closed")
        epoll.modify(self._fd, select.EPOLLOUT | select.EPOLLET)
        self._ready = self._stays = False
        self._task = trio.lowlevel.current_task()
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        finally:
            if watches.get(self._fd) is self:
                # All that there is to read is told again, and whether the peer has hung up.
                epoll.modify(self._fd, _EDGES)

    def busy(self) -> None:
        """What was read has brought much work: the next wait ends with a turn."""
        self._in_turn = True

    def empty(self) -> None:
        """A read found nothing: only another edge makes the watch ready."""
        self._ready = self._stays = False

    def wake(self) -> None:
        """Wake the reader, since there is something to read."""
        self._edge(stays=False)

    def close(self) -> None:
        """Watch no more, before the socket is closed; whoever waits gets an `OSError`."""
        self._poller._forget(self._fd)  # noqa: SLF001
        self._ready = self._stays = True
        if self._task is not None:
            task, self._task = self._task, None
            closed = ConnectionAbortedError("socket was closed")
            trio.lowlevel.reschedule(task, outcome.Error(closed))

    def _edge(self, *, stays: bool) -> None:
        self._stays |= stays
        if self._task is None:
            self._ready = True
        else:
            task, self._task = self._task, None
            self._ready = self._stays
            trio.lowlevel.reschedule(task)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
