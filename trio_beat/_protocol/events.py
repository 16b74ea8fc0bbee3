"""What a peer can do, as its frames tell (RFC 6455)."""

from __future__ import annotations

from typing import Final, NamedTuple

from .messages import CloseFrame, Reply


class Pong(NamedTuple):
    """The peer sent a PONG (RFC 6455, section 5.5.3)."""

    number: int  #: of the PING that it answers, or -1 where it answers none of ours


class PeerClose(NamedTuple):
    """The peer sent a close frame (RFC 6455, section 5.5.1)."""

    code: int
    reason: str
    reply: CloseFrame | None  #: the answer to it; None: it was sent already


class Failure(NamedTuple):
    """The peer violated the protocol (RFC 6455, section 7.1.7) or a limit."""

    code: int
    reason: str
    reply: CloseFrame | None  #: tells the peer how; None: it was told already


class EndOfStream(NamedTuple):
    """The peer closed the socket without a close frame."""


END_OF_STREAM: Final = EndOfStream()

#: What can be received; a message is a `str` or `bytes`, and a `Reply` is to be sent.
Event = str | bytes | Pong | Reply | PeerClose | Failure | EndOfStream
