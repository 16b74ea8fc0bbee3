"""Whether several workers can serve the same channels."""

from __future__ import annotations

import sys

from .._exceptions import BackendError
from ..backends import backend_from_url
from ..backends.memory import MemoryBackend
from .arguments import ConfigurationError
from .settings import Settings


def check_workers(settings: Settings) -> None:
    """Check that several workers hear of one another.

    Raises:
        ConfigurationError: they do not, or this system cannot fork.
    """
    if sys.platform == "win32":
        raise ConfigurationError("--workers: this system cannot fork, so it has to be 1")
    try:
        backend = backend_from_url(settings.backend)
    except BackendError as exc:
        raise ConfigurationError(f"--backend: {exc}") from exc
    if isinstance(backend, MemoryBackend):
        text = f"{settings.workers} processes would not hear of one another over memory://"
        raise ConfigurationError(f"--workers: {text}; name a broker (--backend redis://HOST), or 1")
