"""The commands that a load takes: lines of JSON on standard input, each answered by a line."""

from __future__ import annotations

import json
import os
from typing import Final

#: File descriptor of standard input.
COMMANDS: Final = 0


class Commands:
    """Calls an object's methods as it is told to.

    Args:
        target: whose methods; ``do`` names one, the rest of the line are its arguments.
    """

    def __init__(self, target: object) -> None:
        self._target = target
        self._rest = b""

    def obey(self) -> bool:
        """Read what has come, and answer each whole line; false at the end of the input."""
        chunk = os.read(COMMANDS, 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            command = json.loads(line)
            try:
                answer = getattr(self._target, command.pop("do"))(**command)
            except (OSError, RuntimeError) as exc:
                answer = {"error": f"{type(exc).__name__}: {exc}"}
            print(json.dumps(answer), flush=True)
        return bool(chunk)
