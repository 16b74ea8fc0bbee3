"""Who the client is where a proxy stands between it and the server.

1. Only a peer whose address is trusted is believed, and only two headers of it: X-Forwarded-For and
   X-Forwarded-Proto. X-Forwarded-Host is believed where that is asked for, since many a proxy
   passes on what the client sent. No other header is believed.
2. Each proxy appends to X-Forwarded-For the address of the one that it serves; what stands before
   that is the client's own word. So addresses are read from the right, over all lines in their
   order, as long as that of the one who appended them is trusted. The first one that is not trusted
   is the client's. What is no address ends the count: the last address before it stands.
3. Of the other two headers the last value counts, for the same reason.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal, NamedTuple, TypeAlias

from websockets.datastructures import Headers

from .._checks import check_kind
from .._exceptions import Refused
from .._log import get_logger
from .._protocol.addresses import Address, read_address
from .._protocol.head import Head, fields
from .._transports.kernel import LOCAL
from .pending import PendingSocket

_log = get_logger("trio_beat.server")

Scheme: TypeAlias = Literal["http", "https"]
_Network: TypeAlias = IPv4Network | IPv6Network

#: Stands for all peers over a Unix socket.
UNIX: Final = "unix"
#: What a proxy is expected to be.
_EXPECTED: Final = "an address, a network such as 10.0.0.0/8, or unix"
#: Proxies between client and server; those beyond are not believed.
_MOST_PROXIES: Final = 32
_FOR: Final = "X-Forwarded-For"
_PROTO: Final = "X-Forwarded-Proto"
_HOST: Final = "X-Forwarded-Host"
#: Headers by which a proxy gives itself away.
_FORWARDING: Final = (_FOR, _PROTO, _HOST, "Forwarded")
#: All that counts here, in lower case.
LOOKED_AT: Final = frozenset(name.lower() for name in (*_FORWARDING, "Host"))
#: Some proxies tell the scheme of a WebSocket by its own name.
_SCHEMES: Final[dict[str, Scheme]] = {
    "http": "http",
    "https": "https",
    "ws": "http",
    "wss": "https",
}
#: A host, with or without a port (RFC 3986, section 3.2.2; without percent-encoding).
_HOST_VALUE: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=-]+)(:[0-9]{0,5})?")
_HOST_LINE: Final = re.compile(rb"(?im)^host:[^\r\n]*")
#: What IPv4 is mapped into (RFC 4291, section 2.5.5.2).
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


class Client(NamedTuple):
    """Who asks, as far as that is believed."""

    #: Mapped addresses are those of IPv4; None: it came over a Unix socket, or has left.
    address: Address | None
    #: The same for people, with the port where that is known.
    peer: str
    #: None: not known, since it came without TLS, and without a trusted proxy's word.
    scheme: Scheme | None
    #: Host and port that it asked for; empty where it did not tell.
    host: str

    @property
    def forwarded(self) -> bool:
        """Whether a proxy has told the address: then it has no port."""
        return self.peer == str(self.address)


class Proxies:
    """The proxies that are trusted.

    Args:
        trusted: addresses, networks, or ``unix`` for all peers over a Unix socket.
        forwarded_host: believe their X-Forwarded-Host.

    Raises:
        TypeError: an argument is of another type.
        ValueError: one of `trusted` cannot be read, or `forwarded_host` is given without any.
    """

    def __init__(self, trusted: Sequence[str] = (), *, forwarded_host: bool = False) -> None:
        # Each letter of a text would be one.
        if isinstance(trusted, str | bytes) or not isinstance(trusted, Iterable):
            raise TypeError(f"trusted_proxies is {trusted!r}; it must be a list of texts")
        if not isinstance(forwarded_host, bool):
            raise TypeError(f"forwarded_host is {forwarded_host!r}; it must be True or False")
        names = list(trusted)
        for name in names:
            check_kind("trusted proxy", name, str, f"a text: {_EXPECTED}")
            if wrong := wrong_proxy(name):
                raise ValueError(f"trusted proxy {name!r} {wrong}")
        if forwarded_host and not names:
            raise ValueError("forwarded_host is of no use without trusted_proxies")
        self._networks = tuple(_network(name) for name in names if name != UNIX)
        self._unix = UNIX in names
        self._forwarded_host = forwarded_host
        self._warned = False

    def client(self, pending: PendingSocket, headers: Headers) -> Client:
        """Tell who asks.

        Args:
            pending: the socket of the request.
            headers: the request's.
        """
        peer = pending.name
        address = read_address(peer)
        scheme: Scheme | None = pending.scheme
        host = next(iter(headers.get_all("Host")), "")
        if not (self._unix if peer == LOCAL else self._trusts(address)):
            # Whether one that has left meanwhile was trusted is not known.
            if not self._warned and (address is not None or peer == LOCAL):
                self._warn(headers, peer)
            return Client(address, peer, scheme, host)
        client = self._forwarded_for(headers)
        if client is not None:
            address, peer = client, str(client)
        scheme = _SCHEMES.get((_last(headers, _PROTO) or "").lower(), scheme)
        if self._forwarded_host:
            told = _last(headers, _HOST)
            host = told if told is not None and _HOST_VALUE.fullmatch(told) else host
        return Client(address, peer, scheme, host)

    def identify(self, pending: PendingSocket, head: Head) -> None:
        """Let a socket be known by its client, where its request's headers can be read."""
        with contextlib.suppress(Refused):
            pending.client_name = self.client(pending, fields(head.raw)).peer

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)

    def _forwarded_for(self, headers: Headers) -> Address | None:
        """The client's address; None: no proxy has told one that can be read."""
        client = None
        for entry in _from_the_right(headers):
            address = read_address(entry)
            if address is None:
                break
            client = address
            if not self._trusts(address):
                break
        return client

    def _warn(self, headers: Headers, peer: str) -> None:
        name = next((name for name in _FORWARDING if name in headers), None)
        if name is None:
            return
        self._warned = True
        _log.warning(
            "%s sends %s and is not believed; if it is a proxy, name its address with "
            "--trusted-proxy (trusted_proxies of serve); this is not said again",
            peer,
            name,
        )


