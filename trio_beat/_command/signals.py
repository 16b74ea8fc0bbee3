"""The signals that a command obeys."""

import signal
from typing import Final

#: End a command: on Windows also Control and Break, the only one that another process can send
#: there.
STOPPING: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    *((signal.SIGBREAK,) if hasattr(signal, "SIGBREAK") else ()),
)
#: End the server at once, as a second one of those above does; Windows has none.
QUITTING: Final = (signal.SIGQUIT,) if hasattr(signal, "SIGQUIT") else ()
#: At these the server reads its certificate again; Windows has none.
RENEWING: Final = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
