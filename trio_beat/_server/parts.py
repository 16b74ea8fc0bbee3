"""What a server has once for its sockets: its poller, its turns, its TLS."""

from __future__ import annotations

import ssl

from .._transports.framing import ReadContext
from .._transports.polling import Poller
from .._transports.tls_session import Bios
from .._transports.unfinished import Unfinished
from .._turns import Turns
from .limits import Limits


class Parts:
    """The parts of a server that its sockets share.

    Args:
        limits: what the server holds at most.
        ssl_context: for the next TLS handshake; None: no TLS.
    """

    def __init__(self, limits: Limits, ssl_context: ssl.SSLContext | None) -> None:
        self.ssl_context = ssl_context
        self.turns = Turns()
        self.poller = Poller(self.turns)
        self.unfinished = Unfinished(limits.message_timeout, limits.unfinished)
        self.reads = ReadContext(limits.message_size, self.turns, self.unfinished)
        self.bios = Bios()
