"""One request to an application over HTTP, and its answer.

1. Each request has a connection of its own, which is closed behind it. A pool would keep some that
   the application has closed meanwhile; and that of httpcore loses a place for each request that is
   cancelled before it is connected (encode/httpcore issue 1093).
2. The socket is closed here, whatever happens: httpcore leaves it open where a TLS handshake is
   cancelled. It waits for no farewell, and so what httpcore shields has nothing to wait for.
3. One time limit covers all of it, and no answer is unbounded.
4. Nothing of the answer reaches a log: httpcore's own, which would show its headers, is silent.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

import httpcore
import trio

from .._plain import leaves
from .answer import MOST_JSON, MOST_TEXT, is_text
from .pause import Outcome

#: Bytes that are read of an answer with its head, and what chunks and earlier answers (1xx) take.
#: (h11 bounds a head by itself: 100 KiB.)
_MOST_READ: Final = 4 * MOST_JSON

_asking: ContextVar[bool] = ContextVar("asking", default=False)


def _is_of_others(_record: logging.LogRecord) -> bool:
    return not _asking.get()


# A function is added once, however often.
logging.getLogger("httpcore.http11").addFilter(_is_of_others)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an application is asked.

    Args:
        host: a name or an address, without brackets.
        port: its port.
        target: path and query.
        ssl_context: for TLS; None: without.
    """

    host: str
    port: int
    target: str = field(repr=False)  # its query may have a key
    ssl_context: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Args:
        status: its HTTP status.
        headers: names and values, one pair for each line.
        body: of 200, 401 and 403 its beginning.
        more: whether the body is longer.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    more: bool

    @property
    def outcome(self) -> Outcome:
        """What it says about the application: gateways answer for one that is away."""
        return Outcome.AWAY if self.status in (502, 503, 504) else Outcome.ANSWERED


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Why there is no answer.

    Args:
        kind: one word, to count by.
        text: the same for people.
        outcome: what it says about the application.
    """

    kind: str
    text: str
    outcome: Outcome


async def exchange(
    place: Place, headers: Iterable[tuple[str, str]], timeout: float
) -> Answer | NoAnswer:
    """Send a GET, and wait for the answer.

    Args:
        place: where to.
        headers: of the request, all that it has.
        timeout: seconds, from connecting to the last byte.
    """
    request = httpcore.Request(
        "GET",
        httpcore.URL(
            scheme=b"http" if place.ssl_context is None else b"https",
            host=place.host.encode(),
            port=place.port,
            target=place.target.encode(),
        ),
        headers=[(name.encode(), value.encode("latin-1")) for name, value in headers],
    )
    token = _asking.set(True)
    try:
        with trio.move_on_after(timeout):
            return await _connect_and_ask(place, request)
    finally:
        _asking.reset(token)
    return NoAnswer("timeout", f"no whole answer within {timeout:g} s", Outcome.AWAY)


async def _connect_and_ask(place: Place, request: httpcore.Request) -> Answer | NoAnswer:
    try:
        stream = await httpcore.TrioBackend().connect_tcp(place.host, place.port)
    except (httpcore.ConnectError, UnicodeError) as exc:
        return _unreachable(exc)
    sock = stream.get_extra_info("socket")
    try:
        if place.ssl_context is not None:
            try:
                stream = await stream.start_tls(place.ssl_context, place.host)
            except httpcore.ConnectError as exc:
                return _unreachable(exc)
        return await _ask(_Bounded(stream), request)
    finally:
        sock.close()


def _unreachable(exc: Exception) -> NoAnswer:
    return NoAnswer("unreachable", f"cannot be reached: {_why(exc)}", Outcome.AWAY)


async def _ask(stream: _Bounded, request: httpcore.Request) -> Answer | NoAnswer:
    connection = httpcore.AsyncHTTP11Connection(request.url.origin, stream)
    body = bytearray()
    most = 0
    try:
        response = await connection.handle_async_request(request)
        headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in response.headers)
        most = _most(response.status, headers)
        if most:
            assert isinstance(response.stream, AsyncIterable)
            async for chunk in response.stream:
                body += chunk
                # Httpcore's generators are not left in their middle, but fail at the next read.
                stream.enough = len(body) > most
    except _Enough:
        if len(body) <= most:
            text = "answered too much: headers, chunks or 1xx without end"
            return NoAnswer("wrong", text, Outcome.ANSWERED)
    except (httpcore.ProtocolError, httpcore.NetworkError):
        # The exception may quote what was answered.
        if not stream.received:
            return NoAnswer("lost", "closed the connection without an answer", Outcome.NOTHING)
        return NoAnswer("wrong", "answered no HTTP, or not all of it", Outcome.ANSWERED)
    return Answer(response.status, headers, bytes(body[:most]), len(body) > most)


def _most(status: int, headers: Iterable[tuple[str, str]]) -> int:
    """Bytes that are of use of an answer's body."""
    if status == 200:
        return MOST_JSON
    return MOST_TEXT if status in (401, 403) and is_text(headers) else 0


class _Enough(Exception):  # noqa: N818 - no error
    """No more is read."""


class _Bounded(httpcore.AsyncNetworkStream):
    """A stream that counts what it reads.

    Attributes:
        received: bytes that were read.
        enough: whether reading fails from now on; it does where too much was read.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self.received = 0
        self.enough = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.enough or self.received >= _MOST_READ:
            raise _Enough
        data = await self._stream.read(max_bytes, timeout)
        self.received += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()


def _why(exc: BaseException) -> str:
    """The reason in the system's words; of all addresses that Trio tried, the first one's."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    first = next(leaves(exc))
    if isinstance(first, ssl.SSLCertVerificationError):
        return first.verify_message
    return getattr(first, "strerror", None) or str(first) or type(first).__name__
