"""The clients on the command line: ``python -m trio_beat listen`` and ``publish``."""

from __future__ import annotations

import argparse
import http.client
import logging
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import trio

from ._client import connect, reconnecting
from ._connection import Connection
from ._dial import leaves, name_status
from ._exceptions import ConnectFailed, ConnectionClosed
from ._heartbeat import Heartbeat
from ._logging import set_up_logging
from ._settings import ConfigurationError, Parser

_log = logging.getLogger("trio_beat")

#: Seconds that publishing over HTTP may take.
_HTTP_TIMEOUT: Final = 10.0
_TOKEN: Final = "TRIO_BEAT_PUBLISH_TOKEN"  # noqa: S105 - the name of it
#: Bytes of an answer over HTTP that are shown.
_SHOWN: Final = 1000


def listen(arguments: Sequence[str]) -> int:
    """Print the messages of a WebSocket, and log its beats, until a signal comes.

    Returns:
        0, or 1 when the server does not want this client.
    """
    parser = _parser("listen", "Print what a WebSocket sends, a message a line; log its beats.")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two beats")
    parser.add_argument("--misses", type=int, default=3, help="missed beats that end it")
    parser.add_argument(
        "--heartbeat-message",
        default="--heartbeat--",
        metavar="TEXT",
        help="text that is a beat of the server's and no message (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        heartbeat = Heartbeat(options.interval, options.misses)
        connections = reconnecting(options.url, heartbeat=heartbeat, **_how(options))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    set_up_logging("info", "text")
    return _run(_listen, connections, heartbeat.interval, options.heartbeat_message, interrupted=0)


def publish(arguments: Sequence[str]) -> int:
    """Send one message, over a WebSocket or over HTTP, by the URL's scheme.

    Returns:
        0 when the server has it, else 1.
    """
    parser = _parser("publish", "Send one message: over a WebSocket, or over HTTP with a token.")
    parser.add_argument("message", metavar="MESSAGE")
    parser.add_argument("--token", help=f"for http:// and https:// (better: {_TOKEN})")
    options = parser.parse_args(arguments)
    url = urlsplit(options.url)
    if url.scheme in ("http", "https"):
        return _post(url, options)
    if options.token is not None:
        raise ConfigurationError("--token is for http:// and https:// only")
    try:
        connection = connect(options.url, **_how(options))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    if "publish-" not in url.query:
        _say(
            "the URL has no publish- parameter: trio-beat's server passes such a message to nobody"
        )
    return _run(_publish, connection, options.message, interrupted=1)


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
    return parser


def _how(options: argparse.Namespace) -> dict[str, Any]:
    return {"headers": _headers(options), "ssl_context": _context(options)}


def _headers(options: argparse.Namespace) -> list[tuple[str, str]]:
    pairs = [line.partition(":") for line in options.header]
    for name, colon, _ in pairs:
        if not colon:
            raise ConfigurationError(f"--header: {name!r} is not NAME: VALUE")
    return [(name, value.strip()) for name, _, value in pairs]


def _context(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=options.ca)
    except OSError as exc:
        raise ConfigurationError(f"--ca: cannot use {options.ca!r}: {exc.strerror}") from exc


def _run(task: Callable[..., Any], *arguments: object, interrupted: int) -> int:
    """Run a task until it is done, fails, or a signal comes; `interrupted` is the code for that."""
    code = interrupted

    async def until_signal() -> None:
        nonlocal code
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_obey, signals, nursery.cancel_scope)
                await task(*arguments)
                code = 0
                nursery.cancel_scope.cancel()

    try:
        trio.run(until_signal)
    except* (ConnectFailed, ConnectionClosed) as group:
        _say(str(next(leaves(group))))
        code = 1
    except* BrokenPipeError:
        # Whoever read the messages has seen enough; what is still buffered can go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    return code


async def _obey(signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
    async for _ in signals:
        everything.cancel()


async def _listen(connections: reconnecting, interval: float, beat: str) -> None:
    async with connections:
        async for connection in connections:
            _log.info("open: %s %s", connection.peer, connection.path)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_tell_beats, connection, interval)
                async for message in connection:
                    if message == beat:
                        _log.info("beat of the server's: %s", message)
                    else:
                        _print(message)
                nursery.cancel_scope.cancel()


async def _tell_beats(connection: Connection, interval: float) -> None:
    """Tell of a connection's own beats, each when its answer has had half an interval to come."""
    await trio.sleep(interval * 1.5)
    while True:
        missed, latency, *_ = connection.statistics()
        took = "none answered yet" if latency is None else f"last answer in {latency * 1000:.1f} ms"
        _log.info("beat: %s, %d missed in a row", took, missed)
        await trio.sleep(interval)


def _print(message: str | bytes) -> None:
    terminal = sys.stdout.isatty()
    if isinstance(message, bytes) and not terminal:
        sys.stdout.buffer.write(message + b"\n")
        sys.stdout.buffer.flush()
        return
    text = message if isinstance(message, str) else repr(message)
    if terminal:
        # What a stranger sends must not command the terminal.
        text = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    print(text, flush=True)


async def _publish(connecting: connect, message: str) -> None:
    async with connecting as connection:
        await connection.send(message)
    # Its answer to our close frame says that the message before it has come.
    assert connection.closed is not None
    if connection.closed.by != "handler":
        raise ConnectionClosed(connection.closed)


def _post(url: SplitResult, options: argparse.Namespace) -> int:
    token = options.token or os.environ.get(_TOKEN)
    if not token:
        raise ConfigurationError(f"publishing over HTTP needs --token or {_TOKEN}")
    try:
        port = url.port
    except ValueError as exc:
        raise ConfigurationError(f"{options.url!r} is not a URL: {exc}") from exc
    if not url.hostname:
        raise ConfigurationError(f"{options.url!r} has no host")
    server: http.client.HTTPConnection
    if url.scheme == "https":
        context = _context(options) or ssl.create_default_context()
        server = http.client.HTTPSConnection(
            url.hostname, port, timeout=_HTTP_TIMEOUT, context=context
        )
    else:
        server = http.client.HTTPConnection(url.hostname, port, timeout=_HTTP_TIMEOUT)
    headers = {
        **dict(_headers(options)),
        "Authorization": f"Bearer {token}",
        "Content-Type": "text/plain; charset=utf-8",
    }
    target = url._replace(scheme="", netloc="", fragment="").geturl() or "/"
    try:
        server.request("POST", target, options.message.encode(), headers)
        answer = server.getresponse()
        said = " ".join(answer.read(_SHOWN).decode(errors="replace").split())
    except (OSError, ValueError, http.client.HTTPException) as exc:
        _say(f"cannot publish at {url.netloc.rpartition('@')[2]}: {exc}")
        return 1
    finally:
        server.close()
    if answer.status != http.HTTPStatus.OK:
        _say(f"not published: {name_status(answer.status)}: {said}")
        return 1
    print(said)
    return 0


def _say(text: str) -> None:
    print(f"trio-beat: {text}", file=sys.stderr)


COMMANDS: Final = {"listen": listen, "publish": publish}
