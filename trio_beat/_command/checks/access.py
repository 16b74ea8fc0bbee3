"""Who may connect and publish, and whether the files that say so can be used."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from pathlib import Path
from typing import Final

from ..._server.origins import EVERYTHING, NULL
from ..._text import printable, public_url
from ..arguments import ConfigurationError
from ..auth import load_authentication
from ..settings import Settings
from ..tokens import APITokens
from .section import Section

#: What is secret in a file: a key; a token itself, and not its digest; a token, or a password in a
#: URL.
_SECRETS: Final = {
    "--tls-key": re.compile(b""),
    "--tls-cert": re.compile(b""),
    "--api-tokens": re.compile(rb"^\s*token\s*=", re.MULTILINE),
    "--config": re.compile(rb"^\s*(publish[_-]token\s*=|backend\s*=.*@)", re.MULTILINE),
}
#: Origins of pages that anybody can make.
_ANYBODY: Final = frozenset({EVERYTHING, NULL, "file://"})


def check_access(settings: Settings) -> Section:
    """Say who may do what; keys, functions and tokens are loaded as the server loads them."""
    section = Section("access")
    section.data = {
        "auth": _kind(settings.auth),
        "anonymous": settings.auth is None or settings.allow_anonymous,
        "allow": settings.allow,
        "origins": settings.allowed_origin,
        "api": settings.api_tokens is not None or settings.publish_token is not None,
    }
    _check_auth(section, settings)
    section.row("broadcast", ", ".join(settings.allow) or "nothing")
    section.row("pages", ", ".join(["its own", *map(printable, settings.allowed_origin)]))
    _check_tokens(section, settings)
    anybody = [text for text in settings.allowed_origin if text.lower() in _ANYBODY]
    if anybody and (settings.auth is None or _kind(settings.auth) == "function"):
        section.warn(
            "origins",
            f"--allowed-origin {anybody[0]} lets every page that somebody visits connect from "
            "there, with cookies",
        )
    _check_files(section, settings)
    return section


def _kind(auth: str | None) -> str | None:
    if auth is None or auth == "jwt":
        return auth
    return "http" if "://" in auth else "function"


def _check_auth(section: Section, settings: Settings) -> None:
    auth = settings.auth
    told = {
        None: "everybody, without a credential",
        "jwt": f"who has a token signed with the key in {settings.jwt_key or '--jwt-key'}",
        "http": f"who {public_url(auth or '')} lets in; it is not asked now",
        "function": f"who {printable(auth or '')} lets in",
    }[_kind(auth)]
    if auth is not None and settings.allow_anonymous:
        told += "; and everybody without a credential"
    section.row("who", told)
    try:
        load_authentication(settings)
    except ConfigurationError as exc:
        section.fail("auth", str(exc))


def _check_tokens(section: Section, settings: Settings) -> None:
    given = [
        name
        for name, value in (
            ("--publish-token", settings.publish_token),
            (f"the file {settings.api_tokens}", settings.api_tokens),
        )
        if value is not None
    ]
    section.row("API", f"with the tokens of {' and '.join(given)}" if given else "off: no token")
    try:
        APITokens(settings)
    except ConfigurationError as exc:
        section.fail("tokens", str(exc))


def _check_files(section: Section, settings: Settings) -> None:
    """Warn of secrets in files that every user of the machine can read."""
    if sys.platform == "win32":
        return  # modes say nothing there
    for option, path in (
        ("--tls-key", settings.tls_key),
        ("--tls-cert", settings.tls_cert if settings.tls_key is None else None),
        ("--api-tokens", settings.api_tokens),
        ("--config", settings.config),
    ):
        with contextlib.suppress(OSError):  # which is told where the file is used
            if path is None or not _is_everybodys(path):
                continue
            if _SECRETS[option].search(path.read_bytes()):
                text = f"{option}: every user of this machine can read {path}, which has a secret"
                section.warn("files", f"{text}; chmod o-r")


def _is_everybodys(path: Path) -> bool:
    return bool(os.stat(path).st_mode & stat.S_IROTH)
