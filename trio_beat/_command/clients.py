"""Two clients for the command line: ``python -m trio_beat listen`` and ``publish``."""

from __future__ import annotations

import argparse
import http.client
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import trio

from .._client.address import TARGET, check_fields
from .._client.connect import connect
from .._client.dial import why
from .._client.reconnecting import reconnecting
from .._connection.connection import Connection
from .._connection.ending import CLOSE_TIMEOUT
from .._exceptions import ConnectFailed, ConnectionClosed, ConnectTimeout
from .._heartbeat import Heartbeat
from .._log import get_logger
from .._plain import leaves
from .._protocol.compression import Compression
from .._protocol.statuses import name_status
from .._text import printable, public_url, utf8
from .arguments import ConfigurationError, Parser
from .logs import set_up_logging
from .signals import STOPPING, caught
from .streams import complain, say, standard_error, standard_output

_log = get_logger("trio_beat")

#: Seconds that publishing over HTTP may take.
_HTTP_TIMEOUT: Final = 10.0
_TOKEN: Final = "TRIO_BEAT_PUBLISH_TOKEN"  # noqa: S105 - the name of it
#: Bytes of an HTTP response that are shown.
_SHOWN: Final = 1000


def listen(arguments: Sequence[str]) -> int:
    """Print the messages of a WebSocket and log its beats, until a signal comes.

    Returns:
        0 after a signal, or when standard output is closed; 1 when the server refuses the client.
    """
    parser = _parser("listen", "Print what a WebSocket sends, a message a line; log its beats.")
    parser.add_argument(
        "--interval", type=float, default=5.0, help="seconds between two beats (%(default)s)"
    )
    parser.add_argument(
        "--misses", type=int, default=3, help="missed beats in a row that end it (%(default)s)"
    )
    parser.add_argument(
        "--heartbeat-message",
        default="--heartbeat--",
        metavar="TEXT",
        help="text that is a beat of the server's and no message (%(default)s); empty: none is",
    )
    options = _parse(parser, arguments)
    try:
        heartbeat = Heartbeat(options.interval, options.misses)
        connections = reconnecting(options.url, heartbeat=heartbeat, **_how(options))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    _warn_without(options.url, "subscribe-", "sends nothing")
    set_up_logging("info", "text")
    # `reconnecting` logs the same, and when it tries again.
    get_logger("trio_beat.connection").setLevel("WARNING")
    return _run(_listen, connections, heartbeat.interval, options.heartbeat_message, interrupted=0)


def publish(arguments: Sequence[str]) -> int:
    """Send one message over a WebSocket or over HTTP, as the URL's scheme says.

    Returns:
        0 when the server has the message, else 1.
    """
    parser = _parser("publish", "Send one message: over a WebSocket, or over HTTP with a token.")
    parser.add_argument(
        "message", metavar="MESSAGE", help="text; where it begins with a dash, put -- before it"
    )
    parser.add_argument("--token", help=f"for http:// and https:// (better: {_TOKEN})")
    options = _parse(parser, arguments)
    shown = public_url(options.url)
    try:
        url = urlsplit(options.url)
    except ValueError:
        raise ConfigurationError(f"{shown!r} is not a URL") from None
    if url.scheme in ("http", "https"):
        if options.compression == "on":
            raise ConfigurationError("--compression is for ws:// and wss:// only")
        return _post(url, options)
    if url.scheme not in ("ws", "wss"):
        expected = "ws://, wss://, http:// or https://"
        raise ConfigurationError(f"{shown!r} has no known scheme; expected {expected}")
    if options.token is not None:
        raise ConfigurationError("--token is for http:// and https:// only")
    try:
        connection = connect(options.url, **_how(options))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    _warn_without(options.url, "publish-", "passes the message on to no subscriber")
    return _run(_publish, connection, options.message, interrupted=1)


def _warn_without(url: str, parameter: str, what: str) -> None:
    if parameter not in urlsplit(url).query:
        complain(f"the URL has no {parameter} parameter: a server with trio-beat's channels {what}")


def _parser(name: str, what: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"trio-beat {name}", description=what)
    parser.add_argument("url", metavar="URL", help="for example ws://127.0.0.1:8000/ws/news?...")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent with the request; may be given several times",
    )
    parser.add_argument("--ca", metavar="FILE", help="trust these authorities (PEM), no others")
    parser.add_argument(
        "--compression",
        choices=("on", "off"),
        default="off",
        help="offer to compress messages (permessage-deflate; %(default)s)",
    )
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        try:
            if isinstance(value, list):
                setattr(options, name, [utf8(item) for item in value])
            elif isinstance(value, str) and name != "ca":  # the name of a file is bytes
                setattr(options, name, utf8(value))
        except ValueError as exc:
            raise ConfigurationError(f"{name.replace('_', '-')} {exc}") from None
    return options


def _how(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "headers": _headers(options),
        "ssl_context": _context(options),
        "compression": Compression() if options.compression == "on" else None,
    }


def _headers(options: argparse.Namespace) -> list[tuple[str, str]]:
    pairs = [line.partition(":") for line in options.header]
    if not all(colon for _, colon, _ in pairs):
        # The message does not quote it: it may be a secret, with the colon forgotten.
        raise ConfigurationError("--header: there is one without a colon, expected NAME: VALUE")
    fields = [(name, value.strip()) for name, _, value in pairs]
    try:
        check_fields(fields)
    except ValueError as exc:
        raise ConfigurationError(f"--header: {exc}") from None
    return fields


def _context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.ca is None:
        return None
    if not options.url.startswith(("wss:", "https:")):
        raise ConfigurationError("--ca is for wss:// and https:// only")
    try:
        return ssl.create_default_context(cafile=options.ca)
    except OSError as exc:
        raise ConfigurationError(f"--ca: cannot use {options.ca!r}: {exc.strerror}") from exc


