"""The client's end of a WebSocket over HTTP/2 (RFC 8441), as a stream of its bytes."""

from __future__ import annotations

from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio
from h2.exceptions import ProtocolError

#: What is asked for at a time.
_SIZE = 65536


class H2Connection:
    """A connection of HTTP/2, with any number of WebSockets.

    It has no task of its own: who waits for something reads.

    Args:
        stream: connected.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        config = h2.config.H2Configuration(client_side=True, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.streams: dict[int, H2Stream] = {}
        self.over = False
        self._reading = trio.Lock()
        self._writing = trio.Lock()
        self._may_connect = False

    async def open(self) -> None:
        """Begin, and wait until WebSockets are allowed."""
        self.h2.initiate_connection()
        await self.flush()
        await self.until(lambda: self._may_connect)

    async def flush(self) -> None:
        async with self._writing:
            if data := self.h2.data_to_send():
                await self.stream.send_all(data)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read until a condition holds, or the connection is over."""
        while not condition() and not self.over:
            async with self._reading:
                if condition() or self.over:
                    return
                data = await self.stream.receive_some(_SIZE)
                if not data:
                    self.over = True
                    return
                for event in self.h2.receive_data(bytes(data)):
                    self._take(event)
            await self.flush()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RemoteSettingsChanged():
                code = h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL
                self._may_connect |= code in event.changed_settings
            case h2.events.ResponseReceived(stream_id=number, headers=headers):
                self.streams[number].headers = list(headers)
            case h2.events.DataReceived(stream_id=number, data=data):
                self.streams[number].received += data
                # What is not read soon shrinks the window.
                self.streams[number].unacknowledged += event.flow_controlled_length
            case h2.events.StreamEnded(stream_id=number) | h2.events.StreamReset(stream_id=number):
                self.streams[number].ended = True
            case h2.events.ConnectionTerminated():
                self.over = True


class H2Stream(trio.abc.HalfCloseableStream):
    """One WebSocket's bytes.

    Args:
        connection: of which it is a stream; closed with it.
    """

    def __init__(self, connection: H2Connection) -> None:
        self.connection = connection
        self.number = connection.h2.get_next_available_stream_id()
        connection.streams[self.number] = self
        self.headers: list[tuple[bytes, bytes]] = []
        self.received = bytearray()
        self.unacknowledged = 0
        self.ended = False

    async def connect(self, target: str, headers: list[tuple[str, str]]) -> int:
        """Ask for a WebSocket; returns the status."""
        names = {name.lower() for name, _ in headers}
        self.connection.h2.send_headers(
            self.number,
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", target),
                *([] if "host" in names else [(":authority", "localhost")]),
                ("sec-websocket-version", "13"),
                *((name.lower(), value) for name, value in headers),
            ],
        )
        await self.connection.flush()
        await self.connection.until(lambda: bool(self.headers) or self.ended)
        return int(dict(self.headers)[b":status"])

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view, h2_ = memoryview(data), self.connection.h2
        while view:
            await self.connection.until(self._may_send)
            if self.ended or self.connection.over:
                raise trio.BrokenResourceError("the stream has ended")
            window = h2_.local_flow_control_window(self.number)
            size = min(window, h2_.max_outbound_frame_size, len(view))
            h2_.send_data(self.number, bytes(view[:size]))
            view = view[size:]
            await self.connection.flush()

    def _may_send(self) -> bool:
        return self.ended or self.connection.h2.local_flow_control_window(self.number) > 0

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        self.connection.h2.end_stream(self.number)
        await self.connection.flush()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self.connection.until(lambda: bool(self.received) or self.ended)
        data = bytes(self.received[:max_bytes])
        del self.received[: len(data)]
        if self.unacknowledged and not self.ended:
            self.connection.h2.acknowledge_received_data(self.unacknowledged, self.number)
            self.unacknowledged = 0
            await self.connection.flush()
        return data

    async def aclose(self) -> None:
        """Reset the stream, and close its connection."""
        try:
            if not self.ended and not self.connection.over:
                with trio.move_on_after(1, shield=True):
                    self.connection.h2.reset_stream(self.number)
                    await self.connection.flush()
        except (ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is over already
        finally:
            self.ended = True
            await self.connection.stream.aclose()
