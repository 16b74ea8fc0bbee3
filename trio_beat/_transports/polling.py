"""The poller of this system, for many sockets, and the one for a few."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING, TypeAlias

from . import readiness

if TYPE_CHECKING:  # each system's own is checked
    if sys.platform == "linux":
        from .epoll import Poller, Watch
    else:
        from .readiness import Poller, Watch
elif hasattr(select, "epoll"):
    from .epoll import Poller, Watch
else:
    from .readiness import Poller, Watch

__all__ = ["AnyPoller", "Poller", "Watch"]

AnyPoller: TypeAlias = Poller | readiness.Poller
