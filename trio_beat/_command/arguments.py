"""The parser of the command line, and the error for what cannot run."""

from __future__ import annotations

import argparse
import re
from typing import Final, NoReturn

from .streams import say

_AMBIGUOUS: Final = re.compile(r"\A(ambiguous option: [^=\s]*)=.*( could match )", re.DOTALL)


class ConfigurationError(Exception):
    """The command cannot run like this; the message is one line."""


def cannot_listen(exc: OSError) -> ConfigurationError:
    """For an address that cannot be listened on."""
    return ConfigurationError(f"cannot listen on {exc.filename}: {exc.strerror}")


class Parser(argparse.ArgumentParser):
    """Reports each error in one line, those of standard output, too."""

    def _print_message(self, message: str, file: object = None) -> None:
        # Help and the version; `error` prints nothing.
        if not say(message):
            self.exit(1)

    def error(self, message: str) -> NoReturn:
        _, unknown, given = message.partition("unrecognized arguments: ")
        if unknown:
            # The value of a misspelt option may be secret.
            names = [word.partition("=")[0] for word in given.split() if word.startswith("--")]
            message = unknown + (" ".join(names) or f"{len(given.split())} more than expected")
        # The same for an option that is cut short: Python quotes it with its value.
        message = _AMBIGUOUS.sub(r"\1\2", message)
        raise ConfigurationError(f"{message} (see --help)")
