"""The refusal of a peer that takes more than it may."""

from __future__ import annotations

from collections.abc import Mapping

from .._exceptions import Refused
from .._observer import LimitName


class Limited(Refused):
    """A refusal of a peer that takes too much.

    Args:
        limit: which limit it has met.
        status: see `Refused`, as the rest.
    """

    def __init__(
        self,
        limit: LimitName,
        status: int,
        text: str,
        headers: Mapping[str, str] | None = None,
        *,
        logged: str | None = None,
    ) -> None:
        super().__init__(status, text, headers or {}, logged=logged)
        self.limit = limit
