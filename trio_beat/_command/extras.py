"""The packages of the extra ``server``, which may not be installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from .arguments import ConfigurationError

#: The extra's packages, by the module that is imported.
_PACKAGES: Final = {
    "pydantic": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "pythonjsonlogger": "python-json-logger",
    "setproctitle": "setproctitle",
    "starlette": "starlette",
}


@contextlib.contextmanager
def server_extra(user: str) -> Iterator[None]:
    """Import packages of the extra within this context.

    Args:
        user: what needs them, for the message.

    Raises:
        ConfigurationError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        package = _PACKAGES.get((exc.name or "").partition(".")[0])
        if package is None:
            raise
        text = f"{user} needs {package}: pip install 'trio-beat[server]' installs it"
        raise ConfigurationError(text) from exc
