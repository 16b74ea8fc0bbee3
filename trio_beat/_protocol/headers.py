"""The headers of a request, read-only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from websockets import datastructures

#: The header with the extensions that are offered, and that are agreed on.
EXTENSIONS: Final = "Sec-WebSocket-Extensions"
#: What stands between the values of a header that came on several lines (RFC 9110, section 5.3;
#: RFC 9113, section 8.2.3).
_COMMA, _SEMICOLON = ", ", "; "
_COOKIE: Final = "cookie"


class Headers(Mapping[str, str]):
    """The headers of a request; their names are compared without case.

    The value of a header that came on several lines has all of them, with commas in between
    (RFC 9110, section 5.3); of ``Cookie``, with semicolons. Iterating gives each name once, in
    lower case. Bytes beyond ASCII are read as Latin-1.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: datastructures.Headers) -> None:
        self._fields = fields

    def get_all(self, name: str) -> tuple[str, ...]:
        """Give the values of a header, one for each line that it came on.

        Args:
            name: in any case.

        Returns:
            The values, in their order; none where the header is not there.
        """
        return tuple(self._fields.get_all(name))

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Give names and values, one pair for each line, as they came."""
        return tuple(self._fields.raw_items())

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return (_SEMICOLON if name.lower() == _COOKIE else _COMMA).join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower() for name, _ in self._fields.raw_items()))

    def __len__(self) -> int:
        return len(set(self))

    def __repr__(self) -> str:
        # Values may be secret.
        return f"<Headers {', '.join(self)}>"
