"""A transport over an ASGI server: it makes and parses the frames, and gives messages.

ASGI (https://asgi.readthedocs.io, WebSocket 2.3) shows neither bytes nor PINGs and PONGs, and its
functions wait where they like: Hypercorn's `send` waits for the socket in a shielded scope. So:

1. What is sent is sent in tasks of the application's, not of the connection's: one at a time, and
   only while something is to be sent. A connection ends without waiting for them, and an event
   whose sending has begun is never cut off.
2. Somebody receives. Hypercorn's queue holds ten messages, and one that is full stops the reading
   of a whole HTTP/2 connection, with all of its streams. The reader receives in its own task; while
   it is away, another task does. Too many messages that wait end the connection, but not at once:
   an application that takes them gets time for it, so that many in one packet end no connection
   whose application is prompt. Neighbours wait as long; so over HTTP/2 that time is short, and is
   given again only when all was taken.
3. Only a message proves life, and so the text heartbeat does. Where there is none, no silence
   counts.
4. A stream is ended by ``websocket.close``, also that of a dead peer: where an application just
   returns, Hypercorn leaves a stream of HTTP/2 open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import trio

from .._exceptions import EndReason
from .._protocol.events import Event, Failure, PeerClose
from .._protocol.messages import (
    BeatFrames,
    CloseFrame,
    Message,
    Outgoing,
    Response,
    make_close,
)
from . import Owner, Take, Transport, awake
from .outbox import Outbox

#: An event of ASGI's, and the functions of an application.
ASGIEvent = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[ASGIEvent]]
Send = Callable[[ASGIEvent], Awaitable[None]]

#: Stands for the handshake's response, which the server makes: a frame of some size.
ACCEPT: Final = b"accept"
#: What a peer is told that is taken for dead, should it live: it goes away, as TCP would.
_ABORTED: Final[ASGIEvent] = {"type": "websocket.close", "code": 1001, "reason": ""}
_NO_STATUS: Final = 1005
#: Seconds for which nothing is received while too many messages wait: in which none of them is
#: taken, over HTTP/1.1; over HTTP/2, altogether until none waits. There a server may have 100
#: streams in a connection (Hypercorn's default), and all together must not hold up a neighbour's
#: answer for the 12 seconds that it has by default.
_HOLD: Final = 4.0
_SHARED_HOLD: Final = 0.1


class StartSoon(Protocol):
    """Starts a task, as `trio.Nursery.start_soon`."""

    def __call__(
        self, task: Callable[..., Awaitable[object]], /, *args: object, name: object = None
    ) -> None:
        """Raises `RuntimeError` where the nursery is closed."""


class _Look(NamedTuple):
    """What was seen at a silent beat, in bytes."""

    sent: int  #: so far
    before_ping: int  #: the beat comes behind so many


class ASGITransport(Transport):
    """One WebSocket of an ASGI server.

    Args:
        receive: the server's; ``websocket.connect`` was received already.
        send: the server's.
        start_soon: starts tasks that outlive the connection by no more than the server's functions
            hold them.
        peer: its address, for people.
        subprotocol: what to agree on, or None.
        message_size: bytes of a message that the peer may send.
        inbound: messages that may wait while the reader is away.
        answered: whether peers answer a text heartbeat.
        shares: whether it shares its connection with others (HTTP/2 and 3).
    """

    __slots__ = (
        "_aborted",
        "_answered",
        "_before",
        "_closing",
        "_deaf",
        "_events",
        "_failed",
        "_gone",
        "_held",
        "_inbound",
        "_keeping",
        "_last",
        "_look",
        "_message_size",
        "_news",
        "_outbox",
        "_owner",
        "_read_size",
        "_reading",
        "_receive",
        "_received",
        "_send",
        "_sending",
        "_sent",
        "_start_soon",
        "_subprotocol",
        "peer",
        "shares",
    )

    peer: str

    def __init__(
        self,
        receive: Receive,
        send: Send,
        start_soon: StartSoon,
        *,
        peer: str,
        subprotocol: str | None = None,
        message_size: int = 2**20,
        inbound: int = 16,
        answered: bool = True,
        shares: bool = False,
    ) -> None:
        self._receive = receive
        self._send = send
        self._start_soon = start_soon
        self.peer = peer
        self._subprotocol = subprotocol
        self._message_size = message_size
        self._inbound = inbound
        self._answered = answered
        self.shares = shares
        self._owner: Owner | None = None
        #: What the reader is to take; None: nothing.
        self._events: list[Event] | None = None
        #: Events received so far, and bytes of the last ones that the reader took.
        self._received = self._read_size = 0
        #: Set when something has come, was sent, or failed; None while no task waits for that.
        self._news: trio.Event | None = None
        #: The reader receives, or waits for what the other task receives.
        self._reading = False
        #: Of the task that receives while the reader is away; None: there is none.
        self._keeping: trio.CancelScope | None = None
        #: Seconds for which nothing was received, see `_hold`.
        self._held = 0.0
        #: Nothing comes any more; what comes is dropped; nothing is sent behind a close.
        self._gone = self._deaf = self._closing = False
        #: Bytes of what is being sent, and sent so far. Invariant: a task sends while not 0.
        self._sending = self._sent = 0
        #: What to send on from; None: nothing waits that may be sent.
        self._outbox: Outbox | None = None
        #: What is sent in the end, and no more than that.
        self._last: ASGIEvent | None = None
        #: Makes the exception that says what failed: each is raised once.
        self._failed: Callable[[], OSError] | None = None
        self._aborted = False
        self._look: _Look | None = None
        #: What was received when the reader went away, and when that was.
        self._before: tuple[int, float] | None = None

    def attach(self, owner: Owner) -> None:
        self._owner = owner

    async def wait_readable(self, take: Take = awake) -> Sequence[Event]:
        self._reading = True
        try:
            while True:
                if self._events is not None:
                    if (events := take()) is not None:
                        return events
                elif self._failed is not None:
                    raise self._failed()
                elif self._keeping is not None:
                    self._held = 0.0
                    await self._wait_for_news()
                else:  # not in a coroutine of its own, which each quiet connection would keep
                    self._held = 0.0
                    try:
                        self._note(await self._receive())
                    except Exception as exc:  # of the server, or of a middleware
                        self._gone = True
                        self._fail_by("receive", exc)
        finally:
            self._reading = False
            self._keep()

    def _keep(self) -> None:
        """Let another task receive while the reader is away."""
        if self._keeping is not None:
            self._tell()  # there may be room again
            return
        if self._gone:
            return
        self._keeping = trio.CancelScope()
        try:
            self._start_soon(self._keep_receiving, self._keeping, name="trio_beat receive")
        except RuntimeError:  # the application has ended
            self._keeping = None

    async def _keep_receiving(self, scope: trio.CancelScope) -> None:
        try:
            with scope:
                while not (self._reading or self._gone):
                    if self._full:
                        await self._hold()
                    else:
                        self._note(await self._receive())
        except Exception as exc:
            self._gone = True
            self._fail_by("receive", exc)
        finally:
            self._keeping = None
            self._tell()

    @property
    def _full(self) -> bool:
        """Whether nothing is received for now, since as many wait as may."""
        if self._deaf or len(self._events or ()) < self._inbound:
            return False
        return self._held < self._longest_hold

    @property
    def _longest_hold(self) -> float:
        return _SHARED_HOLD if self.shares else _HOLD

    async def _hold(self) -> None:
        """Wait until the reader has taken what waits, or for no longer than that may last."""
        begun, longest = trio.current_time(), self._longest_hold
        with trio.move_on_after(longest - self._held) as scope:
            await self._wait_for_news()
        # What is left may be too little to be seen on the clock.
        over = scope.cancelled_caught
        self._held = longest if over else self._held + trio.current_time() - begun

    def _note(self, event: ASGIEvent) -> None:
        self._received += 1
        if event["type"] == "websocket.disconnect":
            self._gone = True
            code, reason = event.get("code") or _NO_STATUS, event.get("reason") or ""
            self._add(PeerClose(code, reason, None))
        elif not self._deaf:
            message = event.get("text")
            self._take_message(event["bytes"] if message is None else message)
        self._tell()

    def _add(self, event: Event) -> None:
        if self._events is None:
            self._events = []
        self._events.append(event)

    def _take_message(self, message: str | bytes) -> None:
        if _size(message) > self._message_size:
            reason = f"message is over {self._message_size} bytes"
            self._add(Failure(1009, reason, self.close_frame(1009, reason)))
        elif self._reading or len(self._events or ()) < self._inbound:
            self._add(message)
        else:
            self._deaf = True
            if self._owner is not None:
                self._owner.end_nowait(EndReason.INBOX_FULL, 1013, "too many messages wait")

    def receive_nowait(self) -> Sequence[Event] | None:
        events, self._events = self._events, None
        if events is None:
            return None
        if not self.shares:
            self._held = 0.0
        self._read_size = sum(_size(event) for event in events if isinstance(event, str | bytes))
        return events

    @property
    def read_size(self) -> int:
        return self._read_size

    def write_nowait(self, item: Outgoing) -> int:
        if self._failed is not None:
            raise self._failed()
        if self._sending:
            return 0
        self._begin(item)
        return item.size

    async def drain(self, outbox: Outbox) -> None:
        self._outbox = outbox
        try:
            if not self._sending and self._failed is None and outbox.size:
                self._begin(_taken(outbox))
            while self._sending and self._failed is None:
                await self._wait_for_news()
        finally:
            self._outbox = None
        if self._failed is not None:
            raise self._failed()

    def _begin(self, item: Outgoing) -> None:
        event = self._event(item)
        if event is None:
            return
        self._sending = item.size
        self._start(event)

    def _start(self, event: ASGIEvent) -> None:
        try:
            self._start_soon(self._send_on, event, name="trio_beat send")
        except RuntimeError as exc:  # the application has ended
            self._sending = 0
            raise ConnectionAbortedError("ASGI application has ended") from exc

    async def _send_on(self, event: ASGIEvent | None) -> None:
        """Send an event, and what waits behind it."""
        try:
            while event is not None:
                await self._send(event)
                self._sent += self._sending
                event = self._next()
        except Exception as exc:  # of the server, or of a middleware
            self._fail_by("send", exc)
        finally:
            self._sending = 0
            self._tell()

    def _next(self) -> ASGIEvent | None:
        event = None
        while event is None and self._outbox is not None and self._outbox.size:
            item = _taken(self._outbox)
            self._sending = item.size
            event = self._event(item)
        if event is None:
            event, self._last = self._last, None
        return event

    def _event(self, item: Outgoing) -> ASGIEvent | None:
        """What an item is in ASGI; None: nothing, since the server does it by itself."""
        match item:
            case Message():
                payload = item.payload
                return _message(payload)
            case BeatFrames(_, str(text)):
                return _message(text)
            case Response():
                return {"type": "websocket.accept", "subprotocol": self._subprotocol}
            case CloseFrame(code, reason):
                self._closing = True
                code = 1000 if code == _NO_STATUS else code
                return {"type": "websocket.close", "code": code, "reason": reason}
        return None

    def rest(self, *, heard: bool, listening: bool = True) -> None:
        if heard:
            self._look = None
        if listening:
            self._before = None

    def stirring(self, queued: int) -> bool:
        before = self._look
        self._look = _Look(self._sent, self._sent + self._sending + queued)
        if not self._answered:
            return True
        return before is not None and before.sent < self._sent <= before.before_ping

    def unreachable(self, patience: float) -> bool:
        # The reader is away, but what comes is received.
        if not self._answered:
            return False
        now = trio.current_time()
        if self._full or self._before is None or self._before[0] != self._received:
            self._before = (self._received, now)
        return now - self._before[1] > patience

    def close_frame(self, code: int, reason: str) -> CloseFrame:
        self._deaf = True
        self._tell()
        return make_close(code, reason)

    async def finish(self, *, answered: bool) -> None:
        self._keep()
        while not (answered or self._gone):
            if self._failed is not None:
                raise self._failed()
            await self._wait_for_news()

    async def leave(self, seconds: float, *, silent: float) -> None:
        """Let the last event be sent, and receive until the server knows that the peer is gone.

        Nothing is received any more once this is left.

        Args:
            seconds: after which it is left in any case.
            silent: the same, where the server has told nothing since the handshake.
        """
        latest = trio.current_time() + seconds
        try:
            with trio.move_on_after(silent) as scope:
                self._keep()
                while self._sending or not (self._gone or self._keeping is None):
                    if self._received:
                        scope.deadline = latest
                    await self._wait_for_news()
        finally:
            if self._keeping is not None:
                self._keeping.cancel()

    def abort(self) -> None:
        if self._aborted:
            return
        self._aborted = self._deaf = True
        self._owner = None
        if not (self._failed is not None or self._gone or self._closing):
            self._end_stream()
        self._fail(partial(ConnectionAbortedError, "connection was closed"))

    def _end_stream(self) -> None:
        self._closing = True
        if self._sending:
            self._last = dict(_ABORTED)
            return
        self._sending = 1
        with contextlib.suppress(ConnectionAbortedError):
            self._start(dict(_ABORTED))

    def _fail_by(self, function: str, exc: Exception) -> None:
        # Not as a cause: it may quote what is secret, and holds the frames of others.
        self._fail(partial(ConnectionResetError, f"{function} failed: {type(exc).__name__}"))

    def _fail(self, why: Callable[[], OSError]) -> None:
        self._failed = self._failed or why
        self._tell()

    async def _wait_for_news(self) -> None:
        if self._news is None:
            self._news = trio.Event()
        await self._news.wait()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None


def _taken(outbox: Outbox) -> Outgoing:
    item = outbox.first
    outbox.taken(item.size)
    return item


def _message(payload: str | bytes) -> ASGIEvent:
    return {"type": "websocket.send", "text" if isinstance(payload, str) else "bytes": payload}


def _size(message: str | bytes) -> int:
    """Bytes of a message's payload."""
    if isinstance(message, bytes) or message.isascii():
        return len(message)
    return len(message.encode())
