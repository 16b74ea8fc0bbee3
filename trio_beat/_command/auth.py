"""Who a peer is, as the options say: by a token, an application that is asked, or a function."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from .._identity import Identity
from .._log import get_logger
from .._protocol.refusal import unauthorized
from .._protocol.request import Request
from .._server.gate import Admit
from .._text import printable, public_url
from .arguments import ConfigurationError
from .origins import check_origins
from .settings import Settings

if TYPE_CHECKING:  # the extra `auth` may not be installed
    from ..auth import JWT, Hook

_log = get_logger("trio_beat")

_FUNCTION: Final = re.compile(r"(?P<module>[\w.]+):(?P<function>[\w.]+)")
_ALLOWED: Final = "jwt, http://HOST/PATH, https://HOST/PATH, or MODULE:FUNCTION"


class Authentication:
    """Who a peer is, as the options say; `admit` is for the server.

    Args:
        authenticate: tells it; None for a request without a credential.
        anonymous: such a peer is let in.
        reload: reads the keys of tokens again, raises `OSError` or `ValueError`; None: there are
            none.
    """

    def __init__(
        self,
        authenticate: Admit,
        *,
        anonymous: bool,
        reload: Callable[[], None] | None = None,
    ) -> None:
        self._authenticate = authenticate
        self._anonymous = anonymous
        self._reload = reload

    async def admit(self, request: Request) -> Identity | None:
        """Tell who a peer is; raises `Refused`."""
        identity = await self._authenticate(request)
        if identity is None and not self._anonymous:
            raise unauthorized("this server lets nobody in without a credential")
        return identity

    def renew(self) -> bool:
        """Read the keys of tokens again at SIGHUP, and log it.

        Returns:
            False where those in use stay: there are none, or they cannot be read.
        """
        if not self.read_again("SIGHUP: "):
            return False
        _log.info("SIGHUP: read the file of --jwt-key again")
        return True

    def read_again(self, why: str = "") -> bool:
        """Read the keys of tokens again; as `renew`, but a success is not logged.

        Args:
            why: stands before what is logged.
        """
        if self._reload is None:
            return False
        try:
            self._reload()
        except (OSError, ValueError) as exc:
            _log.error("%sthe keys in use stay: --jwt-key: %s", why, _why(exc))
            return False
        return True


def load_authentication(settings: Settings) -> Authentication | None:
    """Make what the options ask for.

    Returns:
        None where nobody is asked who a peer is.

    Raises:
        ConfigurationError: they cannot be used, or not together.
    """
    auth, given = settings.auth, settings.model_fields_set
    is_url = auth is not None and "://" in auth
    _check_needed(given, "jwt_", "--auth jwt", wanted=auth == "jwt")
    _check_needed(given, "auth_", "--auth http://HOST/PATH", wanted=is_url)
    check_origins(settings)
    if auth is None:
        if "allow_anonymous" in given and not settings.allow_anonymous:
            text = "without --auth nobody has a credential, and nobody could connect"
            raise ConfigurationError(f"--no-allow-anonymous: {text}")
        return None
    anonymous = settings.allow_anonymous
    if auth == "jwt":
        jwt = _jwt(settings)
        return Authentication(jwt, anonymous=anonymous, reload=jwt.reload)
    return Authentication(_hook(settings, auth) if is_url else _function(auth), anonymous=anonymous)


def _check_needed(given: set[str], prefix: str, option: str, *, wanted: bool) -> None:
    for name in sorted(given):
        if name.startswith(prefix) and not wanted:
            raise ConfigurationError(f"--{name.replace('_', '-')}: is of no use without {option}")


def _jwt(settings: Settings) -> JWT:
    if settings.jwt_key is None:
        raise ConfigurationError("--auth jwt: needs --jwt-key")
    try:
        from ..auth import JWT

        return JWT(
            settings.jwt_key,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
            leeway=settings.jwt_leeway,
            require_expiry=not settings.jwt_no_expiry,
            query=settings.jwt_query,
            cookie=settings.jwt_cookie,
        )
    except ImportError as exc:
        raise ConfigurationError(f"--auth jwt: {exc}") from exc
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"--jwt-key: {_why(exc)}") from exc


def _why(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return f"cannot read {exc.filename}: {exc.strerror}"
    return str(exc)


def _hook(settings: Settings, url: str) -> Hook:
    shown = public_url(url)
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigurationError(f"--auth: {shown!r} should be {_ALLOWED}")
    try:
        from ..auth import Hook

        return Hook(
            url,
            timeout=settings.auth_timeout,
            concurrency=settings.auth_concurrency,
            headers=settings.auth_header,
        )
    except (ImportError, ValueError) as exc:
        raise ConfigurationError(f"--auth: {exc}") from exc


def _function(auth: str) -> Admit:
    found = _FUNCTION.fullmatch(auth)
    if found is None:
        raise ConfigurationError(f"--auth: {printable(auth)!r} should be {_ALLOWED}")
    # As `python -m` does it, whatever has started the command.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function: Any = importlib.import_module(found["module"])
        for name in found["function"].split("."):
            function = getattr(function, name)
    except (Exception, SystemExit) as exc:  # a module of the application's may raise anything
        why = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
        raise ConfigurationError(f"--auth: cannot import {auth}: {printable(why)}") from exc
    # Of a class, `__call__` is what its objects do; that of its own type makes one.
    called = type(function).__call__ if callable(function) else None
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)):
        raise ConfigurationError(f"--auth: {auth} is no async function")
    authenticate: Admit = function
    return authenticate
