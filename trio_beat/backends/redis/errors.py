"""What goes wrong with a broker.

::

    BackendError
    ├── ReplyError          the broker refuses a command; `.code` says how
    ├── Disconnected        there is no connection, or it has ended: trying again may help
    └── Misconfigured       the broker cannot be used with this configuration
        └── NotPrimary      it is a replica

No text quotes what was sent: a broker that does not know a command repeats its arguments.
"""

from __future__ import annotations

from ..._exceptions import BackendError
from ..._text import printable

#: Characters of a broker's text that are shown.
_SHOWN = 200
#: What old brokers begin to quote a command with.
_QUOTES = ", with args beginning with"


class ReplyError(BackendError):
    """The broker refuses a command.

    Args:
        text: the error as it came.

    Attributes:
        code: its first word, such as WRONGTYPE or NOPERM.
    """

    def __init__(self, text: str) -> None:
        self.code = printable(text.partition(" ")[0][:_SHOWN])
        super().__init__(printable(text.partition(_QUOTES)[0][:_SHOWN]))


class Disconnected(BackendError):  # noqa: N818 - says what happened
    """There is no connection to the broker, or it has ended."""


class Misconfigured(BackendError):  # noqa: N818 - the name says what is wrong
    """What was found at the broker's address cannot be used with this configuration."""


class NotPrimary(Misconfigured):
    """It is a replica: what it confirms, nobody on the primary hears."""
