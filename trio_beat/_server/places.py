"""What an address and a user may take of a server: connections, and handshakes a second.

1. An address is a number: all of an IPv4 address, or the first 64 bits of an IPv6 address, the
   least that a site is given (RFC 6177, section 2). What has no address, as behind a Unix socket,
   counts as one.
2. A place is taken before the application is asked, so that handshakes under way take no more than
   there are. It is left when its connection has ended or was never opened.
3. An address is known only as long as it has a place, or a bucket that is not full.
4. No table grows without bound, and none refuses a newcomer because it is full. Places belong to
   connections and handshakes under way, which are limited. Of too many buckets, the one that was
   not used for longest is forgotten: it has been filling for longest.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address
from math import ceil
from typing import Final, Generic, TypeAlias, TypeVar

import trio

from .._exceptions import Refused
from .._identity import Identity
from .._observer import LimitName
from .._rate import FULL, Rate
from .limited import Limited
from .limits import Limits

#: Where no value is given; these do not hold for loopback, Unix and private addresses, where a
#: proxy may stand for everybody.
CONNECTIONS: Final = 1000
HANDSHAKES: Final = 50.0
#: Seconds of handshakes that an address may save up.
_SAVED: Final = 4.0
#: Buckets that are kept, in some 15 MiB.
BUCKETS: Final = 2**16
#: Seconds, so that sums of many tokens are not off by as much.
_SPARE: Final = 1.0
#: Buckets that are forgotten before other tasks get a turn.
_TURN: Final = 1024
#: Seconds after which a peer may come again whose address or user has no place left.
_LATER: Final = "30"
#: What has no address.
_NOWHERE: Final = -1

Address: TypeAlias = IPv4Address | IPv6Address
_Key = TypeVar("_Key", int, str)


class Place:
    """What a connection, or a handshake under way, takes."""

    __slots__ = ("address", "user")

    def __init__(self) -> None:
        #: The number of its address; None: it does not count.
        self.address: int | None = None
        #: None: it does not count, or is not known yet.
        self.user: str | None = None


class _Counts(Generic[_Key]):
    """How many places each key has.

    Args:
        most: of one key.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._counts: dict[_Key, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def take(self, key: _Key) -> bool:
        """Take a place; returns whether there was one."""
        count = self._counts.get(key, 0)
        if count >= self.most:
            return False
        self._counts[key] = count + 1
        return True

    def leave(self, key: _Key) -> None:
        """Give a place back."""
        count = self._counts[key] - 1
        if count:
            self._counts[key] = count
        else:
            del self._counts[key]
            if not self._counts:
                self._counts = {}  # one that has become empty keeps its size


class Buckets:
    """The buckets of addresses that are not full.

    Args:
        rate: handshakes a second of an address.
        most: buckets that are kept.
    """

    def __init__(self, rate: float, most: int = BUCKETS) -> None:
        self._rate = Rate(rate, max(1.0, _SAVED * rate))
        self._most = most
        #: In the order in which they were last used.
        self._buckets: OrderedDict[int, float] = OrderedDict()
        self._used = trio.Event()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: int, now: float) -> float:
        """Take a token.

        Args:
            key: the number of an address.
            now: seconds on Trio's clock.

        Returns:
            0; or seconds until there is one, and none was taken.
        """
        bucket, wait = self._buckets.get(key, FULL), 0.0
        if self._rate.has(bucket, now):
            bucket = self._rate.take(bucket, now)
        else:
            wait = self._rate.ready_at(bucket) - now
        self._buckets[key] = bucket
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        self._used.set()
        return wait

    async def run(self) -> None:
        """Forget the buckets that are full again, until cancelled."""
        while True:
            await self._used.wait()
            # By then all are full that are not used meanwhile.
            await trio.sleep(self._rate.span + _SPARE)
            await self._forget()
            if not self._buckets:
                self._used = trio.Event()

    async def _forget(self) -> None:
        while True:
            now = trio.current_time()
            for _ in range(_TURN):
                key = next(iter(self._buckets), None)
                if key is None or self._buckets[key] > now:
                    return
                del self._buckets[key]
            await trio.lowlevel.checkpoint()


class Places:
    """Limits what addresses and users take.

    Args:
        limits: the server's.
    """

    def __init__(self, limits: Limits) -> None:
        given = limits.connections_per_address
        self._exempt_places = given is None
        most = CONNECTIONS if given is None else given
        #: None, here and below: there is no limit.
        self._addresses = _Counts[int](most) if most else None
        self._exempt_rate = limits.handshake_rate is None
        rate = HANDSHAKES if limits.handshake_rate is None else limits.handshake_rate
        self._handshakes = rate
        self._buckets = Buckets(rate) if rate else None
        most = limits.connections_per_user
        self._users = _Counts[str](most) if most else None

    @property
    def known(self) -> tuple[int, int, int]:
        """How many addresses have places, how many users, and how many addresses have buckets."""
        tables = (self._addresses, self._users, self._buckets)
        addresses, users, buckets = (0 if table is None else len(table) for table in tables)
        return addresses, users, buckets

    async def run(self) -> None:
        """Forget addresses, until cancelled."""
        if self._buckets is not None:
            await self._buckets.run()

    def check_rate(self, address: Address | None) -> None:
        """Count a handshake.

        Args:
            address: where it comes from; None: from nowhere that has one.

        Raises:
            Limited: 429, there were too many.
        """
        if self._buckets is None or (self._exempt_rate and is_exempt(address)):
            return
        wait = self._buckets.take(number(address), trio.current_time())
        if wait:
            text = f"too many handshakes from your address, at most {self._handshakes:g} a second"
            raise Limited("handshake_rate", 429, text, {"Retry-After": str(ceil(wait))})

    def enter(self, address: Address | None) -> Place | None:
        """Take a place for a handshake.

        Args:
            address: where it comes from; None: from nowhere that has one.

        Returns:
            The place, to be given to `leave`; None: nothing counts.

        Raises:
            Limited: 429, its address has none left.
        """
        counted = not (self._exempt_places and is_exempt(address))
        if self._addresses is None or not counted:
            return None if self._users is None else Place()
        key = number(address)
        if not self._addresses.take(key):
            raise _full("connections_per_address", "from your address", self._addresses.most)
        place = Place()
        place.address = key
        return place

    def identified(self, place: Place | None, identity: Identity | None) -> None:
        """Take a place of a user's, now that it is known who the peer is.

        Args:
            place: its place, from `enter`.
            identity: who it is; None: it is anonymous.

        Raises:
            Limited: 429, the user has none left.
        """
        if self._users is None or place is None or identity is None or identity.user is None:
            return
        if not self._users.take(identity.user):
            raise _full("connections_per_user", "of this user", self._users.most)
        place.user = identity.user

    def leave(self, place: Place | None) -> None:
        """Give a place back. Idempotent."""
        if place is None:
            return
        if place.address is not None and self._addresses is not None:
            self._addresses.leave(place.address)
        if place.user is not None and self._users is not None:
            self._users.leave(place.user)
        place.address = place.user = None


def number(address: Address | None) -> int:
    """By what an address is known."""
    if address is None:
        return _NOWHERE
    if isinstance(address, IPv4Address):
        return int(address)
    return int(address) >> 64 | 1 << 64  # no IPv4 address is so large


def is_exempt(address: Address | None) -> bool:
    """Whether the defaults do not hold for an address."""
    return address is None or address.is_private or address.is_loopback or address.is_link_local


def _full(limit: LimitName, what: str, most: int) -> Refused:
    text = f"too many connections {what}, at most {most:,}"
    return Limited(limit, 429, text, {"Retry-After": _LATER})
