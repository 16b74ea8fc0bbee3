"""How a message reaches the subscribers of other processes.

A backend is found by its URL's scheme among the entry points of the group
``trio_beat.backends``, so that any distribution can add one::

    [project.entry-points."trio_beat.backends"]
    carrier-pigeon = "my_package:PigeonBackend"

`trio_beat.testing.check_backend` runs the contract below over it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points
from typing import Final, NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from .._exceptions import BackendError, UnknownBackend
from .._protocol.messages import Message
from .._text import without_userinfo

GROUP: Final = "trio_beat.backends"

#: Called with a channel and a message, once for every message of a subscribed channel.
Deliver = Callable[[str, Message], Awaitable[None]]


class Last(NamedTuple):
    """The last message of a channel."""

    message: Message
    expires_in: float  #: seconds


class Backend(ABC):
    """Carries messages between hubs.

    It knows channels (any non-empty text) and messages (any text or bytes, with any id). What
    they mean is the hub's; how they are serialized is the backend's. A message comes back with the
    payload, the kind and the id with which it was published. Its frame need not be carried.

    One hub has one backend object, and uses it between entering and leaving `running`.

    **Ordering.** All hubs see the messages of one channel in the same order. Between channels
    there is none.

    **Delivery.** `deliver` is awaited for each message of a channel that is subscribed, one at a
    time for a channel, and also for a message that this hub has published. That may
    happen before `publish` returns, never after. A message is delivered at most once; one that
    was published while the broker was away is lost, and `publish` raises.

    **Concurrency.** `publish` and `last` may be called by many tasks at a time; `subscribe` and
    `unsubscribe` are called by one task, and not twice in a row for a channel.

    **Cancellation.** Every method may be cancelled at any await; a `publish` that was cancelled
    may or may not have happened. Leaving `running` always closes everything.

    **The broker away.** While it is, `publish`, `subscribe` and `last` raise `BackendError` and do
    not wait for ever; a backend that finds its broker again has the same subscriptions as before.
    """

    @classmethod
    @abstractmethod
    def from_url(cls, url: SplitResult) -> Self:
        """Make a backend.

        Args:
            url: its URL, taken apart.

        Raises:
            ValueError: the URL has a part that the backend cannot use; the message names it and
                says what is allowed.
        """

    @abstractmethod
    def running(self, deliver: Deliver) -> AbstractAsyncContextManager[None]:
        """Run the backend while the context lasts.

        Args:
            deliver: what to do with a message of a subscribed channel.
        """

    @abstractmethod
    async def publish(self, channel: str, message: Message, *, expire: float) -> None:
        """Send a message to every hub that has subscribed to a channel.

        Args:
            channel: where to.
            message: what. The hub gives each an id of its own, by which it knows it again.
            expire: seconds for which it is kept as the channel's last message; 0: it is not kept,
                and what was kept before stays.

        Raises:
            BackendError: the message may not have reached every hub.
        """

    @abstractmethod
    async def subscribe(self, channel: str) -> None:
        """Hear a channel. When this returns, every later message is delivered.

        Raises:
            BackendError: the channel is not subscribed.
        """

    @abstractmethod
    async def unsubscribe(self, channel: str) -> None:
        """Hear a channel no more. Does not raise for a broker that is away."""

    @abstractmethod
    async def last(self, channel: str) -> Last | None:
        """The last message of a channel; None where there is none or it has expired.

        Raises:
            BackendError: it cannot be told.
        """


def backend_from_url(url: str) -> Backend:
    """Make the backend that a URL names.

    Args:
        url: for example ``memory://``.

    Raises:
        UnknownBackend: nothing is installed for its scheme.
        BackendError: it is no URL, or has a part that its backend cannot use.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        # The cause may quote what stands before the host.
        cause, why = (None, "") if "@" in url else (exc, f": {exc}")
        raise BackendError(f"{without_userinfo(url)!r} is not a URL{why}") from cause
    known = entry_points(group=GROUP)
    if not parts.scheme or parts.scheme not in known.names:
        raise UnknownBackend(url, sorted(known.names))
    try:
        backend_class = known[parts.scheme].load()
    except ImportError as exc:
        raise BackendError(f"backend {parts.scheme}:// cannot be imported: {exc}") from exc
    try:
        backend: Backend = backend_class.from_url(parts)
    except ValueError as exc:
        raise BackendError(f"{without_userinfo(url)!r}: {exc}") from exc
    return backend
