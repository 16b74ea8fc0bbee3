"""The command's log, on standard error."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Final

from .._log import Escaping, get_logger
from .extras import server_extra
from .streams import Lines, encoded, standard_error

_TEXT: Final = "%(asctime)s %(levelname)-7s {worker}%(message)s"

_log = get_logger("trio_beat")


class Handler(logging.Handler):
    """Writes records as lines, and never waits for their reader.

    Args:
        lines: where the lines go.
        formatter: formats the records, and the one that counts lost lines.
    """

    def __init__(self, lines: Lines, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        # Records of other packages need escaping as ours do.
        self.addFilter(Escaping())
        self._lines = lines
        lines.tell_lost = self._tell_lost

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put(self._line(record))

    def _line(self, record: logging.LogRecord) -> bytes:
        return encoded(self.format(record) + "\n")

    def _tell_lost(self, lost: int) -> bytes:
        text = f"{lost} log lines were lost: they were not read in time, or could not be written"
        return self._line(_log.makeRecord(_log.name, logging.WARNING, "", 0, text, (), None))


def set_up_logging(level: str, style: str, worker: int | None = None) -> None:
    """Set up the log, for what Python itself would print, too.

    Args:
        level: least severe level that is logged, in lower case.
        style: ``text``, or ``json`` for one object a line.
        worker: the number of this process, which each line has; None: it is the only one, or the
            supervisor.

    Raises:
        ConfigurationError: `style` is ``json`` and the package for it is not installed.
    """
    number = "" if worker is None else f"worker {worker}: "
    formatter = logging.Formatter(_TEXT.format(worker=number))
    if style == "json":
        with server_extra("--log-format json"):
            from pythonjsonlogger.json import JsonFormatter
        formatter = JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            rename_fields={"levelname": "level", "name": "logger"},
            timestamp="time",
            static_fields={} if worker is None else {"worker": worker},
        )
    root = logging.getLogger()
    root.handlers[:] = [Handler(standard_error(), formatter)]
    root.setLevel(level.upper())
    # By default all of these write to standard error and block until it is read.
    logging.captureWarnings(True)
    sys.unraisablehook = _log_unraisable
    sys.excepthook = _log_uncaught


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    text = unraisable.err_msg or "exception ignored in"
    _log.error("%s: %r", text, unraisable.object, exc_info=unraisable.exc_value)


def _log_uncaught(
    kind: type[BaseException], exc: BaseException, traceback: TracebackType | None
) -> None:
    _log.critical("this ends the command: %s", kind.__name__, exc_info=exc)
    standard_error().finish()
