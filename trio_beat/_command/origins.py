"""Whether pages that anybody can make may connect, with a visitor's cookies."""

from __future__ import annotations

from typing import Final

from .._server.origins import EVERYTHING, NULL
from .arguments import ConfigurationError
from .settings import Settings

#: Origins of pages that anybody can make; a local file has the last, or ``null``.
_ANYBODY: Final = frozenset({EVERYTHING, NULL, "file://"})


def check_origins(settings: Settings) -> None:
    """Check that the pages that may connect are not those of everybody, where a cookie counts.

    A function of the application's (``--auth MODULE:FUNCTION``) may use cookies as well, which is
    not known here.

    Raises:
        ConfigurationError: they are, and it does.
    """
    allowed = [text for text in settings.allowed_origin if text.lower() in _ANYBODY]
    if not allowed:
        return
    cookie = None
    if settings.jwt_cookie is not None:
        cookie = "--jwt-cookie"
    elif settings.auth is not None and "://" in settings.auth:
        cookie = "--auth http://HOST/PATH, which passes cookies on"
    if cookie is not None:
        text = "lets any page connect as its visitor"
        raise ConfigurationError(f"--allowed-origin: {allowed[0]} {text} with {cookie}")
