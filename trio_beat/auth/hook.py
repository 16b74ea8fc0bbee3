"""An application is asked over HTTP who a peer is.

1. It gets what identifies the peer, and what it would get from a proxy: Host, the peer's address
   and scheme as the server knows them, or believes a trusted proxy. Of the peer's own word on the
   last two nothing is passed on.
2. What it does not answer clearly refuses the peer with 503. Only 200 identifies.
3. Requests are few at a time, and those that wait for a turn are bounded as well.
4. An application that is away is not asked again and again: see `Pause`.
5. No credential, and no value of an answer, reaches a log or an exception.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

import trio

from .._checks import check_kind, check_seconds, check_token, check_whole
from .._exceptions import Refused
from .._identity import Identity
from .._log import get_logger
from .._protocol.addresses import read_address
from .._protocol.refusal import unauthorized
from .._protocol.request import Request
from .._summary import Summary
from .._text import public_url
from .answer import identity_of, refusal_of
from .credentials import offered_token
from .exchange import Answer, NoAnswer, Place, exchange
from .pause import Outcome, Pause

_log = get_logger("trio_beat.auth")

#: Requests that wait for a turn, for each that has one.
_WAITING: Final = 50
#: Seconds until a peer that could not be identified should try again.
_AGAIN: Final = 5
_PORTS: Final = {"http": 80, "https": 443}
#: A host and a target that can be sent as they are (RFC 3986).
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]+")
_TARGET: Final = re.compile(r"[!-~]+")
#: Headers that are passed on anyhow.
_PASSED: Final = ("Cookie", "Authorization", "User-Agent", "Origin")
#: Headers that the request has of its own; that are about the peer's connection, and not for the
#: next one (RFC 9110, section 7.6.1); that are about a body, which the request has not; or the
#: peer's own word on what a proxy tells.
_NEVER: Final = re.compile(
    r"host|accept|accept-encoding|expect|range|if-.*"
    r"|connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|http2-settings"
    r"|sec-websocket-.*|content-.*|forwarded|x-forwarded-.*",
    re.IGNORECASE,
)


class Hook:
    """Asks an application over HTTP who a peer is; an ``admit`` for `trio_beat.serve`.

    The request is a GET with the peer's Cookie, Authorization (also made from the subprotocol
    ``bearer``), User-Agent, Origin and Host, and with X-Forwarded-For and X-Forwarded-Proto. 200
    with a JSON object of the arguments of `Identity` identifies the peer; 401 and 403 refuse it;
    everything else is 503 for the peer, and a line in the log. Pages that offer a token need
    a server that has ``bearer`` as the last of its ``subprotocols``, see `JWT`.

    Five requests in a row that cannot be sent or are not answered in time, or are answered with
    502 to 504, open a pause of five seconds. Peers then get 503 at once. The first request behind
    it tells whether there is another pause.

    Args:
        url: ``http://`` or ``https://``, without user and password. It is asked directly, whatever
            the environment says of proxies, and redirects are not followed.
        timeout: seconds for a request, from connecting to the last byte; not for waiting until
            fewer than `concurrency` run.
        concurrency: requests at a time; 50 times as many may wait, and others get 503.
        headers: names of more headers that are passed on. A peer that sends one of them has a
            credential.
        ssl_context: for ``https://``; None: certificates are checked against the system's
            authorities.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument cannot be right.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        concurrency: int = 20,
        headers: Sequence[str] = (),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        check_seconds("timeout", timeout)
        check_whole("concurrency", concurrency)
        self._place, self._netloc = _place(url, ssl_context)
        self._shown = public_url(url)
        self._timeout = timeout
        self._more = _names(headers)
        self._turns = trio.CapacityLimiter(concurrency)
        self._pause = Pause()
        self._lines = Summary(_log, "peers not identified")

    async def __call__(self, request: Request) -> Identity | None:
        """Ask who a peer is.

        Args:
            request: the peer's.

        Returns:
            Who it is. None: the request has no credential, neither Cookie nor Authorization, the
            subprotocol ``bearer`` or one of `headers`; the application was not asked.

        Raises:
            Refused: the application refuses the peer, or cannot tell (503).
        """
        credentials = self._credentials(request)
        if not credentials:
            return None
        headers = [*self._own(request), *credentials]
        self._check_pause()
        waiting = self._turns.statistics().tasks_waiting
        if waiting >= _WAITING * self._turns.total_tokens:
            self._note("busy", "too many wait for a turn", request)
            raise _unavailable()
        async with self._turns:
            self._check_pause()  # it may have begun meanwhile
            answer = await self._ask(headers)
        return self._judge(answer, request)

    async def _ask(self, headers: list[tuple[str, str]]) -> Answer | NoAnswer:
        attempt = self._pause.begin(trio.current_time())
        outcome = Outcome.NOTHING  # where it is cancelled
        try:
            answer = await exchange(self._place, headers, self._timeout)
            outcome = answer.outcome
        finally:
            if self._pause.end(attempt, outcome, trio.current_time()):
                if self._pause.is_open:
                    _log.warning("%s is away, and not asked for some seconds", self._shown)
                else:
                    _log.info("%s answers again", self._shown)
        return answer

    def _check_pause(self) -> None:
        if seconds := self._pause.wait(trio.current_time()):
            raise _unavailable(seconds)

    def _judge(self, answer: Answer | NoAnswer, request: Request) -> Identity:
        if isinstance(answer, NoAnswer):
            self._note(answer.kind, answer.text, request)
            raise _unavailable()
        if answer.status not in (200, 401, 403):
            self._note(str(answer.status), f"answered {answer.status}", request)
            raise _unavailable()
        if wrong := _encoding(answer):
            self._note("wrong", wrong, request, logging.ERROR)
            raise _unavailable()
        if answer.status != 200:
            raise refusal_of(answer.status, answer.headers, answer.body)
        try:
            if answer.more:
                raise ValueError(f"more than {len(answer.body):,} bytes")  # noqa: TRY301
            return identity_of(answer.body)
        except ValueError as exc:
            wrong = f"answered no identity: {exc}"
        self._note("wrong", wrong, request, logging.ERROR)
        raise _unavailable()

    def _note(self, kind: str, text: str, request: Request, level: int = logging.WARNING) -> None:
        """Log why a peer is not identified, unless too many lines are logged already."""
        if self._lines.alone(kind, trio.current_time()):
            fields = {"peer": request.peer}
            where = self._shown
            _log.log(level, "%s not identified: %s %s", request.peer, where, text, extra=fields)

    def _credentials(self, request: Request) -> list[tuple[str, str]]:
        """What identifies the peer."""
        lines = request.headers.get_all("Authorization")
        if len(lines) > 1:
            # Which one counts, another reader may see otherwise.
            raise unauthorized("more than one Authorization header", error="invalid_request")
        found = [("Authorization", line) for line in lines]
        if not found and (token := offered_token(request)) is not None:
            found = [("Authorization", f"Bearer {token}")]
        names = ("Cookie", *self._more)
        found += [(name, request.headers[name]) for name in names if name in request.headers]
        return found

    def _own(self, request: Request) -> Iterator[tuple[str, str]]:
        """What goes with the credentials."""
        yield "Host", request.headers.get("Host", self._netloc)
        yield "Connection", "close"
        yield "Accept", "application/json, text/plain;q=0.5"
        yield "Accept-Encoding", "identity"
        for name in ("User-Agent", "Origin"):
            if name in request.headers:
                yield name, request.headers[name]
        if (address := read_address(request.peer)) is not None:
            yield "X-Forwarded-For", str(address)
        yield "X-Forwarded-Proto", "https" if request.secure else "http"


