"""The command line: how it is parsed, and how a mistake in it is told."""

from __future__ import annotations

import argparse
from typing import NoReturn

from .streams import say


class ConfigurationError(Exception):
    """The command cannot run like this; the message is one line."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, also with standard output."""

    def _print_message(self, message: str, file: object = None) -> None:
        # Help and the version; `error` prints nothing.
        if not say(message):
            self.exit(1)

    def error(self, message: str) -> NoReturn:
        _, unknown, given = message.partition("unrecognized arguments: ")
        if unknown:
            # What stands behind a name that is misspelt may be secret.
            names = [word.partition("=")[0] for word in given.split() if word.startswith("--")]
            message = unknown + (" ".join(names) or f"{len(given.split())} more than expected")
        raise ConfigurationError(f"{message} (see --help)")
