"""What a peer can do, as its frames tell (RFC 6455)."""

from __future__ import annotations

from typing import Final, NamedTuple


class Pong(NamedTuple):
    """The peer sent a PONG (RFC 6455, section 5.5.3)."""

    number: int  #: of the PING that it answers, or -1 where it answers none of ours


class Reply(NamedTuple):
    """The protocol demands that these bytes be sent: a PONG."""

    frame: bytes


class PeerClose(NamedTuple):
    """The peer sent a close frame (RFC 6455, section 5.5.1); `frame` is the answer to it."""

    code: int
    reason: str
    frame: bytes


class Failure(NamedTuple):
    """The peer violated the protocol (RFC 6455, section 7.1.7) or a limit; `frame` tells it how."""

    code: int
    reason: str
    frame: bytes


class EndOfStream(NamedTuple):
    """The peer closed the socket without a close frame."""


END_OF_STREAM: Final = EndOfStream()

#: What can be received; a message is a `str` or `bytes`.
Event = str | bytes | Pong | Reply | PeerClose | Failure | EndOfStream
