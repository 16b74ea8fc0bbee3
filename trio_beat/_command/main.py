"""The command: the bundled server, a check of its options, two clients, or a maker of tokens.

Each is imported only when it is asked for: the clients run without the packages of the extra
``server``, and the server without those of ``auth``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .arguments import ConfigurationError
from .extras import auth_extra, server_extra
from .streams import complain, open_missing, standard_error
from .title import hide_secrets


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: None: those of the process.

    Returns:
        The exit code: 0 after a clean end, 1 when a second signal cut it short, 2 for a bad
        configuration, and where a package is missing. That of a check is its own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    open_missing()
    try:
        match given:
            case ["listen" | "publish" as name, *rest]:
                if arguments is None:
                    _hide_secrets_of_client()
                return _client(name)(rest)
            case ["token", *rest]:
                return _token()(rest)
            case [name, *_] if name[:1] not in ("", "-") and name != "check":
                return _no_command()
            case _:
                if arguments is None:
                    with server_extra("hiding a secret of the command line"):
                        hide_secrets()
                return _check()(given[1:]) if given[:1] == ["check"] else _server()(given)
    except ConfigurationError as exc:
        complain(str(exc))
        return 2
    finally:
        standard_error().finish()


def _hide_secrets_of_client() -> None:
    try:
        hide_secrets()
    except ModuleNotFoundError:
        # A client needs no extra.
        complain("the command line shows a secret to all users; with setproctitle it would not")


def _client(name: str) -> Callable[[Sequence[str]], int]:
    from .clients import COMMANDS

    return COMMANDS[name]


def _no_command() -> NoReturn:
    # Not quoted: a value that was meant for an option may be secret.
    text = "what comes first is no command: they are listen, publish, check and token"
    raise ConfigurationError(f"{text}; the server takes options alone (see --help)")


def _server() -> Callable[[Sequence[str]], int]:
    with server_extra("the bundled server"):
        from .serve import serve

    return serve


def _check() -> Callable[[Sequence[str]], int]:
    with server_extra("the check of the server's options"):
        from .check import check

    return check


def _token() -> Callable[[Sequence[str]], int]:
    with auth_extra("making a token"):
        from .token import token

    return token
