"""What all connections of a server share."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import trio

from .._heartbeat import Heartbeat
from .._log import get_logger
from .._metronome import Metronome
from .._observer import Notifier
from .._summary import Summary
from .expiry import Expiry
from .following import Following
from .pacing import Pacing

_log = get_logger("trio_beat.connection")


class SlowPolicy(enum.StrEnum):
    """What happens to a peer whose outbox is full."""

    DISCONNECT = "disconnect"  #: it is closed with 1013
    #: It loses the oldest messages that wait, and they are counted; PINGs and PONGs stay.
    DROP_OLDEST = "drop-oldest"


@dataclass(slots=True)
class Shared:
    """What all connections of one server share."""

    heartbeat: Heartbeat
    metronome: Metronome
    outbox_size: int  #: bytes
    slow_policy: SlowPolicy
    notify: Notifier = field(default_factory=Notifier)
    sends: int = 0
    #: Thousands may end at a time, by a network that fails.
    ends: Summary = field(default_factory=lambda: Summary(_log, "connections ended"))
    #: Ends connections whose identities have expired.
    expiry: Expiry = field(default_factory=Expiry)
    #: What is called when connections end.
    following: Following = field(default_factory=Following)
    #: PONGs for which there is no room are dropped: not every PING needs one (RFC 6455, section
    #: 5.5.3). Else the peer is too slow.
    drops_replies: bool = False
    #: How fast peers may send; None: as fast as they can.
    pacing: Pacing | None = None
    #: Connections with a large message that is being compressed, and what waits behind it.
    orders: dict[object, trio.StrictFIFOLock] = field(default_factory=dict)
    #: Messages that are being compressed, and how; set once that is done.
    under_way: dict[tuple[int, int], trio.Event] = field(default_factory=dict)
    #: What `trio.current_time` asks, twice a beat.
    clock: trio.abc.Clock = field(default_factory=trio.lowlevel.current_clock)
