"""The package's loggers: text from outside cannot forge a line in the log.

1. Every logger of the package comes from `get_logger`. Its filter runs before all handlers, so
   lines are safe however the application configures `logging`.
2. The filter renders the message and escapes it, and the fields of ``extra``.
3. A traceback has many lines, and an exception's message may come from a peer. Each line is escaped
   and indented, so that none can be mistaken for a record.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

from ._text import printable

_INDENT: Final = "    "


class Escaping(logging.Filter):
    """Makes records safe to write; rejects none."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _render(record), None
        if record.exc_info and not record.exc_text:
            # A formatter uses this text in place of the exception, which stays for other handlers.
            record.exc_text = _indented("".join(traceback.format_exception(*record.exc_info)))
        elif record.exc_text:
            record.exc_text = _indented(record.exc_text)
        for name, value in vars(record).items():
            if isinstance(value, str) and name != "exc_text" and not value.isprintable():
                setattr(record, name, printable(value))
        return True


def _render(record: logging.LogRecord) -> str:
    try:
        return printable(record.getMessage())
    except Exception as exc:  # the `__str__` of an argument may raise anything
        return printable(f"{record.msg} (cannot be shown: {type(exc).__name__})")


def _indented(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    return "\n".join(_INDENT + printable(line.removeprefix(_INDENT)) for line in lines)


_ESCAPING: Final = Escaping()


def get_logger(name: str) -> logging.Logger:
    """Get a logger of the package, which escapes what it is given.

    Args:
        name: ``trio_beat``, or a name below it.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_ESCAPING)  # added once, however often this is called
    return logger
