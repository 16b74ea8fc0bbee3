"""The channel by which the hubs of a backend tell one another to disconnect a user or a session.

1. No URL can name it, since their keys begin with an audience, and neither can `Hub.publish` and
   `Hub.subscribe`: its key is reserved. At the broker anyone may publish to it. What comes is
   checked like the arguments of `Hub.disconnect`, and what is wrong is ignored with a warning.
2. It is subscribed only while there are listeners, and it is no subscriber's: nothing of it is
   counted, and it has no last message.
3. What is sent while the backend does not deliver it is missed. Listeners learn of the loss, and
   can wait until it is delivered.
4. The key of a session is as good as a password: no warning, error or repr quotes a name.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple, NoReturn, Protocol, TypeAlias

import trio

from .._checks import check_seconds
from .._exceptions import BackendError
from .._identity import check_name
from .._log import get_logger
from .._protocol.frames import check_close
from .._protocol.messages import Message
from .._summary import Summary
from .registry import Registry

_log = get_logger("trio_beat.hub")

#: What keys begin with that are not for applications.
RESERVED: Final = "trio-beat:"
CONTROL: Final = f"{RESERVED}control"

#: Characters of a name. Longer than any key of a session that fits into a cookie (RFC 6265, section
#: 6.1), so that tables of names have a size.
LONGEST_NAME: Final = 4096
#: Characters of a message; a name and a reason take no more, however they are escaped.
LONGEST_MESSAGE: Final = 65_536
#: Seconds after which a broker that refuses the channel is asked again.
AGAIN: Final = 60.0

#: What a name is of.
Kind: TypeAlias = Literal["user", "session"]
KINDS: Final[tuple[Kind, ...]] = ("user", "session")
_REST: Final = ("type", "code", "reason", "block")


class Disconnect(NamedTuple):
    """An order to disconnect all connections of a user or a session. `order` makes checked ones."""

    kind: Kind
    name: str
    code: int  #: close code
    reason: str  #: that peers are told
    block: float  #: seconds for which the name is refused

    def __repr__(self) -> str:
        return f"Disconnect({self.kind}=..., code={self.code}, block={self.block})"


def order(
    user: str | None, session: str | None, code: int, reason: str, block: float
) -> Disconnect:
    """Make an order of checked arguments, see `Hub.disconnect`.

    Raises:
        TypeError, ValueError: an argument is wrong.
    """
    if (user is None) == (session is None):
        raise ValueError("exactly one of user and session is needed")
    kind: Kind = "session" if user is None else "user"
    name = session if user is None else user
    assert name is not None
    check_name(kind, name, "a text that is not empty")
    if len(name) > LONGEST_NAME:
        most = f"{LONGEST_NAME:,} characters"
        raise ValueError(f"{kind} has {len(name):,} characters; at most {most} are allowed")
    check_close(code, reason)
    check_seconds("block", block, zero=True)
    return Disconnect(kind, name, code, reason, block)


def to_message(disconnect: Disconnect) -> Message:
    """What an order is on the channel."""
    fields = {
        "type": "disconnect",
        disconnect.kind: disconnect.name,
        "code": disconnect.code,
        "reason": disconnect.reason,
        "block": disconnect.block,
    }
    return Message(json.dumps(fields))


def from_message(message: Message) -> Disconnect:
    """The order that a message is.

    Raises:
        ValueError: it is none; the text says why, and quotes nothing of it.
    """
    text = message.payload
    if not isinstance(text, str):
        raise ValueError("it is not text")  # noqa: TRY004 - a message of another kind
    if len(text) > LONGEST_MESSAGE:
        raise ValueError(f"it has more than {LONGEST_MESSAGE:,} characters")
    try:
        fields = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON, or names a member twice") from None
    if not isinstance(fields, dict) or fields.get("type") != "disconnect":
        raise ValueError('it is no JSON object with "type": "disconnect"')
    if not any(set(fields) == {*_REST, kind} for kind in KINDS):
        members = ", ".join(_REST)
        raise ValueError(f"its members are not {members}, and either of user and session")
    names = {kind: fields.get(kind) for kind in KINDS}
    try:
        return order(**names, code=fields["code"], reason=fields["reason"], block=fields["block"])
    except (TypeError, ValueError):
        raise ValueError("the value of a member is wrong") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON (RFC 8259, section 6)")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a member is named twice")
    return fields


class Listener(Protocol):
    """What is told of orders. Neither method waits or raises."""

    def disconnect(self, disconnect: Disconnect) -> None:
        """An order has come."""

    def missed(self) -> None:
        """Orders may have been lost from here on; see `Control.wait_heard`."""


class Control:
    """A hub's end of the channel.

    Args:
        registry: the hub's channels.
        until_end: waits for something, at most until the hub ends.
    """

    def __init__(
        self,
        registry: Registry,
        until_end: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._until_end = until_end
        self._listeners: dict[Listener, None] = {}
        self._bad = Summary(_log, "bad messages on the control channel")

    def take(self, message: Message) -> None:
        """A message of the channel has come."""
        try:
            disconnect = from_message(message)
        except ValueError as exc:
            if self._bad.alone("ignored", trio.current_time()):
                _log.warning("a message on the control channel was ignored: %s", exc)
            return
        for listener in list(self._listeners):
            listener.disconnect(disconnect)

    def lose(self) -> None:
        """The backend delivers the channel no more."""
        for listener in list(self._listeners):
            listener.missed()

    async def run(self) -> None:
        """Sum up lines of the log, until cancelled."""
        await self._bad.run()

    def tell(self) -> None:
        """Write what is to be summed up."""
        self._bad.tell()

    async def wait_heard(self) -> None:
        """Wait until the backend delivers the channel, or refuses to.

        Raises:
            BackendError: it is away for longer than the grace time.
            HubClosed: that, because the hub has ended; or it was not running.
        """
        await self._until_end(self._hear)

    async def _hear(self) -> None:
        channel = self._registry.get(CONTROL)
        if channel is None:  # nobody listens
            return
        try:
            await self._registry.hear(CONTROL, channel)
        except BackendError:
            if channel.error is None:
                raise

    async def listen(
        self,
        listener: Listener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Tell a listener of orders, until cancelled.

        Args:
            listener: is told.
            task_status: told once the backend is being asked; see `wait_heard`.
        """
        channel = self._registry.hold(CONTROL, 1)
        self._listeners[listener] = None
        try:
            task_status.started()
            while True:
                if channel.error is not None:
                    _log.warning(
                        "the backend refuses %r: no disconnect is heard here (%s)",
                        CONTROL,
                        channel.error,
                    )
                    await trio.sleep(AGAIN)
                    if self._registry.get(CONTROL) is channel:  # else the hub has ended
                        self._registry.hold(CONTROL, 1)
                        self._registry.release(CONTROL, channel)
                await channel.change()
        finally:
            del self._listeners[listener]
            self._registry.release(CONTROL, channel)
