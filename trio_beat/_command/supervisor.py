"""Runs workers, and replaces those that end: one loop, without Trio, threads or connections.

1. It keeps the listeners of all workers open: what waits at those of a dead one is accepted by the
   next. At first workers start one after the other; one that fails then ends the command.
2. A worker is judged as a peer is (`Verdict`): one whose loop stands still is killed.
3. One that drains on its own is replaced at once. One that does not end within the grace time is
   killed.
4. It forks, so that what workers have in common is in memory once. A worker leaves `run` as the
   supervisor does, with another result.
5. As the first process of a container it also reaps what others leave (waitpid(2)).
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from .._heartbeat import Verdict
from .._log import get_logger
from .notify import Manager
from .signals import QUITTING, RENEWING, STOPPING, ignore, take_no_notice
from .streams import complain, standard_error
from .worker import EVERY, LEAVING, READY, SIGNALS, Worker

assert sys.platform != "win32"  # which does not fork

_log = get_logger("trio_beat")

#: Seconds for which a worker's loop may stand still.
STILL: Final = 10
#: Seconds that a worker may take beyond the grace time, and where all end at once.
MARGIN: Final = 1.5
#: Seconds: the ceiling of the first pause before a worker is replaced, which doubles with each that
#: does not live for `_LIVED`, and the longest. Peers wait at its listeners meanwhile.
_FIRST: Final = 0.25
_LONGEST: Final = 5.0
_LIVED: Final = 10.0


@dataclass(slots=True)
class _Process:
    """A worker that runs."""

    pid: int
    channel: socket.socket
    started: float
    ready: bool = False
    leaving: float | None = None  #: when it told that it drains; None: it does not
    gone: bool = False  #: it tells nothing more
    killed: str = ""  #: why; empty while it was not
    verdict: Verdict = field(default_factory=lambda: Verdict(int(STILL / EVERY)))

    def __post_init__(self) -> None:
        self.verdict.listen()

    def hear(self) -> None:
        """Take what it has told."""
        try:
            told = self.channel.recv(4096)
        except BlockingIOError:
            return
        if told:
            self.ready |= READY in told
            if LEAVING in told and self.leaving is None:
                self.leaving = time.monotonic()
            self.verdict.heard()
            self.verdict.listen()
        else:
            self.gone = True

    def kill(self, why: str) -> None:
        if not self.killed:
            self.killed = why
            os.kill(self.pid, signal.SIGKILL)


@dataclass(slots=True)
class _Place:
    """One worker after the other, at the same listeners."""

    number: int
    listeners: Sequence[socket.socket]
    process: _Process | None = None
    leaving: list[_Process] = field(default_factory=list)  #: those before it that still drain
    due: float = 0.0  #: when the next one starts
    failures: int = 0  #: in a row

    def pause(self, lived: float) -> float:
        """Seconds until the next one starts, after one that has lived for so many."""
        if lived >= _LIVED:
            self.failures = 0
        longest: float = min(_LONGEST, _FIRST * 2**self.failures)
        self.failures = min(self.failures + 1, 8)
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, guards nothing


def supervise(
    listeners: Sequence[Sequence[socket.socket]],
    *,
    grace: float,
    announce: Callable[[], None],
    renew: Callable[[], bool],
    manager: Manager,
) -> int | Worker:
    """Run one worker for each set of listeners, until all have ended.

    Args:
        listeners: where each worker accepts; they are closed here and in all other workers.
        grace: seconds that draining may take.
        announce: called once, when all workers accept.
        renew: called at SIGHUP; returns whether the workers are to have it, too.
        manager: is told how the server is. Its watchdog is fed while every worker is judged alive.

    Returns:
        In the supervisor the exit code: 0 after a clean end, 1 where it was cut short, 2 where
        a worker did not start. In each worker what it is.
    """
    gc.collect()
    gc.freeze()  # what exists already is not touched by a collection, and stays shared
    with _signals() as wakeup:
        result = _Supervisor(listeners, grace, announce, renew, manager).run(wakeup)
        if isinstance(result, int):
            ignore(SIGNALS)
        return result


class _Supervisor:
    def __init__(
        self,
        listeners: Sequence[Sequence[socket.socket]],
        grace: float,
        announce: Callable[[], None],
        renew: Callable[[], bool],
        manager: Manager,
    ) -> None:
        self._places = [_Place(number, own) for number, own in enumerate(listeners, 1)]
        self._grace = grace
        self._announce = announce
        self._renew = renew
        self._manager = manager
        #: All workers have been ready.
        self._begun = False
        #: When those that still run are killed; None: it does not shut down.
        self._until: float | None = None
        self._at_once = False
        self._code = 0
        self._tick = time.monotonic() + EVERY

    def run(self, wakeup: socket.socket) -> int | Worker:
        while True:
            if (worker := self._start_due()) is not None:
                return worker
            if self._until is not None and not any(self._running()):
                return self._code
            self._wait(wakeup)
            self._reap()
            self._judge()

    def _running(self) -> Iterator[tuple[_Place, _Process]]:
        for place in self._places:
            for process in (*place.leaving, place.process):
                if process is not None:
                    yield place, process

    def _start_due(self) -> Worker | None:
        if self._until is not None:
            return None
        for place in self._places:
            due = place.process is None and place.due <= time.monotonic()
            if due and (worker := self._fork(place)) is not None:
                return worker
            if not self._begun and (place.process is None or not place.process.ready):
                return None
        if not self._begun:
            self._begun = True
            self._announce()
            self._manager.ready()
        return None

    def _fork(self, place: _Place) -> Worker | None:
        """Start a worker; returns what it is in that process, and None in this one."""
        with contextlib.ExitStack() as stack:
            # A signal for the new process must not be taken for one of this one.
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                ours, theirs = map(stack.enter_context, socket.socketpair())
                pid = os.fork()
            except OSError as exc:
                self._after(place, f"cannot be started: {exc.strerror}", 1, 0.0)
                pid = -1
            if pid != 0:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            if pid < 0:
                return None
            stack.pop_all()
        ours.setblocking(False)
        theirs.setblocking(False)
        if pid > 0:
            theirs.close()
            place.process = _Process(pid, ours, time.monotonic())
            return None
        ours.close()
        self._leave(place)
        return Worker(
            place.number, len(self._places), place.listeners, theirs, first=not self._begun
        )

    def _leave(self, own: _Place) -> None:
        """Close what belongs to others, in a new worker."""
        for _, process in self._running():
            process.channel.close()
        for place in self._places:
            for listener in place.listeners:
                if listener not in own.listeners:
                    listener.close()

    def _wait(self, wakeup: socket.socket) -> None:
        """Wait until something is to be done, and take what was told."""
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        for _, process in self._running():
            if not process.gone:
                poll.register(process.channel, select.POLLIN)
        until = min(self._tick, self._manager.due)
        if self._until is not None:
            until = min(until, self._until)
        elif self._begun:
            until = min([until, *(p.due for p in self._places if p.process is None)])
        poll.poll(max(0.0, until - time.monotonic()) * 1000)
        # First: where all processes were told to end, none is to be replaced.
        with contextlib.suppress(BlockingIOError):
            for number in wakeup.recv(4096):
                self._obey(number)
        for place, process in list(self._running()):
            process.hear()
            if process.leaving and process is place.process and self._begun and not self._until:
                self._replace(place, process)

    def _replace(self, place: _Place, process: _Process) -> None:
        """Start the next one while a worker drains."""
        _log.info("worker %d (process %d) drains, another starts", place.number, process.pid)
        place.process, place.due = None, time.monotonic()
        place.leaving.append(process)

    def _obey(self, number: int) -> None:
        name = signal.Signals(number).name
        if number in RENEWING:
            with self._manager.reloading():
                if self._renew():
                    self._pass_on(number)
        elif number in QUITTING or (number in STOPPING and self._until is not None):
            again = " again" if number in STOPPING else ""
            _log.warning("%s%s, leaving at once", name, again)
            self._manager.stopping()
            self._at_once, self._code = True, 1
            self._pass_on(signal.SIGQUIT)
            self._until = time.monotonic() + MARGIN
        elif number in STOPPING:
            _log.info("%s, shutting down", name)
            self._manager.stopping()
            self._drain()

    def _drain(self) -> None:
        self._until = time.monotonic() + self._grace + MARGIN
        for place in self._places:
            for listener in place.listeners:
                listener.close()
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: int) -> None:
        for _, process in self._running():
            os.kill(process.pid, number)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for place, process in list(self._running()):
                if process.pid == pid:
                    self._ended(place, process, os.waitstatus_to_exitcode(status))

    def _ended(self, place: _Place, process: _Process, code: int) -> None:
        process.channel.close()
        how = process.killed or _how(code)
        if not (self._begun or process.killed):
            how += " before it was ready"
        how = f"(process {process.pid}) {how}"
        if process is place.process:
            place.process = None
            self._after(place, how, code, time.monotonic() - process.started)
        else:
            place.leaving.remove(process)
            _log.log(_level(code), "worker %d %s", place.number, how)

    def _after(self, place: _Place, how: str, code: int, lived: float) -> None:
        """A worker has ended, or could not be started."""
        if self._until is not None:
            if code != 0 and not self._at_once:
                self._code = self._code or 1
                _log.warning("worker %d %s", place.number, how)
        elif not self._begun:
            if code != 2:  # then it has told why
                complain(f"worker {place.number} {how}")
            self._code = 2
            self._drain()
        else:
            pause = place.pause(lived)
            place.due = time.monotonic() + pause
            _log.warning("worker %d %s, another starts in %.1f s", place.number, how, pause)

    def _alive(self) -> bool:
        """Whether every worker is judged alive, or the server shuts down."""
        current = [place.process for place in self._places]
        alive = all(process is not None and not process.killed for process in current)
        return alive or self._until is not None or not self._begun

    def _judge(self) -> None:
        now = time.monotonic()
        self._manager.tick(alive=self._alive())
        if now >= self._tick:
            # Where this process stood still, it may be that workers did so, too.
            fair = now < self._tick + EVERY
            self._tick = now + EVERY
            for _, process in self._running():
                if process.verdict.beat(fair=fair):
                    process.kill(f"stood still for {STILL} s and was killed")
                elif process.leaving and now > process.leaving + self._grace + MARGIN:
                    process.kill("did not end in time and was killed")
            standard_error().flush()
        if self._until is not None and now >= self._until:
            self._until = now + EVERY
            for _, process in self._running():
                process.kill("did not end in time and was killed")


def _level(code: int) -> int:
    return logging.INFO if code == 0 else logging.WARNING


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Note signals; what is given has their numbers as bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, take_no_notice)
        # Those that came while it listened have waited.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            yield ours
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.set_wakeup_fd(wakeup)
