"""How messages are compressed: what an application chooses, and what came of it (RFC 7692)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from .._checks import check_kind, check_whole

#: Window sizes that zlib can promise to keep to: it takes 8 for 9.
LEAST_BITS: Final = 9
MOST_BITS: Final = 15
#: The fastest, and that with the smallest results.
LEVELS: Final = (1, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """Compress messages for peers that agree to it (permessage-deflate, RFC 7692).

    No message refers to an earlier one, in either direction: an idle connection keeps nothing, and
    a message that many get is compressed once.

    Args:
        level: of zlib, 1 (fast) to 9 (small).
        window_bits: the base-2 logarithm of the bytes that a message's compression may look back
            to, 9 to 15. A peer that asks for less gets less.
        threshold: bytes; a smaller message is sent as it is.
    """

    level: int = 6
    window_bits: int = MOST_BITS
    threshold: int = 256

    def __post_init__(self) -> None:
        for name, least, most in (
            ("level", *LEVELS),
            ("window_bits", LEAST_BITS, MOST_BITS),
        ):
            value = getattr(self, name)
            check_kind(name, value, int, "a whole number")
            if not least <= value <= most:
                raise ValueError(
                    f"{name} is {value}; it must be a whole number of {least} to {most}"
                )
        check_whole("threshold", self.threshold, least=0)


class CompressionStatistics(NamedTuple):
    """What was compressed so far."""

    accepted: int  #: connections that compress
    declined: int  #: offers that could not be served
    compressed: int  #: messages to peers that were compressed, each once, however many got it
    larger: int  #: of those that were tried: went as they were, since they did not get smaller
    bytes_before: int  #: of the compressed ones
    bytes_after: int
    inflated: int  #: messages of peers
    inflated_before: int  #: bytes of them, as they came
    inflated_after: int


class Counts:
    """Counts what is compressed, for all connections of a server."""

    __slots__ = CompressionStatistics._fields

    accepted: int
    declined: int
    compressed: int
    larger: int
    bytes_before: int
    bytes_after: int
    inflated: int
    inflated_before: int
    inflated_after: int

    def __init__(self) -> None:
        for name in CompressionStatistics._fields:
            setattr(self, name, 0)

    def statistics(self) -> CompressionStatistics:
        """The counts at this moment."""
        return CompressionStatistics(*(getattr(self, name) for name in self.__slots__))
