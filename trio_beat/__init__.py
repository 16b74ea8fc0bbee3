"""WebSockets for Trio in which every connection knows when it is dead.

See `serve`, `open_hub`, `connect` and `reconnecting`, and ``python -m trio_beat --help`` for the
bundled server.

The context managers (`open_hub`, `connect`, `reconnecting`) raise what their block raised as it
was, and never in a group. What one of their own tasks raises cancels the block and comes out
plainly, too, where it comes alone.
"""

import typing

from ._channels.gaps import BackendLost
from ._channels.hub import Hub, HubStatistics, open_hub
from ._channels.keys import channel_key
from ._channels.permissions import Permissions
from ._channels.subscriptions import Subscriber
from ._connection.connection import Connection, Statistics
from ._connection.handler import Handler
from ._connection.shared import SlowPolicy
from ._exceptions import (
    BackendError,
    Closed,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    ConnectTimeout,
    EndReason,
    HandshakeDeclined,
    HandshakeFailed,
    HandshakeRefused,
    HubClosed,
    Refused,
    ServerUnavailable,
    StartupFailed,
    TLSFailed,
    TrioBeatError,
    UnknownBackend,
    Unreachable,
)
from ._heartbeat import Heartbeat
from ._identity import Identity
from ._observer import ObservedConnection, Observer
from ._protocol.compression import Compression, CompressionStatistics
from ._protocol.headers import Headers
from ._protocol.messages import Message
from ._protocol.request import Request
from ._server.gate import Admit
from ._server.limits import Limits, ServerStatistics
from ._server.server import Server, serve

if typing.TYPE_CHECKING:
    from ._client.connect import connect
    from ._client.reconnecting import reconnecting
else:
    # The client's libraries are a third of this package's import, and a server needs none of them.
    def __getattr__(name: str) -> object:
        match name:
            case "connect":
                from ._client.connect import connect as value
            case "reconnecting":
                from ._client.reconnecting import reconnecting as value
            case _:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    # serving
    "serve",
    "Handler",
    "Admit",
    "Server",
    "ServerStatistics",
    "Limits",
    "SlowPolicy",
    "Compression",
    "CompressionStatistics",
    # connecting
    "connect",
    "reconnecting",
    # a connection
    "Connection",
    "Message",
    "Request",
    "Headers",
    "Identity",
    "Statistics",
    "Heartbeat",
    "Closed",
    "EndReason",
    # channels
    "open_hub",
    "channel_key",
    "Permissions",
    "Hub",
    "HubStatistics",
    "Subscriber",
    "BackendLost",
    # observing
    "Observer",
    "ObservedConnection",
    # exceptions
    "TrioBeatError",
    "ConnectionClosed",
    "ConnectionLost",
    "ConnectFailed",
    "ConnectTimeout",
    "Unreachable",
    "TLSFailed",
    "HandshakeFailed",
    "HandshakeDeclined",
    "HandshakeRefused",
    "ServerUnavailable",
    "StartupFailed",
    "Refused",
    "BackendError",
    "HubClosed",
    "UnknownBackend",
]
