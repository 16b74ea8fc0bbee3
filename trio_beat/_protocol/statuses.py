"""The statuses of HTTP, for people (RFC 9110, section 15)."""

from __future__ import annotations

import http
from typing import Final

_PHRASES: Final = {int(status): status.phrase for status in http.HTTPStatus}


def phrase(status: int) -> str:
    """The reason phrase of a status; empty for one that is not registered."""
    return _PHRASES.get(status, "")


def name_status(status: int) -> str:
    """A status with its phrase, where it has one."""
    return f"{status} {phrase(status)}".rstrip()
