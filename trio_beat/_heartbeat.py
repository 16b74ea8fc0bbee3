"""What the heartbeat decides, apart from when and over what.

The idea: silence counts only while we listen. A beat is *missed* when the reader waited for bytes
from one beat to the next without a break, and none came. Any other silent beat may be our own
fault: the application had not taken the last message, the process was frozen, or output to the peer
was still moving. Such a beat does not count as missed, and does not forgive the beats that were.

1. `Verdict.heard`: bytes came. The peer is alive, and the reader has stopped waiting.
2. `Verdict.listen`: the reader waits for bytes from now on.
3. `Verdict.beat`: a beat has passed. Judge it and begin the next one.

A lossy network makes answers late: TCP waits longer with each packet that it sends again. Where the
kernel reports loss, a silent beat is *granted*: it does not count as missed. At most `misses` beats
in a row are granted, since the kernel acknowledges also for a process that is stopped. So a peer
that falls silent on a lossy network is dead at most ``2 * misses + 1`` intervals later.

Bytes of any kind prove life, not only a PONG. After `misses` missed beats in a row the peer is
dead. The first of them began after its last byte, so that is more than `misses` and at most
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
            the process's own pauses are as long as beats, and no peer can be judged.
        misses: how many beats in a row make the peer dead when it misses them; 1 or more. A silent
            peer is dead at most ``(misses + 1) * interval`` seconds after its last byte.
        message: a text heartbeat, sent with every beat as a message of its own, for peers that
            cannot see a PING, such as a script in a browser. A received message that equals it
            proves life and is not passed on. None: no text heartbeat is sent or expected.

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
        """Seconds after which a silent peer is dead, where nothing excuses its silence."""
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
        #: Invariant: true only while `listening` is. It begins as false, because the first beat
        #: of a connection is shorter than an interval.
        self.silent = False

    @property
    def clear(self) -> bool:
        """Whether the next beat has nothing to judge: the peer was heard since the last one.

        Where the first missed beat makes the peer dead, every beat is judged.
        """
        return self.listening and not self.silent and not self.missed and self._limit > 1

    def heard(self) -> None:
        """Note that bytes of any kind came; the reader is busy with them until `listen`."""
        self.missed = self._granted = 0
        self.silent = False
        self.listening = False

    def listen(self) -> None:
        """Note that the reader waits for bytes from now on."""
        self.listening = True

    def beat(self, *, fair: bool = True, lossy: bool = False) -> bool:
        """Judge the beat that has passed.

        Args:
            fair: False where the silence may be our own fault in a way that the reader cannot
                know: the process stood still, or the peer has not received all that we sent.
            lossy: the network lost packets during this beat, but it works.

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
