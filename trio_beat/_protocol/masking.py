"""A client's frames are masked, each with a key that nobody can predict (RFC 6455, section 5.3).

What a client sends is made of the same plain frames as what a server sends. They become masked ones
on their way to the socket, piece by piece, wherever the pieces are cut.
"""

from __future__ import annotations

import os
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it is not compiled
    from websockets.utils import apply_mask

from .frames import MOST_CONTROL

#: The bit of a frame's second byte that tells that it is masked, and those of its length; bytes of
#: the mask's key, and of a head without one, by these bits (section 5.2).
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_KEY: Final = 4
_HEAD: Final = 2
_HEADS: Final = {126: 4, 127: 10}


class Masker:
    """Masks the frames of one connection."""

    __slots__ = ("_head", "_key", "_left")

    def __init__(self) -> None:
        #: What has come of a frame's head.
        self._head = b""
        #: Bytes of the current frame that are yet to come; 0 between two frames.
        self._left = 0
        #: The current frame's key, turned to the next byte; empty: it came masked.
        self._key = b""

    def mask(self, data: bytes | memoryview) -> bytes:
        """Mask the next bytes.

        Args:
            data: some bytes of a series of frames. A frame that is masked already passes as it is:
                the parser's answers are.

        Returns:
            What can be sent now: of a head that is not whole, nothing.
        """
        size = len(data) - _HEAD
        if 0 <= size <= MOST_CONTROL and data[1] == size and not (self._left or self._head):
            key = os.urandom(_KEY)  # one short frame, as most are
            return bytes((data[0], _MASKED | size)) + key + apply_mask(data[_HEAD:], key)
        parts: list[bytes | memoryview] = []
        view = memoryview(self._head + data if self._head else data)
        self._head = b""
        while view:
            if not self._left:
                begun = self._begin(view, parts)
                if not begun:
                    self._head = bytes(view)
                    break
                view = view[begun:]
            piece = view[: self._left]
            parts.append(apply_mask(piece, self._key) if self._key else piece)
            self._left -= len(piece)
            if self._key:
                turned = len(piece) % _KEY
                self._key = self._key[turned:] + self._key[:turned]
            view = view[len(piece) :]
        return b"".join(parts)

    def _begin(self, view: memoryview, parts: list[bytes | memoryview]) -> int:
        """Begin a frame; returns the bytes of its head, or 0 where that is not whole."""
        if len(view) < _HEAD:
            return 0
        short = view[1] & _LENGTH
        size = _HEADS.get(short, _HEAD)
        if len(view) < size:
            return 0
        self._left = int.from_bytes(view[_HEAD:size], "big") if size > _HEAD else short
        if view[1] & _MASKED:
            self._key = b""
            self._left += _KEY
            parts.append(view[:size])
        else:
            self._key = os.urandom(_KEY)
            parts += (bytes((view[0], _MASKED | view[1])), view[_HEAD:size], self._key)
        return size
