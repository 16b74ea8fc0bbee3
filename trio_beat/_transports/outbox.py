"""What a socket did not take at once.

An outbox exists only while something waits. It holds whole frames, and may drop messages:

1. A frame that the peer already has a part of is never dropped, since the peer could not make sense
   of what follows.
2. Control frames (RFC 6455, section 5.5), and a text heartbeat behind its PING, are never dropped.
   Of the frames of a beat no more than one waits; the caller bounds the PONGs by `replies`, and
   they are put together: thousands of them would be gone through at each drop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableSequence
from typing import Final

import trio
from websockets.frames import Opcode

#: A bit of the opcode, and so of a frame's first byte, tells control frames from messages (RFC
#: 6455, section 5.2); a handshake's response counts with them.
_CONTROL: Final = 0x08
_PING: Final = bytes([0x80 | Opcode.PING])
_PONG: Final = bytes([0x80 | Opcode.PONG])
#: Buffers of one gathering write; the kernel takes up to 1024 (``UIO_MAXIOV``).
_MOST_BUFFERS: Final = 64
#: Bytes of PONGs that are put together, so that little is copied when one more comes.
_TOGETHER: Final = 4096


def _append_pongs(frames: MutableSequence[bytes], pongs: bytes) -> None:
    """Put PONGs behind some frames, of which the peer may have a part of the first."""
    last = frames[-1] if len(frames) > 1 else b""
    if last[:1] == _PONG and len(last) + len(pongs) <= _TOGETHER:
        frames[-1] = last + pongs
    else:
        frames.append(pongs)


class Outbox:
    """Frames that wait for a socket.

    Args:
        frame: the first frame.
        taken: how many of its bytes the socket has had already.
        keep: the first frame may not be dropped even if the socket has had nothing of it.
    """

    __slots__ = ("_beat", "_frames", "_keep", "_taken", "emptied", "replies", "size")

    def __init__(self, frame: bytes, taken: int = 0, *, keep: bool = False) -> None:
        self._frames = deque((frame,))
        self._taken = taken
        self._keep = keep
        #: Whether the frames of a beat wait; they begin with a PING, and nothing else does.
        self._beat = False
        #: Bytes of PONGs that wait.
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
        _append_pongs(self._frames, frame)
        self.size += len(frame)
        self.replies += len(frame)

    def append_beat(self, frame: bytes) -> None:
        """Put the frames of a beat at the end, unless those of an earlier one still wait."""
        if not self._beat:
            self.append(frame)
            self._beat = True

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
            frame = self._frames.popleft()
            count -= len(frame)
            begin = frame[:1]  # none, where a handshake's response is somebody else's
            if begin == _PONG:
                self.replies -= len(frame)
            elif begin == _PING:
                self._beat = False
            self._keep = False
        self._taken = count

    def keep(self) -> None:
        """Never drop the first frame: its first byte may be on its way, though not taken."""
        self._keep = True

    def drop_oldest(self, limit: int) -> int:
        """Drop messages, oldest first, until less than `limit` bytes wait.

        Returns:
            How many messages were dropped.
        """
        kept: list[bytes] = []
        if self._taken or self._keep:
            kept.append(self._frames.popleft())
        dropped = 0
        while self._frames and self.size >= limit:
            frame = self._frames.popleft()
            if frame[0] & _CONTROL:
                if frame[:1] == _PONG:
                    _append_pongs(kept, frame)
                else:
                    kept.append(frame)
                continue
            self.size -= len(frame)
            dropped += 1
        self._frames.extendleft(reversed(kept))
        return dropped

    def drop_all(self) -> None:
        """Drop every message that may be dropped."""
        self.drop_oldest(0)
