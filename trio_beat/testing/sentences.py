"""What the contract says, and how it is said that it is broken."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from typing import Final

import trio

#: Seconds in which any call must return, and what must come has come.
LIMIT: Final = 30.0
#: Seconds in which a message that should not come would have come.
SETTLE: Final = 0.1


class Sentence(enum.StrEnum):
    """What the contract says, in the words of `Backend` and `Receiver`."""

    ANY = "It knows channels (any non-empty text) and messages (any text or bytes)."
    SAME = "A message comes back with the payload and the kind with which it was published."
    FOREIGN = "What others publish at the broker is delivered as well, whatever bytes it is."
    ORDER = "All hubs see the messages of one channel in the same order."
    EACH = "`Receiver.deliver` is awaited for each message of a channel that is subscribed"
    ONE_AT_A_TIME = "one at a time for a channel"
    SENDER = "that one comes with its `sender`, and no other does."
    ONCE = "A message is delivered at most once."
    PLACE = "It stands at its place among the messages that are delivered"
    MANY = "`publish` and `last` may be called by many tasks at a time, and do not wait"
    SERIES = "messages that one task publishes to a channel keep their order."
    CANCELLED = "Every method may be cancelled at any await"
    LEAVING = "Leaving `running` always closes everything."
    CONFIRMED = "Returns once the broker has confirmed it."
    KEPT = "seconds for which it is kept as the channel's last message"
    NOT_KEPT = "0: it is not kept, and what was kept before stays."
    SUBSCRIBED = "When this returns, every later message of them is delivered."
    REFUSED = "Those that the broker refuses, each with the reason. All others are subscribed."
    UNSUBSCRIBED = "Hear channels no more."
    TOLD = (
        "called once for each, at its place among the messages that are delivered; not after"
        " `last` has returned or raised."
    )
    NOT_TOLD = "Those of which it cannot be told, each with the reason"
    AWAY = "While it is, `publish`, `subscribe` and `last` raise `BackendError` and do not wait"
    UNSUBSCRIBE_AWAY = "Does not raise for a broker that is away."
    IN_SILENCE = "where messages of a subscribed channel may not have come, the hub hears of it"
    LOST = "Channels are subscribed no more, and messages of them may have been lost."
    CONCERNED = "those that were subscribed, and are concerned."
    TOLD_AWAY = "The broker does not answer. Told once an outage, after `lost`."
    TOLD_BACK = "The broker has answered again; told once for each `away`."
    FINDS = "The backend finds its broker again by itself"
    ENTERED_AWAY = "`Receiver.away` is told before the context is entered."


class Broken(AssertionError):  # noqa: N818 - the contract is
    """A sentence of the contract is broken."""

    def __init__(self, sentence: Sentence, seen: str) -> None:
        super().__init__(f"contract broken: {sentence.value!r}: {seen}")


def check(kept: bool, sentence: Sentence, seen: str) -> None:
    """Raise `Broken` unless a sentence is kept.

    Args:
        kept: whether it is.
        sentence: which.
        seen: what was seen in place of that.
    """
    if not kept:
        raise Broken(sentence, seen)


@contextlib.contextmanager
def promptly(sentence: Sentence, what: str, seconds: float = LIMIT) -> Iterator[None]:
    """Check that a block comes to its end.

    Args:
        sentence: is broken if it does not.
        what: what is done there.
        seconds: it may take.
    """
    with trio.move_on_after(seconds) as scope:
        yield
    check(not scope.cancelled_caught, sentence, f"{what} took more than {seconds:g} s")