def _run(task: Callable[..., Awaitable[int]], *arguments: object, interrupted: int) -> int:
    """Run a task until it returns an exit code, fails, or is interrupted by a signal.

    Args:
        task: an async function, called with `arguments`.
        interrupted: the exit code after a signal.
    """
    code = interrupted

    async def until_signal() -> None:
        nonlocal code
        with caught(STOPPING) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_obey, signals, nursery.cancel_scope)
                nursery.start_soon(standard_error().run)
                code = await task(*arguments)
                nursery.cancel_scope.cancel()

    try:
        trio.run(until_signal)
    except* (ConnectFailed, ConnectionClosed) as group:
        complain(str(next(leaves(group))))
        code = 1
    return code


async def _obey(signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
    async for _ in signals:
        everything.cancel()


async def _listen(connections: reconnecting, interval: float, beat: str) -> int:
    async with connections:
        async for connection in connections:
            _log.info("open: %s %s", connection.peer, public_url(connection.path))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell_beats, connection, interval)
                code = await _print_all(connection, beat)
                nursery.cancel_scope.cancel()
            if code is not None:
                return code
    raise AssertionError("going round has no end")


async def _print_all(connection: Connection, beat: str) -> int | None:
    """Print messages until the connection ends (None), or printing fails (an exit code)."""
    async for message in connection:
        if isinstance(message, str) and message == beat:
            _log.info("beat of the server's: %s", message)
            continue
        try:
            await _print(message)
        except BrokenPipeError:
            return 0
        except OSError as exc:
            complain(f"cannot write to standard output: {exc.strerror}")
            return 1
    return None


async def _tell_beats(connection: Connection, interval: float) -> None:
    """Log each beat of a connection, half an interval after its PING."""
    await trio.sleep(interval * 1.5)
    while True:
        missed, latency, *_ = connection.statistics()
        took = "none answered yet" if latency is None else f"last answer in {latency * 1000:.1f} ms"
        _log.info("beat: %s, %d missed in a row", took, missed)
        await trio.sleep(interval)


async def _print(message: str | bytes) -> None:
    """Write a message to standard output; raises `OSError`."""
    if os.isatty(1):
        text = message if isinstance(message, str) else repr(message)
        # A peer's message must not control the terminal.
        data = re.sub(r"[^\n\t]+", lambda part: printable(part[0]), text).encode()
    else:
        data = message.encode() if isinstance(message, str) else message
    await standard_output().send(data + b"\n")


async def _publish(connecting: connect, message: str) -> int:
    async with connecting as connection:
        await connection.send(message)
        begun = trio.current_time()
    assert connection.closed is not None
    if connection.closed.by != "handler":
        raise ConnectionClosed(connection.closed)
    # The server answers our close frame only after it has read the message before it.
    if trio.current_time() - begun >= CLOSE_TIMEOUT:
        raise ConnectTimeout(
            f"no answer within {CLOSE_TIMEOUT:g} s: the message may be published, or not"
        )
    return 0


def _post(url: SplitResult, options: argparse.Namespace) -> int:
    headers = {"Content-Type": "text/plain; charset=utf-8", **_http_headers(options)}
    server = _http_server(url, options)
    target = url._replace(scheme="", netloc="", fragment="").geturl() or "/"
    if not TARGET.fullmatch(target):
        shown = public_url(options.url)
        text = f"{shown!r} has characters that must be percent-encoded (RFC 3986)"
        raise ConfigurationError(text)
    try:
        server.request("POST", target, options.message.encode(), headers)
        answer = server.getresponse()
        said = " ".join(answer.read(_SHOWN).decode(errors="replace").split())
    except TimeoutError:
        complain(f"no answer within {_HTTP_TIMEOUT:g} s: the message may be published, or not")
        return 1
    except (OSError, ValueError, http.client.HTTPException) as exc:
        complain(f"cannot publish at {server.host}:{server.port}: {why(exc)}")
        return 1
    except KeyboardInterrupt:
        return 1
    finally:
        server.close()
    if not http.HTTPStatus.OK <= answer.status < http.HTTPStatus.MULTIPLE_CHOICES:
        hint = (
            "; was the server given a token?" if answer.status == http.HTTPStatus.NOT_FOUND else ""
        )
        complain(f"not published: {name_status(answer.status)}: {said}{hint}")
        return 1
    if said:
        say(printable(said) + "\n")
    return 0


def _http_server(url: SplitResult, options: argparse.Namespace) -> http.client.HTTPConnection:
    try:
        port = url.port
    except ValueError:
        text = f"{public_url(options.url)!r} is not a URL: its port is no number up to 65535"
        raise ConfigurationError(text) from None
    if not url.hostname:
        raise ConfigurationError(f"{public_url(options.url)!r} has no host")
    context = _context(options)
    if url.scheme == "http":
        return http.client.HTTPConnection(url.hostname, port, timeout=_HTTP_TIMEOUT)
    return http.client.HTTPSConnection(url.hostname, port, timeout=_HTTP_TIMEOUT, context=context)


def _http_headers(options: argparse.Namespace) -> dict[str, str]:
    token = options.token or os.environ.get(_TOKEN)
    if not token:
        raise ConfigurationError(f"publishing over HTTP needs --token or {_TOKEN}")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ConfigurationError("the token has characters that cannot be sent (RFC 6750)")
    given = {name.title(): value for name, value in _headers(options)}
    if "Authorization" in given:
        raise ConfigurationError("--header: Authorization is what --token is for")
    return {**given, "Authorization": f"Bearer {token}"}


COMMANDS: Final = {"listen": listen, "publish": publish}
