"""What a socket did not take at once.

An outbox exists only while something waits. It holds whole items, and may drop messages:

1. An item that the peer already has a part of is never dropped, since the peer could not make sense
   of what follows.
2. Only a message is dropped, compressed or not: no control item, and no text heartbeat, which is
   part of its beat. No more than one beat waits. The caller bounds the PONGs by `replies`, and they
   are put together: thousands of them would be gone through at each drop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableSequence
from itertools import islice
from typing import Final

import trio

from .._protocol.messages import BeatFrames, Deflated, Message, Outgoing, Reply

#: Buffers of one gathering write; the kernel takes up to 1024 (``UIO_MAXIOV``).
_MOST_BUFFERS: Final = 64
#: Bytes of PONGs that are put together, so that little is copied when one more comes.
_TOGETHER: Final = 4096


def _append_reply(items: MutableSequence[Outgoing], reply: Reply) -> None:
    """Put PONGs behind some items, of which the peer may have a part of the first."""
    last = items[-1] if len(items) > 1 else None
    if isinstance(last, Reply) and last.size + reply.size <= _TOGETHER:
        items[-1] = Reply(last.frame + reply.frame)
    else:
        items.append(reply)


class Outbox:
    """Messages and control items that wait for a socket. All sizes are those of their frames.

    Args:
        item: the first one.
        taken: how many of its bytes the socket has had already.
        keep: the first item may not be dropped even if the socket has had nothing of it.
    """

    __slots__ = ("_beat", "_items", "_keep", "_taken", "emptied", "replies", "size")

    def __init__(self, item: Outgoing, taken: int = 0, *, keep: bool = False) -> None:
        self._items: deque[Outgoing] = deque((item,))
        self._taken = taken
        self._keep = keep
        #: Whether a beat waits, or the rest of one.
        self._beat = isinstance(item, BeatFrames)
        #: Bytes of the frames of PONGs that wait, or of which a rest waits.
        self.replies = item.size if isinstance(item, Reply) else 0
        #: Bytes that wait.
        self.size = item.size - taken
        #: Set once nothing waits any more, or nothing ever will.
        self.emptied = trio.Event()

    def append(self, item: Outgoing) -> None:
        """Put a message, a close frame or a response at the end."""
        self._items.append(item)
        self.size += item.size

    def append_reply(self, reply: Reply) -> None:
        """Put what the protocol demands at the end."""
        _append_reply(self._items, reply)
        self.size += reply.size
        self.replies += reply.size

    def append_beat(self, beat: BeatFrames) -> None:
        """Put a beat at the end, unless an earlier one still waits."""
        if not self._beat:
            self.append(beat)
            self._beat = True

    @property
    def first(self) -> Outgoing:
        """The item that has to be written next, or the rest of it; there must be one."""
        return self._items[0]

    def buffers(self) -> list[bytes | memoryview]:
        """What to write next: as many frames as one gathering write is worth."""
        buffers: list[bytes | memoryview] = [
            item.frame for item in islice(self._items, _MOST_BUFFERS)
        ]
        if self._taken:
            buffers[0] = memoryview(buffers[0])[self._taken :]
        return buffers

    def taken(self, count: int) -> None:
        """The socket took the next `count` bytes."""
        self.size -= count
        count += self._taken
        while self._items and count >= self._items[0].size:
            item = self._items.popleft()
            count -= item.size
            if isinstance(item, Reply):
                self.replies -= item.size
            elif isinstance(item, BeatFrames):
                self._beat = False
            self._keep = False
        self._taken = count

    def keep(self) -> None:
        """Never drop the first item: its first byte may be on its way, though not taken."""
        self._keep = True

    def drop_oldest(self, limit: int) -> int:
        """Drop messages, oldest first, until less than `limit` bytes wait.

        Returns:
            How many messages were dropped.
        """
        kept: list[Outgoing] = []
        if self._taken or self._keep:
            kept.append(self._items.popleft())
        dropped = 0
        while self._items and self.size >= limit:
            item = self._items.popleft()
            if isinstance(item, Message | Deflated):
                self.size -= item.size
                dropped += 1
            elif isinstance(item, Reply):
                _append_reply(kept, item)
            else:
                kept.append(item)
        self._items.extendleft(reversed(kept))
        return dropped

    def drop_all(self) -> None:
        """Drop every message that may be dropped."""
        self.drop_oldest(0)