def _from_the_right(headers: Headers) -> Iterator[str]:
    left = _MOST_PROXIES
    for line in reversed(headers.get_all(_FOR)):
        while left:
            line, comma, entry = line.rpartition(",")
            yield entry.strip(" \t")
            left -= 1
            if not comma:
                break


def _last(headers: Headers, name: str) -> str | None:
    """The last value of a header; None: it is not there."""
    lines = headers.get_all(name)
    return lines[-1].rpartition(",")[2].strip(" \t") if lines else None


def wrong_proxy(name: str) -> str | None:
    """What is wrong with the name of a trusted proxy, for people; None: nothing."""
    if name == UNIX:
        return None
    try:
        ip_network(name)
    except ValueError:
        with contextlib.suppress(ValueError):
            return f"has bits behind its prefix; should be {ip_network(name, strict=False)}"
        return f"should be {_EXPECTED}"
    return None


def _network(name: str) -> _Network:
    """Read an address or a network; one that is mapped into IPv6 is that of IPv4."""
    network = ip_network(name)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        first = int(network.network_address) & 0xFFFF_FFFF
        return IPv4Network((first, network.prefixlen - _MAPPED.prefixlen))
    return network


def asked_for(head: Head, headers: Headers, host: str) -> tuple[Head, Headers]:
    """Put the host that a trusted proxy tells in the place of the one that it asked for.

    So applications find it where they look for it.

    Args:
        head: the request's, with one Host.
        headers: the same, parsed.
        host: as `Client` has it.

    Returns:
        Both with that host; the same ones where they have it already.
    """
    if headers.get_all("Host") == [host]:
        return head, headers
    line_end = head.raw.index(b"\n") + 1
    line = b"Host: " + host.encode("latin-1")
    block = _HOST_LINE.sub(lambda _: line, head.raw[line_end:], count=1)
    told = head._replace(raw=head.raw[:line_end] + block)
    return told, fields(told.raw)
