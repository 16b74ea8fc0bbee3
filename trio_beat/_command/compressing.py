"""The options of compression."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from .._protocol.compression import LEAST_BITS, LEVELS, MOST_BITS

Switch: TypeAlias = Annotated[
    Literal["on", "off"],
    Field(description="compress messages for peers that offer it (permessage-deflate)"),
]
Level: TypeAlias = Annotated[
    int, Field(ge=LEVELS[0], le=LEVELS[1], description="of --compression: 1 (fast) to 9 (small)")
]
WindowBits: TypeAlias = Annotated[
    int,
    Field(
        ge=LEAST_BITS,
        le=MOST_BITS,
        description="of --compression: the base-2 logarithm of the bytes that it may look back to",
    ),
]
Threshold: TypeAlias = Annotated[
    int, Field(ge=0, description="of --compression: bytes; a smaller message goes as it is")
]
