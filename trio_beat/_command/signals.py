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
#: At these the server reads its certificate again; Windows has none.
RENEWING: Final = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()
