"""What `keep_alive` reads of a `WebSocketConnection` that has no public name.

trio-websocket tells neither of bytes that came nor of a full queue, and a live peer then looks like
a dead one. So some private attributes are read, of the versions that pyproject.toml allows, here
and nowhere else. A test fails when one of them is gone. Where that is so at run time, what it tells
is not known.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, cast

import trio
from trio_websocket import WebSocketConnection
from wsproto import WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import Ping, TextMessage

#: They are read; `_send` is called, `_wsproto` makes frames, `_pings` gets the PINGs of which the
#: PONGs are waited for. Nothing else is changed.
NAMES: Final = (
    "_stream",
    "_stream_lock",
    "_send",
    "_pings",
    "_wsproto",
    "_send_channel",
    "_message_size",
    "_close_handshake",
    "_reader_running",
    "_for_testing_peer_closed_connection",
)

#: Characters of a text that any empty buffer of a socket takes: Linux makes none smaller than 4.5
#: KiB (``SOCK_MIN_SNDBUF``), of which half is for data.
_LITTLE: Final = 512


def stream(ws: WebSocketConnection) -> trio.abc.Stream | None:
    """What it stands on."""
    found = getattr(ws, "_stream", None)
    return found if isinstance(found, trio.abc.Stream) else None


def socket_of(ws: WebSocketConnection) -> socket.socket | None:
    """The socket below; None: there is none, or it is not known.

    It is Trio's, which has the methods of the other kind that do not wait.
    """
    below = stream(ws)
    if isinstance(below, trio.SSLStream):
        below = below.transport_stream
    return cast("socket.socket", below.socket) if isinstance(below, trio.SocketStream) else None


def ping(ws: WebSocketConnection) -> Callable[[bytes], Awaitable[None]] | None:
    """What sends a PING, and does not wait for its PONG."""
    send = getattr(ws, "_send", None)
    if not callable(send):
        return None

    async def send_ping(payload: bytes) -> None:
        await send(Ping(payload=payload))

    return send_ping


def send_nowait(
    ws: WebSocketConnection, sock: socket.socket, payload: bytes, message: str | None
) -> bool:
    """Send a PING, and a text, by a socket whose buffer is empty.

    Args:
        ws: over it.
        sock: it, one that does not wait.
        payload: the PING's.
        message: the text; None: there is none.

    Returns:
        Whether that is done. Else nothing was sent, and the other way of sending tells why.
    """
    lock, protocol = getattr(ws, "_stream_lock", None), getattr(ws, "_wsproto", None)
    if not isinstance(lock, trio.StrictFIFOLock) or not isinstance(protocol, WSConnection):
        return False
    # Who holds the lock may have sent half of a frame.
    if lock.locked() or protocol.state is not ConnectionState.OPEN:
        return False
    if message is not None and len(message) > _LITTLE:
        return False
    data = protocol.send(Ping(payload=payload))
    if message is not None:
        data += protocol.send(TextMessage(data=message))
    try:
        sent = sock.send(data)
        if sent < len(data):  # the smallest of buffers: half a frame cannot be mended
            sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True


def expect_pong(ws: WebSocketConnection, payload: bytes) -> trio.Event | None:
    """Make an event that is set when the PONG comes; None: not known how.

    Args:
        ws: over which the PING is sent next.
        payload: of the PING; none of `awaited`.
    """
    pings: Any = getattr(ws, "_pings", None)
    if not isinstance(pings, OrderedDict):
        return None
    event = pings[payload] = trio.Event()
    return event


def forget_pong(ws: WebSocketConnection, payload: bytes, event: trio.Event) -> None:
    """Undo `expect_pong`, where the PONG has not come."""
    pings: Any = getattr(ws, "_pings", None)
    if isinstance(pings, OrderedDict) and pings.get(payload) is event:
        del pings[payload]


def awaited(ws: WebSocketConnection) -> Collection[bytes]:
    """What PINGs carried whose PONGs are waited for, as far as that is known."""
    pings: Any = getattr(ws, "_pings", None)
    return pings if isinstance(pings, OrderedDict) else ()


def queue_is_full(ws: WebSocketConnection) -> bool | None:
    """Whether its reader waits for the application; None: not known."""
    channel: Any = getattr(ws, "_send_channel", None)
    if not isinstance(channel, trio.MemorySendChannel):
        return None
    return channel.statistics().tasks_waiting_send > 0


def progress(ws: WebSocketConnection) -> object:
    """What changes as messages come, whole or not."""
    channel: Any = getattr(ws, "_send_channel", None)
    waiting = (
        channel.statistics().current_buffer_used
        if isinstance(channel, trio.MemorySendChannel)
        else None
    )
    return getattr(ws, "_message_size", None), waiting


def sender(ws: WebSocketConnection) -> object:
    """What changes as the stream takes what is being sent; None: nothing is, or it is not known.

    Its sender sleeps while the stream takes nothing, and each sleep has a frame of its own.
    """
    lock = getattr(ws, "_stream_lock", None)
    task = lock.statistics().owner if isinstance(lock, trio.StrictFIFOLock) else None
    if task is None:
        return None
    try:
        *_, (frame, _) = task.iter_await_frames()
    except (TypeError, ValueError):  # it awaits what Trio cannot look into
        return None
    return frame


def ended(ws: WebSocketConnection) -> trio.Event | None:
    """Set when it is closed; None: not known."""
    found = getattr(ws, "_close_handshake", None)
    return found if isinstance(found, trio.Event) else None


def is_read(ws: WebSocketConnection) -> bool:
    """Whether its reader runs, as far as that is known."""
    return getattr(ws, "_reader_running", False) is True


def peer_closed(ws: WebSocketConnection) -> bool:
    """Whether the peer was the first to close, as far as that is known."""
    found = getattr(ws, "_for_testing_peer_closed_connection", None)
    return isinstance(found, trio.Event) and found.is_set()
