"""What the command writes to standard error."""

from __future__ import annotations

import logging

from pythonjsonlogger.json import JsonFormatter

_TEXT = "%(asctime)s %(levelname)-7s %(message)s"


def set_up_logging(level: str, style: str) -> None:
    """Log from a level on.

    Args:
        level: the level's name, in lower case.
        style: ``text``, or ``json`` for one object a line.
    """
    handler = logging.StreamHandler()
    if style == "json":
        handler.setFormatter(
            JsonFormatter(
                "{levelname}{name}{message}",
                style="{",
                rename_fields={"levelname": "level", "name": "logger"},
                timestamp="time",
            )
        )
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
