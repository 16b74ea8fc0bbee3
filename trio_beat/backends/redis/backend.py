"""The backend that is a Redis or Valkey broker.

1. There is one connection at a time. What it had subscribed ends with it: the hub hears of it
   (`lost`), and subscribes again.
2. The broker is there once it has answered the first commands, not once it is connected.
3. While it is away, everything fails at once. It is tried again after pauses that are random, at
   most a second, and short again after each connection that has lasted a while.
4. What cannot be used at the first attempt is an error on entering; later it is an outage.
5. The log has a line for each outage's beginning and end, and one for each new reason; none for an
   attempt.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, Self
from urllib.parse import SplitResult

import trio

from ..._checks import check_kind
from ..._exceptions import BackendError
from ..._log import get_logger
from ..._plain import Plain
from ..._protocol.messages import Message
from ..._text import public_channel
from .. import Backend, Receiver, Told
from .address import Address
from .errors import Disconnected, Misconfigured, NotPrimary, ReplyError
from .locating import Fixed, Place
from .opening import check_primary, open_stream, place, shake_hands
from .pubsub import PubSub
from .sentinel import Sentinels

#: Seconds: the ceiling of the first pause between attempts, and of all pauses.
_FIRST: Final = 0.05
_LONGEST: Final = 1.0
#: Seconds: the ceiling of pauses after connections that ended sooner than after so many seconds.
_BRIEF: Final = 0.4
_LASTING: Final = 1.0
#: Channels whose keys were logged to be of another type, so that each is logged once.
_REMEMBERED: Final = 1000
#: Different reasons of one outage that are logged.
_REASONS: Final = 5

_logger = get_logger("trio_beat.backends.redis")


class RedisBackend(Backend):
    """Carries messages over a Redis or Valkey broker.

    Args:
        address: its URL, or what `Address.parse` has made of one.
        password: in place of the one of the address. A function is called at each connect, and
            bounded by the timeout of the address; what it raises is an outage. None: the address
            decides.

    Raises:
        ValueError: the URL has a part that cannot be used.
        TypeError: an argument is of another type.
    """

    def __init__(
        self,
        address: str | Address,
        *,
        password: str | Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        check_kind("address", address, (str, Address), "a URL, or an Address")
        if not (password is None or callable(password) or isinstance(password, str)):
            # Not the value: it may be one.
            raise TypeError("password must be a text, an async function, or None")
        if isinstance(password, str) and not _is_utf8(password):
            raise ValueError("password is not UTF-8")
        self._address = Address.from_text(address) if isinstance(address, str) else address
        self._password = password
        prefix = self._address.prefix
        self._prefix = f"{prefix}:".encode() if prefix else b""
        sentinels = self._address.service is not None
        self._locator = Sentinels(self._address) if sentinels else Fixed(self._address)
        self._pauses = _Pauses()
        #: The connection to a broker that has answered; None: there is none.
        self._connection: PubSub | None = None
        #: When it answered, by Trio's clock.
        self._there_since = 0.0
        #: Why there is none, for those that call.
        self._error: BackendError = BackendError("the backend is not running")
        #: What is told; None: the backend is not running, or ends.
        self._receiver: Receiver | None = None
        #: When the outage began, by Trio's clock; None: there is none.
        self._away_since: float | None = None
        #: Those of this outage that were logged.
        self._reasons: set[str] = set()
        self._not_kept: dict[str, None] = {}

    @property
    def software(self) -> str | None:
        return None if self._connection is None else self._connection.software

    @classmethod
    def from_url(cls, url: SplitResult) -> Self:
        return cls(Address.parse(url))

    def running(self, receiver: Receiver) -> AbstractAsyncContextManager[None]:
        return Plain(self._running(receiver))

    @asynccontextmanager
    async def _running(self, receiver: Receiver) -> AsyncIterator[None]:
        self._receiver = receiver
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._locator.run)
                await nursery.start(self._keep_connected)
                try:
                    yield
                finally:
                    self._leave()
                    nursery.cancel_scope.cancel()
        finally:
            self._leave()

    def _leave(self) -> None:
        self._receiver = self._connection = self._away_since = None
        self._error = BackendError("the backend is not running")

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        await self._there().publish(channel, message, expire=expire, sender=sender)

    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        return await self._there().subscribe_to(channels)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        with suppress(Disconnected):  # then it is subscribed to nothing
            if self._connection is not None:
                await self._connection.unsubscribe_from(channels)

    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        return await self._there().last(channels, told)

    def _there(self) -> PubSub:
        if self._connection is None:
            # A new one: each time it is raised adds to a traceback.
            raise Disconnected(str(self._error)) from self._error.__cause__
        return self._connection

    # What keeps it connected.

    async def _keep_connected(self, task_status: trio.TaskStatus[None]) -> None:
        started = False

        def once_started() -> None:
            nonlocal started
            if not started:
                started = True
                task_status.started()

        while True:
            try:
                await self._connect(once_started)
            except BackendError as exc:
                if not started and self._is_permanent(exc):
                    raise
                self._tell_away(exc)
            once_started()
            await trio.sleep(self._pauses.pause())

    def _is_permanent(self, error: BackendError) -> bool:
        if isinstance(error, NotPrimary):
            return not self._locator.moves
        return not isinstance(error, Disconnected)

    async def _connect(self, connected: Callable[[], object]) -> None:
        """Connect to the broker, and stay as long as the connection lasts.

        Args:
            connected: called when the broker has answered.

        Raises:
            BackendError: it did not come to that.
        """
        address = self._address
        receiver = self._receiver
        assert receiver is not None
        deadline = trio.current_time() + address.timeout
        here = await self._locator.locate()
        with trio.CancelScope(deadline=deadline) as opening:
            password = await self._read_password()
            context = address.make_ssl_context()
            stream = await open_stream(*here, context, address.timeout)
            async with PubSub(
                stream,
                name=place(*here),
                timeout=address.timeout,
                receiver=receiver,
                prefix=self._prefix,
                not_kept=self._log_not_kept,
                ended=self._ended,
            ).running() as connection:
                greeting = await shake_hands(
                    connection,
                    username=address.username,
                    password=password,
                    client_name=address.client_name,
                    database=address.database,
                )
                opening.deadline = math.inf
                if connection.error is not None:  # the broker has left right behind its greeting
                    raise Disconnected(str(connection.error)) from connection.error.__cause__
                connection.greeted(greeting)
                self._tell_back(connection)
                connected()
                await self._stay(connection, here)
        if opening.cancelled_caught:
            raise Disconnected(f"{place(*here)} did not answer within {address.timeout:g} s")

    async def _stay(self, connection: PubSub, here: Place) -> None:
        """Wait until the connection ends, or is of no use."""
        async with Plain(trio.open_nursery()) as nursery:

            async def leave_when_moved() -> None:
                there = await self._locator.moved(here)
                connection.end(f"the primary has moved from {place(*here)} to {place(*there)}")

            async def leave_when_demoted() -> None:
                # A replica confirms messages that nobody on the primary hears.
                while connection.error is None:
                    await trio.sleep(self._address.timeout / 2)
                    try:
                        await check_primary(connection)
                    except (Disconnected, ReplyError):
                        continue
                    except Misconfigured as exc:
                        connection.end(str(exc))

            nursery.start_soon(leave_when_moved)
            nursery.start_soon(leave_when_demoted)
            await connection.wait_ended()
            nursery.cancel_scope.cancel()

    async def _read_password(self) -> str | None:
        if self._password is None:
            return self._address.read_password()
        if isinstance(self._password, str):
            return self._password
        try:
            password = await self._password()
        except BackendError:
            raise
        except Exception as exc:
            # Neither its text nor the exception itself, which may have secrets.
            failed = type(exc).__name__
        else:
            if isinstance(password, str) and _is_utf8(password):
                return password
            failed = f"it returned {type(password).__name__}, expected a text"
            if isinstance(password, str):
                failed = "it is not UTF-8"
        raise Disconnected(f"the password is not known: {failed}")

    # What the hub is told.

    def _tell_back(self, connection: PubSub) -> None:
        self._connection = connection
        self._there_since = trio.current_time()
        if self._away_since is not None and self._receiver is not None:
            seconds = trio.current_time() - self._away_since
            _logger.info("%s is back after %.1f s", self._address.shown, seconds)
            self._away_since = None
            self._receiver.back()

    def _ended(self, connection: PubSub) -> None:
        if self._connection is connection:
            self._connection = None
            self._pauses.lasted(trio.current_time() - self._there_since)
            assert connection.error is not None
            if self._receiver is not None and connection.heard:
                self._receiver.lost(list(connection.heard.values()))
            self._tell_away(connection.error)

    def _tell_away(self, error: BackendError) -> None:
        if self._receiver is None:
            return
        begins = self._away_since is None
        if begins:
            self._away_since = trio.current_time()
            _logger.warning("%s is away: %s", self._address.shown, error)
            self._reasons = {str(error)}
        elif str(error) not in self._reasons and len(self._reasons) < _REASONS:
            _logger.warning("%s is still away: %s", self._address.shown, error)
            self._reasons.add(str(error))
        self._error = error
        if begins:
            self._receiver.away(error)

    def _log_not_kept(self, channel: str, what: str) -> None:
        if channel in self._not_kept:
            return
        if len(self._not_kept) >= _REMEMBERED:
            del self._not_kept[next(iter(self._not_kept))]
        self._not_kept[channel] = None
        _logger.warning(
            "the key of channel %r at %s is no last message: it is %s",
            public_channel(channel),
            self._address.shown,
            what,
        )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # without it as a cause: it has the text
        return False
    return True


class _Pauses:
    """Pauses between attempts: random, up to a ceiling that doubles with each failure."""

    def __init__(self) -> None:
        self._ceiling = _FIRST

    def lasted(self, seconds: float) -> None:
        """A connection has ended that lasted so long."""
        self._ceiling = _FIRST if seconds > _LASTING else min(self._ceiling, _BRIEF)

    def pause(self) -> float:
        """Seconds until the next attempt."""
        ceiling = self._ceiling
        self._ceiling = min(2 * ceiling, _LONGEST)
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spreads load, guards nothing
