"""trio-beat in programs that use trio-websocket.

::

    keeping      keep_alive: beats and a verdict for a WebSocket that was accepted
    clock        the clock of all `keeping` that beats at one interval
    kernel       what the kernel tells of a peer, for `keeping`
    private      the names of trio-websocket that `keeping` reads, and are not public
    opening      open_service
    service      TrioWebSocketService: its handler or hub, below trio-websocket
    listeners    listeners whose streams are the service's
    stream       the stream below trio-websocket
    sockets      sockets, taken out of Trio's streams
    lent         connections over a WebSocket that was accepted
    watching     connections whose messages are the application's
    frames       where frames begin and end
"""

from .keeping import keep_alive
from .opening import open_service
from .service import TrioWebSocketService
from .watching import Watched

__all__ = ["keep_alive", "open_service", "TrioWebSocketService", "Watched"]
