"""Agreeing on compression in the opening handshake (RFC 7692, section 7.1).

1. A server may always ask for ``server_no_context_takeover``, and for
   ``client_no_context_takeover`` (sections 7.1.1.1 and 7.1.1.2); ours does.
2. It asks a client for no smaller window: what a client sends is inflated with the largest one,
   which is free again behind each message. Windows of the client's may be announced, and are.
3. Offers are tried in the client's order. One that cannot be served is declined; where all are, the
   connection is plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_extension

from .._exceptions import Refused
from .compression import LEAST_BITS, MOST_BITS, Compression, CompressionStatistics, Counts
from .deflate import Deflate
from .headers import EXTENSIONS
from .offer import (
    BITS,
    CLIENT_BITS,
    CLIENT_NO_TAKEOVER,
    DEFLATE,
    SERVER_BITS,
    SERVER_NO_TAKEOVER,
)

_NO_TAKEOVER: Final = (SERVER_NO_TAKEOVER, CLIENT_NO_TAKEOVER)


def granted_bits(parameters: Sequence[tuple[str, str | None]], most: int) -> int | None:
    """Choose a server's window for an offer (section 7.1.2.1).

    Args:
        parameters: of the offer; their values, or None where they have none.
        most: of the server, 9 to 15.

    Returns:
        The base-2 logarithm of the window's size; None: the offer is declined, since zlib has no
        such window, or the offer has a parameter that is unknown, comes again or has a wrong value.
    """
    seen = set()
    granted = most
    for name, value in parameters:
        if name in seen:
            return None
        seen.add(name)
        if name in _NO_TAKEOVER:
            if value is not None:
                return None
        elif name == CLIENT_BITS and value is None:
            continue
        elif name in (SERVER_BITS, CLIENT_BITS):
            if value is None or not BITS.fullmatch(value):
                return None
            if name == SERVER_BITS:
                granted = min(granted, int(value))
        else:
            return None
    return granted if granted >= LEAST_BITS else None


class Negotiation:
    """Agrees with the clients of a server on compression.

    Args:
        compression: what the server does at most.
    """

    def __init__(self, compression: Compression) -> None:
        self._counts = Counts()
        bits = range(LEAST_BITS, compression.window_bits + 1)
        self._deflates = {size: Deflate(compression, size, self._counts) for size in bits}
        self._most = compression.window_bits

    def answer(self, values: Sequence[str]) -> tuple[Deflate | None, str | None]:
        """Answer a client's offers.

        Args:
            values: of its headers ``Sec-WebSocket-Extensions``, one for each line.

        Returns:
            What is agreed on, and the value of the response's header; None: nothing.

        Raises:
            Refused: 400, the header is none (RFC 6455, section 9.1).
        """
        for value in values:
            try:
                offers = parse_extension(value)
            except InvalidHeaderFormat:
                raise Refused(400, f"bad request: malformed {EXTENSIONS}") from None
            for name, parameters in offers:
                if name != DEFLATE:
                    continue
                bits = granted_bits(parameters, self._most)
                if bits is None:
                    self._counts.declined += 1
                    continue
                names = [name for name, _ in parameters]
                return self._deflates[bits], _response(bits, named=SERVER_BITS in names)
        return None, None

    def statistics(self) -> CompressionStatistics:
        """What was compressed so far."""
        return self._counts.statistics()


def _response(bits: int, *, named: bool) -> str:
    # An offer that names the window is answered with one (section 7.1.2.1); where neither side does
    # it is the largest.
    window = [f"{SERVER_BITS}={bits}"] if named or bits < MOST_BITS else []
    return "; ".join((DEFLATE, *_NO_TAKEOVER, *window))
