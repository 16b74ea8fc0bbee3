"""How a message reaches the subscribers of other processes.

A backend is found by its URL's scheme among the entry points of the group
``trio_beat.backends``, so that any distribution can add one::

    [project.entry-points."trio_beat.backends"]
    carrier-pigeon = "my_package:PigeonBackend"

`trio_beat.testing.check_backend` runs the contract below over it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from importlib.metadata import entry_points
from typing import Final, Self
from urllib.parse import SplitResult

from .._exceptions import BackendError, UnknownBackend
from .._protocol.messages import Message
from .._text import public_backend, split_url

__all__ = ["Backend", "Receiver", "Told", "backend_from_url"]

GROUP: Final = "trio_beat.backends"

#: The extra of this distribution that installs a package, by the module that is imported.
_EXTRAS: Final = {"hiredis": "redis"}


class Receiver(ABC):
    """What a backend tells its hub.

    All of it is told in the order in which it happened at the broker, by one task at a time for a
    channel. The methods do not raise, and do not wait for the backend.
    """

    @abstractmethod
    async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
        """A message of a subscribed channel has come.

        Args:
            channel: where it came.
            message: with the payload and the kind with which it was published.
            sender: of a message that this hub published what it gave to `Backend.publish`; None for
                a message of any other origin.
        """

    @abstractmethod
    def lost(self, channels: Collection[str]) -> None:
        """Channels are subscribed no more, and messages of them may have been lost.

        The hub subscribes those that it still needs again, once the broker is there.

        Args:
            channels: those that were subscribed, and are concerned.
        """

    @abstractmethod
    def away(self, error: BackendError) -> None:
        """The broker does not answer. Told once an outage, after `lost`.

        Args:
            error: why; its text is for people, and has no secrets.
        """

    @abstractmethod
    def back(self) -> None:
        """The broker has answered again; told once for each `away`."""


#: Called with a channel and its last message; None: it has none.
Told = Callable[[str, Message | None], None]


class Backend(ABC):
    """Carries messages between hubs.

    It knows channels (any non-empty text) and messages (any text or bytes). What they mean is the
    hub's; how they are serialized is the backend's. A message comes back with the payload and the
    kind with which it was published. What others publish at the broker is delivered as well,
    whatever bytes it is.

    One hub has one backend object, and uses it between entering and leaving `running`.

    **Ordering.** All hubs see the messages of one channel in the same order. Between channels
    there is none.

    **Delivery.** `Receiver.deliver` is awaited for each message of a channel that is subscribed,
    one at a time for a channel, and also for a message that this hub has published: that one comes
    with its `sender`, and no other does. It may come before `publish` returns, or after. A message
    is delivered at most once.

    **The last message** is the broker's. It stands at its place among the messages that are
    delivered: it is as new as any that was delivered before, and each later one is delivered after.

    **Concurrency.** `publish` and `last` may be called by many tasks at a time, and do not wait for
    one another; messages that one task publishes to a channel keep their order. `subscribe` and
    `unsubscribe` are called by one task, and not twice in a row for a channel.

    **Cancellation.** Every method may be cancelled at any await; a `publish` that was cancelled
    may or may not have happened. Leaving `running` always closes everything.

    **The broker away.** While it is, `publish`, `subscribe` and `last` raise `BackendError` and do
    not wait for ever. Nothing is lost in silence: where messages of a subscribed channel may not
    have come, the hub hears of it by `Receiver.lost`. The backend finds its broker again by itself;
    what was subscribed before is subscribed again by the hub.
    """

    @property
    def software(self) -> str | None:
        """What the broker says that it is, such as ``valkey 9.1.0``; None: it is not known now."""
        return None

    @classmethod
    @abstractmethod
    def from_url(cls, url: SplitResult) -> Self:
        """Make a backend.

        Args:
            url: its URL, taken apart. It may name several hosts, with commas between them: then
                `hostname` and `port` cannot be used, but `netloc`.

        Raises:
            ValueError: the URL has a part that the backend cannot use; the message names it and
                says what is allowed. It quotes neither user nor password.
        """

    @abstractmethod
    def running(self, receiver: Receiver) -> AbstractAsyncContextManager[None]:
        """Run the backend while the context lasts.

        A broker that cannot be reached is no error: `Receiver.away` is told before the context is
        entered.

        Args:
            receiver: what is told of messages and outages.

        Raises:
            BackendError: on entering: what was found at the broker's address cannot be used with
                this configuration.
        """

    @abstractmethod
    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        """Send a message to every hub that has subscribed to a channel.

        Returns once the broker has confirmed it.

        Args:
            channel: where to.
            message: what.
            expire: seconds for which it is kept as the channel's last message; 0: it is not kept,
                and what was kept before stays.
            sender: any object; it comes back with this hub's copy of the message.

        Raises:
            BackendError: it is not confirmed: it may not have reached every hub.
        """

    @abstractmethod
    async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
        """Hear channels. When this returns, every later message of them is delivered.

        Args:
            channels: those that are not subscribed yet; may be thousands.

        Returns:
            Those that the broker refuses, each with the reason. All others are subscribed.

        Raises:
            BackendError: none of them is subscribed.
        """

    @abstractmethod
    async def unsubscribe(self, channels: Collection[str]) -> None:
        """Hear channels no more. Does not raise for a broker that is away."""

    @abstractmethod
    async def last(self, channels: Collection[str], told: Told) -> Mapping[str, BackendError]:
        """Tell the last message of each of some subscribed channels.

        Args:
            channels: which; may be thousands.
            told: called once for each, at its place among the messages that are delivered; not
                after `last` has returned or raised.

        Returns:
            Those of which it cannot be told, each with the reason; `told` was not called for them.

        Raises:
            BackendError: the broker is away; `told` was perhaps called for some of them.
        """


def backend_from_url(url: str) -> Backend:
    """Make the backend that a URL names.

    Args:
        url: for example ``memory://``.

    Raises:
        UnknownBackend: nothing is installed for its scheme.
        BackendError: it is no URL, or has a part that its backend cannot use; or a package that
            the backend needs is not installed. The message has no user, password or query.
    """
    shown = public_backend(url)
    try:
        parts = split_url(url)
    except ValueError as exc:
        # The cause may quote what stands before the host.
        cause, why = (None, "") if "'" in str(exc) else (exc, f": {exc}")
        raise BackendError(f"{shown!r} is not a URL{why}") from cause
    known = entry_points(group=GROUP)
    if not parts.scheme or parts.scheme not in known.names:
        raise UnknownBackend(url, sorted(known.names))
    try:
        backend_class = known[parts.scheme].load()
    except ImportError as exc:
        raise BackendError(_cannot_import(parts.scheme, exc)) from exc
    try:
        backend: Backend = backend_class.from_url(parts)
    except ValueError as exc:
        raise BackendError(f"{shown!r}: {exc}") from exc
    return backend


def _cannot_import(scheme: str, exc: ImportError) -> str:
    module = (exc.name or "").partition(".")[0]
    if module in _EXTRAS:  # not installed, or too old
        install = f"pip install 'trio-beat[{_EXTRAS[module]}]' installs it"
        return f"backend {scheme}:// needs {module}: {install}"
    return f"backend {scheme}:// cannot be imported: {exc}"