def _unavailable(seconds: int = _AGAIN) -> Refused:
    # A new one each time: an exception that is raised again keeps the frames of the first time.
    text = "cannot tell now who you are, try again later"
    return Refused(503, text, {"Retry-After": str(seconds)})


def _encoding(answer: Answer) -> str | None:
    """What is wrong with an answer's encoding; None: nothing."""
    codings = [value for name, value in answer.headers if name.lower() == "content-encoding"]
    if all(coding.strip().lower() in ("", "identity") for coding in codings):
        return None
    return "answered with a Content-Encoding, which was not asked for"


def _place(url: str, ssl_context: ssl.SSLContext | None) -> tuple[Place, str]:
    """Check a URL; gives its host and port as a header has them, too."""
    check_kind("url", url, str, "a text")
    shown = public_url(url)
    expected = "it must be http://host[:port]/path or https://..."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None  # outside of the handler, whose exception quotes the URL
    host = parts.hostname
    if parts.scheme not in _PORTS or not host or port == 0:
        raise ValueError(f"url is {shown!r}; {expected}")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"url {shown!r} has a user or a password; {expected}")
    if parts.fragment:
        raise ValueError(f"url {shown!r} has a fragment; {expected}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _HOST.fullmatch(host) or not _TARGET.fullmatch(target) or not _TARGET.fullmatch(url):
        raise ValueError(f"url {shown!r} has characters that must be percent-encoded (RFC 3986)")
    secure = parts.scheme == "https"
    if ssl_context is not None:
        check_kind("ssl_context", ssl_context, ssl.SSLContext, "an ssl.SSLContext, or None")
        if ssl_context.protocol is ssl.PROTOCOL_TLS_SERVER:
            raise ValueError("ssl_context is a server's; see ssl.create_default_context()")
        if not secure:
            raise ValueError(f"ssl_context is given, but {shown!r} is not https://")
    elif secure:
        ssl_context = ssl.create_default_context()  # once: it reads all certificates
    return Place(host, port or _PORTS[parts.scheme], target, ssl_context), parts.netloc


def _names(headers: Sequence[str]) -> tuple[str, ...]:
    """Check the names of headers that are passed on."""
    if isinstance(headers, str | bytes):  # each of its letters would be one
        raise TypeError("headers must be several names, such as a list")
    names = tuple(headers)
    seen = {name.lower() for name in _PASSED}
    for name in names:
        check_token("header", name)
        # Applications behind WSGI see both spellings as one (PEP 3333).
        if _NEVER.fullmatch(name.replace("_", "-")):
            raise ValueError(f"header {name!r} is not to be passed on: it is not a credential")
        if name.lower() in seen:
            raise ValueError(f"header {name!r} is passed on already")
        seen.add(name.lower())
    return tuple(map(str.__str__, names))
