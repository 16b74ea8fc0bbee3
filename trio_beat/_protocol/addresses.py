"""Addresses as they stand in headers and logs: with or without a port, in brackets or not."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

#: In front of a port an address of IPv6 has brackets (RFC 3986, section 3.2.2).
_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::[0-9]{1,5})?")
_BEHIND: Final = re.compile(r":[0-9]{1,5}")


def read_address(text: str) -> Address | None:
    """Read an address; a port behind it, and a zone (RFC 4007, section 11), do not count.

    Args:
        text: such as ``1.2.3.4``, ``1.2.3.4:5``, ``::1``, ``[::1]`` or ``[::1]:5``.

    Returns:
        The address, that of IPv4 where one is mapped into IPv6 (RFC 4291, section 2.5.5.2); None:
        it is none.
    """
    host, colon, _ = text.partition(":")
    try:
        if "." in host and "[" not in host:  # each request is asked for its peer's address
            return IPv4Address(host) if not colon or _BEHIND.fullmatch(text, len(host)) else None
        found = _BRACKETED.fullmatch(text)
        address = IPv6Address((text if found is None else found[1]).partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address
