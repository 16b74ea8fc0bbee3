"""The poller of this system."""

from __future__ import annotations

import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # each system's own is checked
    if sys.platform == "linux":
        from .epoll import Poller, Watch
    else:
        from .readiness import Poller, Watch
elif hasattr(select, "epoll"):
    from .epoll import Poller, Watch
else:
    from .readiness import Poller, Watch

__all__ = ["Poller", "Watch"]
