"""What a socket did not take at once.

An outbox exists only while something waits. It holds whole frames; one that the peer already has a
part of is never dropped, since the peer could not make sense of what follows.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

#: Buffers of one gathering write; the kernel takes up to 1024 (``UIO_MAXIOV``).
_MOST_BUFFERS: Final = 64


class Outbox:
    """Frames that wait for a socket.

    Args:
        frame: the first frame.
        taken: how many of its bytes the socket has had already.
        keep: the first frame may not be dropped even if the socket has had nothing of it.
    """

    __slots__ = ("_beat", "_frames", "_gone", "_keep", "_taken", "emptied", "replies", "size")

    def __init__(self, frame: bytes, taken: int = 0, *, keep: bool = False) -> None:
        self._frames = deque((frame,))
        self._taken = taken
        self._keep = keep
        #: How many frames have left, and how many must have for the last beat to be among them.
        self._gone, self._beat = 0, 0
        #: Bytes of replies that were put here so far.
        self.replies = 0
        #: Bytes that wait.
        self.size = len(frame) - taken
        #: Set once nothing waits any more, or nothing ever will.
        self.emptied = trio.Event()

    def append(self, frame: bytes) -> None:
        """Put a frame at the end."""
        self._frames.append(frame)
        self.size += len(frame)

    def append_reply(self, frame: bytes) -> None:
        """Put a frame that the protocol demands at the end."""
        self.append(frame)
        self.replies += len(frame)

    def append_beat(self, frame: bytes) -> None:
        """Put the frames of a beat at the end, unless those of an earlier one still wait."""
        if self._gone >= self._beat:
            self.append(frame)
            self._beat = self._gone + len(self._frames)

    def buffers(self) -> list[bytes | memoryview]:
        """What to write next: as many frames as one gathering write is worth."""
        frames = self._frames
        buffers: list[bytes | memoryview] = [
            frames[index] for index in range(min(len(frames), _MOST_BUFFERS))
        ]
        if self._taken:
            buffers[0] = memoryview(buffers[0])[self._taken :]
        return buffers

    def taken(self, count: int) -> None:
        """The socket took the next `count` bytes."""
        self.size -= count
        count += self._taken
        while self._frames and count >= len(self._frames[0]):
            count -= len(self._frames.popleft())
            self._gone += 1
            self._keep = False
        self._taken = count

    def drop_oldest(self, limit: int) -> int:
        """Drop frames, oldest first, until less than `limit` bytes wait.

        Returns:
            How many frames were dropped.
        """
        kept = self._frames.popleft() if self._taken or self._keep else None
        dropped = 0
        while self._frames and self.size >= limit:
            self.size -= len(self._frames.popleft())
            dropped += 1
        self._gone += dropped
        if kept is not None:
            self._frames.appendleft(kept)
        return dropped

    def drop_all(self) -> None:
        """Drop every frame that may be dropped."""
        self.drop_oldest(0)
