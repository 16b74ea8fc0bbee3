"""Addresses as they stand in headers and logs: with or without a port, in brackets or not."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

#: In front of a port an address of IPv6 has brackets (RFC 3986, section 3.2.2).
_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::[0-9]{1,5})?")
_WITH_PORT: Final = re.compile(r"([0-9.]+):[0-9]{1,5}")


def read_address(text: str) -> Address | None:
    """Read an address; a port behind it, and a zone (RFC 4007, section 11), do not count.

    Args:
        text: such as ``1.2.3.4``, ``1.2.3.4:5``, ``::1``, ``[::1]`` or ``[::1]:5``.

    Returns:
        The address, that of IPv4 where one is mapped into IPv6 (RFC 4291, section 2.5.5.2); None:
        it is none.
    """
    found = _BRACKETED.fullmatch(text)
    if found is not None:
        if ":" not in found[1]:
            return None
        text = found[1]
    elif (found := _WITH_PORT.fullmatch(text)) is not None:
        text = found[1]
    try:
        address = ip_address(text.partition("%")[0] if ":" in text else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
