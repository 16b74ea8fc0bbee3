"""The package's loggers: what they are given from outside cannot forge a line.

1. Every logger of the package comes from `get_logger`. Its filter runs before any handler, so that
   lines are safe however the application has configured `logging`.
2. The filter renders the message and escapes it; it escapes the fields of ``extra``, too.
3. A traceback has many lines, and an exception's message may have come from a peer: each line is
   escaped and indented, so that none can be taken for a record.
"""

from __future__ import annotations

import logging
import traceback
from typing import Final

from ._text import printable

_INDENT: Final = "    "


class Escaping(logging.Filter):
    """Makes records safe to write; lets all of them through."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _render(record), None
        if record.exc_info and not record.exc_text:
            # A formatter takes this in place of the exception, which stays for those that want it.
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
    except Exception as exc:  # what `__str__` of an argument raises is not known
        return printable(f"{record.msg} (cannot be shown: {type(exc).__name__})")


def _indented(text: str) -> str:
    lines = text.rstrip("\n").split("\n")
    return "\n".join(_INDENT + printable(line.removeprefix(_INDENT)) for line in lines)


_ESCAPING: Final = Escaping()


def get_logger(name: str) -> logging.Logger:
    """A logger of the package; what it is given is escaped.

    Args:
        name: ``trio_beat``, or what is below it.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_ESCAPING)  # once, however often it is asked for
    return logger
