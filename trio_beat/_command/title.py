"""The command line as other users of the machine see it, without its secrets.

Every user can read the arguments of every process (``ps``). The title is set only where an argument
has a secret, and before anything else is imported. Until then the secret can be seen: an
environment variable or a file is better.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Final

#: Takes the place of a secret.
_HIDDEN: Final = "***"
#: Options whose value is secret, and one whose value has it behind a colon. argparse takes them
#: cut short as well.
_SECRET: Final = ("--publish-token", "--token")
_HEADER: Final = "--header"
#: User and password of a URL. No host has an ``@``; a password that was not percent-encoded may
#: have all that ends the place where they belong.
_USERINFO: Final = re.compile(r"(://).*@", re.DOTALL)
#: The query of a URL of HTTP, as that of an application that is asked who a peer is.
_QUERY: Final = re.compile(r"(https?://[^?#]*\?).+", re.DOTALL | re.IGNORECASE)
#: That of a WebSocket, where a parameter with a value may be a token; channels have none.
_WEBSOCKET: Final = re.compile(r"wss?://[^?#]*\?", re.IGNORECASE)
_PARAMETER: Final = re.compile(r"(?<=[?&])([^=&]*=)[^&]+")


def hide_secrets() -> None:
    """Show this process without the secrets of its arguments.

    Raises:
        ModuleNotFoundError: there is a secret, and setproctitle is not installed.
    """
    arguments = sys.argv[1:]
    whole = sys.orig_argv
    shown = list(without_secrets(arguments))
    if shown == arguments or whole[-len(arguments) :] != arguments:
        return
    from setproctitle import getthreadtitle, setproctitle, setthreadtitle

    name = getthreadtitle()
    title = shlex.join([*whole[: -len(arguments)], *shown])
    # An argument is bytes, and need not be UTF-8.
    setproctitle(os.fsencode(title).decode(errors="replace"))
    setthreadtitle(name)  # which it has changed: by that name the process is known


def show_worker(number: int) -> None:
    """Show this process with the number of its worker behind the command line."""
    from setproctitle import getproctitle, getthreadtitle, setproctitle, setthreadtitle

    name = getthreadtitle()
    setproctitle(f"{getproctitle()} (worker {number})")
    setthreadtitle(name)


def without_secrets(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments of a command line, with a mark in the place of each secret."""
    option = ""  # whose value comes next
    for argument in arguments:
        if argument.startswith("--") and not _is_secret(option):
            name, equals, value = argument.partition("=")
            yield f"{name}={_value(name, value)}" if equals else name
            option = "" if equals else name
        else:
            yield _value(option, argument)
            option = ""


def _is_secret(option: str) -> bool:
    name = option.replace("_", "-")
    return len(name) > len("--") and any(secret.startswith(name) for secret in _SECRET)


def _value(option: str, value: str) -> str:
    """The value of an option, or (empty) another argument, without what is secret."""
    if _is_secret(option):
        return _HIDDEN
    if len(option) > len("--") and _HEADER.startswith(option):
        name, colon, _ = value.partition(":")
        return f"{name}{colon} {_HIDDEN}" if colon else _HIDDEN
    shown = _QUERY.sub(rf"\1{_HIDDEN}", _USERINFO.sub(rf"\1{_HIDDEN}@", value))
    return _PARAMETER.sub(rf"\1{_HIDDEN}", shown) if _WEBSOCKET.match(shown) else shown
