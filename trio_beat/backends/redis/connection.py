"""One connection to a broker (RESP3), on which many tasks call at a time.

1. Commands are pipelined. A task appends its command and parks until its replies have come. All
   that was appended meanwhile is sent at once by the writer. Replies come in the order of the
   commands, so each belongs to the first that waits for one (`_pending`).
2. What the broker pushes stands at its place among the replies. The reader handles both in order:
   when a reply is handled, all that came before it has been delivered.
3. A task that is cancelled leaves its place, so that its reply goes to nobody else.
4. Nothing is unbounded: over `LIMIT` bytes that are not sent, or `PENDING` replies that have not
   come, tasks wait for room.
5. The broker is dead when no byte has come for `timeout` seconds, while the reader stood waiting
   for one; after half of that it is asked (PING) where nothing else is to be answered. It is dead,
   too, when it goes on pushing and does not answer. Time in which this process did not run, or
   delivered, is not the broker's silence.
6. The end of the connection ends every wait, with `Disconnected`.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeAlias, cast

import trio
from hiredis import ProtocolError, PushNotification, Reader, pack_command

from ..._plain import Plain, bare
from .errors import Disconnected, ReplyError
from .replies import Batch, Pending, Reply

#: What a command is made of.
Argument: TypeAlias = str | bytes | int
#: Makes the bytes of a command. (Its annotation forgets that there may be several arguments.)
pack: Final = cast("Callable[[tuple[Argument, ...]], bytes]", pack_command)

#: Bytes that are not sent, and replies that have not come, above which tasks wait.
LIMIT: Final = 2**20
PENDING: Final = 10_000
_CHUNK: Final = 2**16
#: Seconds: a watch that is woken so much later than it should was not running.
_LATE: Final = 0.1
#: Turns after which the reader has read what was there.
_TURNS: Final = 3
#: Replies and pushes after which other tasks get a turn.
_TURN: Final = 256
#: How often the watch looks within `timeout` whether anything was answered.
_LOOKS: Final = 4
_CONFIRMATIONS: Final = frozenset({b"subscribe", b"unsubscribe"})
_NOTHING: Final = object()


class Connection:
    """Calls a broker. `opening.open_connection` makes one; it works within `running`.

    Args:
        stream: to the broker; closed on leaving `running`.
        name: of the broker, for people.
        timeout: seconds of silence after which the broker is dead.
        pushed: is told each push but confirmations, such as ``[b"message", channel, payload]``;
            it must not wait. None: nothing is pushed that matters.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        name: str,
        timeout: float,
        pushed: Callable[[Sequence[Any]], object] | None = None,
    ) -> None:
        self.name = name
        self.secure = isinstance(stream, trio.SSLStream)
        self._stream = stream
        self._timeout = timeout
        self._pushed = pushed
        self._outgoing: list[bytes] = []
        self._size = 0  #: bytes of it
        self._pending: deque[Pending] = deque()
        self._writer: trio.lowlevel.Task | None = None  #: where it has nothing to do
        self._room = trio.lowlevel.ParkingLot()
        #: Whether one that waited for room was woken, and has not taken it.
        self._admitted = False
        #: Since when the reader stands waiting for bytes; None: it does not.
        self._listening: float | None = None
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._error: Disconnected | None = None
        #: The first byte that came, b"" where none has; whether what came is not RESP; and an error
        #: that answers nothing, with which a broker says why it closes the connection.
        self.first = b""
        self.garbled = False
        self.complaint: ReplyError | None = None

    @property
    def error(self) -> Disconnected | None:
        """Why it has ended; None: it has not."""
        return self._error

    async def wait_ended(self) -> Disconnected:
        """Wait until it has ended by itself: the broker closed it, or is dead."""
        await self._ended.wait()
        assert self._error is not None
        return self._error

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Work while the context lasts; the stream is closed afterwards."""
        try:
            async with Plain(trio.open_nursery()) as nursery:
                nursery.start_soon(self._run)
                try:
                    yield self
                finally:
                    self.end("the connection is closed")
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._watch_replies)
                try:
                    await self._read()
                finally:
                    self.end(f"{self.name} has closed the connection")

    def end(self, text: str, cause: BaseException | None = None) -> None:
        """End it: what waits, and what comes later, raises `Disconnected`.

        Args:
            text: why, for people; the first one stands.
            cause: what was raised.
        """
        if self._error is not None:
            return
        self._error = Disconnected(text)
        self._error.__cause__ = cause and bare(cause)
        self._ended.set()
        self._scope.cancel()
        self._abandon()
        self._room.unpark_all()

    def _abandon(self) -> None:
        """Fail all replies that have not come."""
        while self._pending:
            self._pending.popleft().batch.fail(self._gone())
        self._outgoing.clear()
        self._size = 0

    def _gone(self) -> Disconnected:
        """Why it has ended, to be raised once."""
        assert self._error is not None
        error = Disconnected(str(self._error))
        error.__cause__ = self._error.__cause__
        return error

    # What tasks call.

    async def call(self, *arguments: Argument) -> Reply:
        """Send a command, and wait for its reply.

        Args:
            arguments: the command's name and what it is called with.

        Returns:
            The reply: bytes, int, float, bool, None, or a list, dict or set of them.

        Raises:
            ReplyError: the broker refuses it.
            Disconnected: there is no reply, since the connection has ended.
        """
        [reply] = await self.calls([arguments])
        if isinstance(reply, ReplyError):
            raise reply
        return reply

    async def calls(self, commands: Collection[Sequence[Argument]]) -> list[Reply]:
        """Send commands together, and wait for their replies.

        Args:
            commands: each with the name first.

        Returns:
            The replies in the order of the commands; for a command that the broker refuses, a
            `ReplyError`.

        Raises:
            Disconnected: not all have come, since the connection has ended.
        """
        replies: list[Reply] = []
        batch = Batch(len(commands))
        await self.exchange(
            batch, ((pack(tuple(c)), Pending(batch, replies.append)) for c in commands)
        )
        return replies

    async def subscribe(self, channels: Collection[bytes]) -> Mapping[bytes, ReplyError]:
        """Have the messages of channels pushed.

        Args:
            channels: their names.

        Returns:
            Those that the broker refuses; all others are subscribed.

        Raises:
            Disconnected: the connection has ended.
        """
        return await self._each("SUBSCRIBE", channels)

    async def unsubscribe(self, channels: Collection[bytes]) -> Mapping[bytes, ReplyError]:
        """Have the messages of channels pushed no more; otherwise like `subscribe`."""
        return await self._each("UNSUBSCRIBE", channels)

    async def _each(self, command: str, channels: Collection[bytes]) -> Mapping[bytes, ReplyError]:
        """Send a command for each channel, so that a refusal hits its own channel alone."""
        replies: list[Reply] = []
        batch = Batch(len(channels))
        await self.exchange(
            batch,
            (
                (pack((command, channel)), Pending(batch, replies.append, confirmed=True))
                for channel in channels
            ),
        )
        pairs = zip(channels, replies, strict=True)
        return {channel: reply for channel, reply in pairs if isinstance(reply, ReplyError)}

    async def exchange(self, batch: Batch, commands: Iterable[tuple[bytes, Pending]]) -> None:
        """Send packed commands, and wait for the replies.

        Args:
            batch: of all replies.
            commands: each with what waits for its reply; they are made while there is room.

        Raises:
            Disconnected: not all have come, since the connection has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            for packed, pending in commands:
                await self.send(packed, pending)
        except BaseException:
            batch.abandoned = True
            raise
        await self.receive(batch)

    async def send(self, packed: bytes, pending: Pending) -> None:
        """Send a packed command, once there is room; not a checkpoint where there is.

        Args:
            packed: the command.
            pending: takes its reply.

        Raises:
            Disconnected: the connection has ended.
        """
        if self._room or self._admitted or self._is_full():
            await self._room.park()
            self._admitted = False
        self._check_working()
        self._append(packed, pending)
        if self._room:
            self._let_in()

    async def receive(self, batch: Batch) -> None:
        """Wait for the replies to commands that were sent.

        Raises:
            Disconnected: not all have come, since the connection has ended.
        """
        try:
            await batch.wait()
        except BaseException:
            batch.abandoned = True
            raise

    def _check_working(self) -> None:
        if self._error is not None:
            raise self._gone()

    def _append(self, packed: bytes, pending: Pending) -> None:
        self._outgoing.append(packed)
        self._size += len(packed)
        self._pending.append(pending)
        if self._writer is not None:
            trio.lowlevel.reschedule(self._writer)
            self._writer = None

    def _is_full(self) -> bool:
        return self._size >= LIMIT or len(self._pending) >= PENDING

    def _let_in(self) -> None:
        """Wake the first task that waits for room, where there is; it wakes the next one."""
        if self._room and not (self._admitted or self._is_full()):
            self._admitted = True
            self._room.unpark()

    # Its tasks.

    async def _write(self) -> None:
        while True:
            if not self._outgoing:
                self._writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._writer_cancelled)
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            self._size = 0
            self._let_in()
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError:
                # The reader finds what the broker has said before, and then the end.
                return

    def _writer_cancelled(self, _: Callable[[], Any]) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _read(self) -> None:
        """Handle all that comes, until the broker closes the connection."""
        reader = Reader(replyError=ReplyError, notEnoughData=_NOTHING)
        while True:
            self._listening = trio.current_time()
            try:
                data = await self._stream.receive_some(_CHUNK)
            except trio.BrokenResourceError as exc:
                cause = exc.__cause__ or exc
                self.end(f"the connection to {self.name} has failed: {why(cause)}", cause)
                return
            self._listening = None
            if not data:
                return
            self.first = self.first or bytes(data[:1])
            reader.feed(cast("bytes", data))
            try:
                taken = 0
                while self._error is None and (item := _next(reader)) is not _NOTHING:
                    await self._take(item)
                    taken += 1
                    if taken % _TURN == 0:
                        await trio.lowlevel.checkpoint()
            except ProtocolError as exc:
                self.garbled = True
                self.end(f"{self.name} has sent what is not RESP", exc)
                return
            if self._room:
                self._let_in()

    async def _take(self, item: Any) -> None:
        """Handle a reply or a push."""
        if type(item) is not PushNotification:
            self._settle(item, confirmed=False)
        elif item and item[0] in _CONFIRMATIONS:
            self._settle(None, confirmed=True)
        elif self._pushed is not None:
            self._pushed(item)

    def _settle(self, reply: Reply, *, confirmed: bool) -> None:
        """Hand a reply to the first that waits for one."""
        if not self._pending and isinstance(reply, ReplyError):
            self.complaint = reply
            self.end(f"{self.name} says {str(reply)!r}")
        elif not self._pending:
            self.end(f"{self.name}: {_UNASKED}")
        elif self._pending[0].confirmed is confirmed or isinstance(reply, ReplyError):
            self._pending.popleft().settle(reply)
        else:
            self.end(f"{self.name}: {_UNASKED}")

    async def _watch(self) -> None:
        """End the connection when the broker is silent."""
        half = self._timeout / 2
        while True:
            since = self._listening
            await trio.sleep_until((trio.current_time() if since is None else since) + half)
            if since is None or self._listening != since:
                continue
            if not self._pending:
                self._append(pack(("PING",)), Pending(Batch(1)))
            if await _passed(half) > _LATE:
                # This process did not run, and perhaps the broker neither.
                await _passed(half)
            for _ in range(_TURNS):  # what waits in the kernel is read first
                await trio.lowlevel.checkpoint()
            if self._listening == since:
                self.end(f"{self.name} has not answered for {self._timeout:g} s")
                return

    async def _watch_replies(self) -> None:
        """End the connection when the broker answers nothing, though it is not silent."""
        first: Pending | None = None
        times = 0
        while True:
            late = await _passed(self._timeout / _LOOKS) > _LATE
            head = self._pending[0] if self._pending else None
            if head is None or head is not first or late or self._listening is None:
                first, times = head, 0
                continue
            times += 1
            if times == _LOOKS - 1:
                self.end(f"{self.name} has not answered for {self._timeout:g} s")
                return


def _next(reader: Reader) -> Any:
    """The next reply or push that is whole; `_NOTHING`: there is none.

    Raises:
        ProtocolError: it is not RESP.
    """
    try:
        return reader.gets()
    except TypeError as exc:  # a map with a list as a key, for example
        raise ProtocolError(str(exc)) from exc


async def _passed(seconds: float) -> float:
    """Wait, and return by how many seconds too long."""
    due = trio.current_time() + seconds
    await trio.sleep_until(due)
    return trio.current_time() - due


_UNASKED: Final = "its replies do not match what was asked"


def why(exc: BaseException) -> str:
    """The reason in the system's words."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError | socket.gaierror):
        return os.strerror(exc.errno) if exc.errno else str(exc)
    if isinstance(exc, ssl.SSLError) and exc.reason:
        return exc.reason.lower().replace("_", " ")
    return getattr(exc, "strerror", None) or str(exc)
