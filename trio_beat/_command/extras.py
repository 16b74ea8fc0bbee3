"""The packages of extras, which may not be installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from .arguments import ConfigurationError

#: The packages of each extra, by the module that is imported.
_PACKAGES: Final = {
    "server": {
        "pydantic": "pydantic",
        "pydantic_settings": "pydantic-settings",
        "pythonjsonlogger": "python-json-logger",
        "setproctitle": "setproctitle",
        "starlette": "starlette",
    },
    "auth": {"cryptography": "cryptography", "joserfc": "joserfc"},
}


def server_extra(user: str) -> contextlib.AbstractContextManager[None]:
    """Import packages of the extra ``server`` within this context.

    Args:
        user: what needs them, for the message.

    Raises:
        ConfigurationError: one of them is not installed.
    """
    return _extra("server", user)


def auth_extra(user: str) -> contextlib.AbstractContextManager[None]:
    """The same for the extra ``auth``."""
    return _extra("auth", user)


@contextlib.contextmanager
def _extra(name: str, user: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as exc:
        package = _PACKAGES[name].get((exc.name or "").partition(".")[0])
        if package is None:
            raise
        text = f"{user} needs {package}: pip install 'trio-beat[{name}]' installs it"
        raise ConfigurationError(text) from exc
