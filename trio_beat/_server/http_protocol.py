"""Hypercorn's HTTP/1.1, stricter about what comes in, and with an end to each connection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import h11
import trio
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import EndBody, Event, Response
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection

from .._exceptions import Refused
from .._protocol.handshake import check_framing
from .._protocol.head import find_block_end, find_head, origin_form
from .._protocol.refusal import SECURITY_HEADERS, refusal_response

#: Seconds for which a connection takes further requests.
_KEPT: Final = 60.0
_CLOSE: Final = (b"connection", b"close")
#: What Hypercorn itself says where an application has not answered.
_OWN_ANSWER: Final = [(b"content-length", b"0"), _CLOSE]
_SECURITY: Final = [
    (name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()
]
_UNANSWERED: Final = frozenset({h11.IDLE, h11.SEND_RESPONSE})


class _StrictChunks(ChunkedReader):
    """Bounds the headers behind a body as those before it: 5,000 of them take 10 ms to parse."""

    def __call__(self, buf: ReceiveBuffer) -> Any:
        if self._reading_trailer:
            # The line before is that of the last chunk, which has been taken already.
            find_block_end(b"\n" + bytes(buf), 0)
        return super().__call__(buf)


class StrictConnection(h11.Connection):
    """Judges each request's head as that of a connection's first request is judged."""

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        #: What is wrong with the request.
        self.refusal: Refused | None = None
        #: The latest request's line and headers.
        self.head = b""

    def receive_data(self, data: bytes) -> None:
        """See `h11.Connection.receive_data`.

        What stands behind the last request, such as an empty line behind a form, is no reason to
        refuse that one (RFC 9112, section 9.6).
        """
        if self.their_state is not h11.MUST_CLOSE:
            super().receive_data(data)

    def next_event(self) -> Any:
        """See `h11.Connection.next_event`."""
        if self.their_state is h11.MUST_CLOSE:
            return h11.NEED_DATA
        try:
            if self.their_state is h11.IDLE and (data := self.trailing_data[0]):
                head = find_head(data)
                if head is not None:
                    check_framing(head)
                    self.head = head.raw
            return super().next_event()
        except Refused as refusal:
            self.refusal = refusal
            raise h11.RemoteProtocolError(refusal.logged, refusal.status) from None

    def _get_io_object(self, *args: Any) -> Any:
        made = super()._get_io_object(*args)
        return _StrictChunks() if isinstance(made, ChunkedReader) else made


class Protocol(H11Protocol):
    """HTTP/1.1 of one connection.

    Args:
        args: of the class that this extends.
        told: asked for the headers that the application gets, for those that came.
    """

    def __init__(
        self, *args: Any, told: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]
    ) -> None:
        super().__init__(*args)
        self._told = told
        self.connection = StrictConnection(self.config.h11_max_incomplete_size)
        self._kept_until = trio.current_time() + _KEPT

    @property
    def upgraded(self) -> bool:
        """It is, or would become, a WebSocket of the application."""
        return isinstance(self.connection, H11WSConnection)

    @property
    def head(self) -> bytes:
        """The latest request's line and headers."""
        return self.connection.head if isinstance(self.connection, StrictConnection) else b""

    @property
    def expects_body(self) -> bool:
        """A part of the request's body has yet to come."""
        return bool(self.connection.their_state is h11.SEND_BODY)

    async def refuse(self, refusal: Refused) -> None:
        """Answer the request, where it is not answered yet, and close."""
        connection = self.connection
        if isinstance(connection, H11WSConnection):
            connection = connection.h11_connection
        if connection.our_state in _UNANSWERED:
            await self.send(RawData(refusal_response(refusal)))
        await self.send(Closed())

    async def stream_send(self, event: Event) -> None:
        """Send a part of an answer; behind the last one of a connection comes its end."""
        if isinstance(event, Response):
            event = self._completed(event)
        await super().stream_send(event)
        if isinstance(event, EndBody) and not self._goes_on:
            # Hypercorn waits for the application to return, or for the rest of the request.
            await self.send(Closed())

    def _completed(self, response: Response) -> Response:
        more = []
        if response.headers == _OWN_ANSWER:
            more += _SECURITY
        elif self.upgraded and response.status_code >= 200:
            more.append(_CLOSE)
        # Before the rest of a body no other request can be read. The client has to know that
        # (RFC 9112, section 9.6), or it sends one that is lost.
        cut_short = not self.upgraded and self.expects_body
        if cut_short or trio.current_time() >= self._kept_until:
            self.keep_alive_requests = self.config.keep_alive_max_requests
        return replace(response, headers=[*response.headers, *more])

    @property
    def _goes_on(self) -> bool:
        connection = self.connection
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE

    async def _send_error_response(self, status_code: int) -> None:
        assert isinstance(self.connection, StrictConnection)
        refusal = self.connection.refusal or Refused(status_code, "malformed request body")
        await self.send(RawData(refusal_response(refusal)))

    async def _check_protocol(self, event: h11.Request) -> None:
        """No HTTP/2: an upgrade to it is ignored, which is allowed (RFC 9110, section 7.8)."""

    async def _create_stream(self, request: h11.Request) -> None:
        target = origin_form(request.target.decode("ascii")).encode("ascii")
        version = b"1.0" if request.http_version == b"1.0" else b"1.1"
        came = list(request.headers)
        headers = self._told(came)
        if (target, version) != (request.target, request.http_version) or headers is not came:
            request = h11.Request(
                method=request.method, target=target, headers=headers, http_version=version
            )
        await super()._create_stream(request)
