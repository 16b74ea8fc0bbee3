"""What is read and made before the server runs, and read again at SIGHUP.

Workers get a copy of it when they are forked: what their supervisor has read again by then.
"""

from __future__ import annotations

from .._log import get_logger
from .auth import load_authentication
from .certificate import load_certificate, renewed_certificate
from .settings import Settings
from .tokens import APITokens

_log = get_logger("trio_beat")


class Prepared:
    """The certificate, who tells who a peer is, and the tokens of the API.

    Args:
        settings: the options that name them.

    Attributes:
        context: with the certificate; None: plain.
        authentication: None: nobody is asked who a peer is.
        api_tokens: the tokens of the API.

    Raises:
        ConfigurationError: they cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.context = load_certificate(settings)
        self.authentication = load_authentication(settings)
        self.api_tokens = APITokens(settings)

    def renew(self) -> bool:
        """Read again what is in files, and log it; what cannot be read stays as it is.

        Returns:
            Whether anything is new.
        """
        settings = self._settings
        if settings.tls_cert is settings.jwt_key is settings.api_tokens is None:
            text = "there is none of --tls-cert, --jwt-key and --api-tokens"
            _log.info("SIGHUP: nothing to read again, %s", text)
        context = renewed_certificate(settings)
        self.context = context or self.context
        keys = self.authentication is not None and self.authentication.renew()
        tokens = self.api_tokens.renew()
        return context is not None or keys or tokens
