"""What the heartbeat decides, apart from when and over what.

The idea: silence counts only while we were listening. A beat is *missed* when, from one beat to
the next, the reader stood waiting for bytes without a break and none came. Everything else (the
application had not taken the last message, the process was frozen, output to the peer was still
moving) is our silence and not the peer's: such a beat neither counts as missed nor forgives the
beats that were.

1. `Verdict.heard` - bytes came: the peer lives, and whoever read them has stopped waiting.
2. `Verdict.listen` - the reader waits for bytes from now on.
3. `Verdict.beat` - a beat has passed: judge it, begin the next one.

A line that loses packets makes answers late: TCP waits longer with each packet that it sends again.
Where the kernel tells of it, a silent beat is *granted*: it is not missed either, but only `misses`
of them in a row are, since a stopped process's kernel acknowledges, too. So a peer that falls
silent on such a line is gone at most ``2 * misses + 1`` intervals later.

Bytes of any kind prove life, not only a pong. After `misses` missed beats in a row the peer is
dead; as the first of them began after its last byte, that is more than `misses` and at most
`misses + 1` intervals after that byte.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._checks import MOST_MISSES, check_seconds, check_text, check_whole


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How a connection beats, and when it counts as dead.

    Args:
        interval: seconds from one beat to the next; more than 0. Far below a tenth of a second
            the process's own pauses are as long as beats, and nobody can be judged.
        misses: how many beats in a row the peer may miss before it is dead; 1 or more. A peer
            that falls silent is gone no later than ``(misses + 1) * interval`` seconds later.
        message: text that is sent as a message of its own on every beat, for peers that cannot
            see a PING, such as a script in a browser; a received message that equals it proves
            life and goes no further. None: such messages are neither sent nor expected.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is outside its range, or `message` cannot be encoded.
    """

    interval: float = 4.0
    misses: int = 3
    message: str | None = None

    def __post_init__(self) -> None:
        check_seconds("interval", self.interval)
        check_whole("misses", self.misses)
        if self.misses > MOST_MISSES:
            raise ValueError(f"misses is {self.misses!r}; it must be {MOST_MISSES} or less")
        if self.message is not None:
            check_text("message", self.message)
        if self.message == "":
            raise ValueError("message is empty; it must be a text, or None for no text heartbeat")

    @property
    def patience(self) -> float:
        """Seconds after which a silent peer is gone, where nothing excuses it."""
        return (self.misses + 1) * self.interval


class Verdict:
    """Whether a peer is still alive. Pure: it knows neither clock nor socket.

    Args:
        misses: how many missed beats in a row make a peer dead.
    """

    __slots__ = ("_granted", "_limit", "listening", "missed", "silent")

    def __init__(self, misses: int) -> None:
        self._limit = misses
        #: The reader waits for bytes.
        self.listening = False
        #: Beats missed in a row so far.
        self.missed = 0
        #: Beats granted since the peer was last heard.
        self._granted = 0
        #: The reader has been waiting ever since the last beat, and nothing came.
        #: Invariant: only true while `listening` is; a connection begins with false, because
        #: its first beat is a part of one.
        self.silent = False

    @property
    def clear(self) -> bool:
        """The next beat has nothing to judge: the peer was heard since the last one.

        With one miss allowed the first silent beat is the last, and each is looked at.
        """
        return self.listening and not self.silent and not self.missed and self._limit > 1

    def heard(self) -> None:
        """Bytes of any kind came from the peer; the reader is busy with them until `listen`."""
        self.missed = self._granted = 0
        self.silent = False
        self.listening = False

    def listen(self) -> None:
        """The reader waits for bytes from now on."""
        self.listening = True

    def beat(self, *, fair: bool = True, lossy: bool = False) -> bool:
        """A beat has passed.

        Args:
            fair: False when the silence of this beat may be ours in a way that the reader cannot
                know: the process stood still, or the peer has not yet had all that we sent.
            lossy: the line has lost something in this beat, and works.

        Returns:
            Whether the peer is dead.
        """
        if self.silent and fair:
            if lossy and self._granted < self._limit:
                self._granted += 1
            else:
                self.missed += 1
        self.silent = self.listening
        return self.missed >= self._limit
