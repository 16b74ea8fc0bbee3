"""What a server has once: its clock, its poller, its limits."""

from __future__ import annotations

import ssl

import trio

from .._connection.pacing import Pacing
from .._connection.shared import Shared
from .._heartbeat import Heartbeat
from .._metronome import Metronome
from .._observer import Notifier
from .._transports.framing import ReadContext
from .._transports.polling import Poller
from .._transports.tls_session import Bios
from .._transports.unfinished import Unfinished
from .._turns import Turns
from .limits import Limits
from .places import Places


class Parts:
    """The parts of a server that its connections share.

    Args:
        heartbeat: how connections beat.
        limits: what the server holds at most.
        ssl_context: for the next TLS handshake; None: no TLS.
        notify: is told what happens.
    """

    def __init__(
        self,
        heartbeat: Heartbeat,
        limits: Limits,
        ssl_context: ssl.SSLContext | None,
        notify: Notifier,
    ) -> None:
        self.limits = limits
        self.ssl_context = ssl_context
        self.metronome = Metronome(heartbeat.interval)
        self.shared = Shared(heartbeat, self.metronome, limits.outbox, limits.slow_policy, notify)
        if limits.message_rate or limits.byte_rate:
            self.shared.pacing = Pacing(limits.message_rate, limits.byte_rate, limits.rate_policy)
        #: What addresses and users take.
        self.places = Places(limits)
        self.turns = Turns()
        self.poller = Poller(self.turns)
        self.unfinished = Unfinished(limits.message_timeout, limits.unfinished)
        self.reads = ReadContext(limits.message_size, self.turns, self.unfinished)
        self.bios = Bios()
        #: Set when the server begins to shut down.
        self.draining = trio.Event()
