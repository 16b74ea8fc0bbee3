"""Disconnecting users and sessions from a server, as the hubs of its backend are told to.

1. Open connections are scanned for all names that wait at that moment. There is no index of names:
   a connection that is never disconnected costs nothing.
2. A peer that is being admitted is none of them yet. So what comes during an admission is noted for
   as long as that one takes, and looked up before the connection is opened. Between that look and
   its place among the open connections nothing waits.
3. Nothing is let through in doubt. Where more comes than can be noted, or may have been missed, the
   admissions under way are refused with 503: their peers come again, and the application is asked
   anew. The next ones begin once the hub hears again.
4. All tables are bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from math import ceil
from typing import Final, NamedTuple, Protocol, TypeAlias

import trio

from .._channels.control import Control, Disconnect, Kind
from .._exceptions import EndReason, Refused
from .._identity import Identity
from .._protocol.frames import forbids
from .blocks import Blocks
from .refusals import again_later

#: Connections that are looked at before other tasks get a turn.
_TURN: Final = 256
#: Names that are noted for admissions, and that wait for a scan.
NOTED: Final = 1024

_Key: TypeAlias = tuple[Kind, str]


class Identified(Protocol):
    """A connection, as far as this goes."""

    @property
    def user(self) -> str | None:
        """The peer's user."""

    @property
    def session(self) -> str | None:
        """The key of the peer's session."""

    def end_nowait(self, by: EndReason, code: int, reason: str) -> None:
        """End it, without waiting and without raising."""


class _Noted(NamedTuple):
    number: int
    disconnect: Disconnect


class Admitting:
    """An admission under way. Made by `Disconnects.admitting`."""

    __slots__ = ("_began", "_disconnects")

    def __init__(self, disconnects: Disconnects, began: int) -> None:
        self._disconnects = disconnects
        self._began = began

    def check(self, identity: Identity | None) -> None:
        """Raise `Refused` where a peer was disconnected since the admission began, or is blocked.

        Args:
            identity: who it is; None: it is anonymous, and has no name to disconnect it by.
        """
        self._disconnects.check(self._began, identity)


class Disconnects:
    """Disconnects users and sessions from a server.

    Args:
        connections: those that are open.
        control: where the hub hears of disconnects; None: there is no hub, or nobody has a name.
        noted: names that are noted, and that wait, at most.
    """

    def __init__(
        self,
        connections: Collection[Identified],
        control: Control | None,
        *,
        noted: int = NOTED,
    ) -> None:
        self._connections = connections
        self._control = control
        self._most = noted
        self._blocks = Blocks()
        #: For the next scan: the first that came for each name.
        self._waiting: dict[_Key, Disconnect] = {}
        self._wanted = trio.Event()
        #: Counts what has come.
        self._number = 0
        #: Since the oldest admission under way began: the last one for each name, in their order.
        self._noted: OrderedDict[_Key, _Noted] = OrderedDict()
        #: The number of the last one that may be missing there.
        self._missing = 0
        #: The numbers at which admissions under way began, in their order.
        self._under_way: OrderedDict[object, int] = OrderedDict()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Disconnect, until cancelled.

        Args:
            task_status: told once `wait_ready` can be called.
        """
        if self._control is None:
            task_status.started()
            return
        async with trio.open_nursery() as nursery:
            await nursery.start(self._control.listen, self)
            task_status.started()
            while True:
                await self._wanted.wait()
                waiting = self._take()
                connections = iter(list(self._connections))
                while turn := list(islice(connections, _TURN)):
                    _end(turn, waiting)
                    await trio.lowlevel.checkpoint()

    async def wait_ready(self) -> None:
        """Wait until disconnects are heard.

        Raises:
            BackendError: the backend is away for longer than the grace time.
        """
        if self._control is not None:
            await self._control.wait_heard()

    @contextmanager
    def admitting(self) -> Iterator[Admitting]:
        """An admission is under way while the context lasts; it begins when it is `wait_ready`."""
        token = object()
        self._under_way[token] = self._number
        try:
            yield Admitting(self, self._number)
        finally:
            del self._under_way[token]
            oldest = next(iter(self._under_way.values()), self._number)
            while self._noted and next(iter(self._noted.values())).number <= oldest:
                self._noted.popitem(last=False)

    def check(self, began: int, identity: Identity | None) -> None:
        """See `Admitting.check`; `began` is the number at which the admission began."""
        names = [] if identity is None else list(_names(identity))
        now = trio.current_time()
        for kind, name in names:
            block = self._blocks.get(kind, name, now)
            if block is not None:
                raise _refused(block.disconnect, block.until - now)
        for key in names:
            noted = self._noted.get(key)
            if noted is not None and noted.number > began:
                raise _refused(noted.disconnect)
        if names and began < self._missing:
            raise again_later()

    def disconnect(self, disconnect: Disconnect) -> None:
        """End the connections of a name, soon, and refuse it to admissions under way."""
        self._number += 1
        self._blocks.add(disconnect, trio.current_time())
        key = disconnect.kind, disconnect.name
        if self._under_way:
            self._noted[key] = _Noted(self._number, disconnect)
            self._noted.move_to_end(key)
            if len(self._noted) > self._most:
                _, dropped = self._noted.popitem(last=False)
                self._missing = max(self._missing, dropped.number)
        self._waiting.setdefault(key, disconnect)
        self._wanted.set()
        # They come faster than the scan has its turns, and have to wait for this one.
        if len(self._waiting) >= self._most:
            _end(list(self._connections), self._take())

    def missed(self) -> None:
        """Disconnects may have been missed."""
        self._number += 1
        self._missing = self._number

    def _take(self) -> dict[_Key, Disconnect]:
        waiting, self._waiting = self._waiting, {}
        self._wanted = trio.Event()
        return waiting


def _names(peer: Identified | Identity) -> Iterator[_Key]:
    if peer.user is not None:
        yield "user", peer.user
    if peer.session is not None:
        yield "session", peer.session


def _end(connections: Iterable[Identified], disconnects: dict[_Key, Disconnect]) -> None:
    """End those whose names are to be disconnected."""
    for connection in connections:
        for key in _names(connection):
            disconnect = disconnects.get(key)
            if disconnect is not None:
                connection.end_nowait(EndReason.DISCONNECTED, disconnect.code, disconnect.reason)


def _refused(disconnect: Disconnect, seconds: float | None = None) -> Refused:
    """The answer to a peer that is disconnected, or blocked for so many seconds more."""
    text = disconnect.reason or "disconnected"
    if forbids(disconnect.code):
        return Refused(403, text, logged="disconnected")
    pause = 5 if seconds is None else ceil(seconds)
    return Refused(503, text, {"Retry-After": str(pause)}, logged="disconnected")
