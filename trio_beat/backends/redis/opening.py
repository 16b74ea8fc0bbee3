"""How a connection to a broker is opened, and what is found at the other end.

`Misconfigured` is raised for what another attempt does not change, such as a wrong password;
`Disconnected` for everything else. No text has a secret, nor has any exception behind it.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple

import trio

from ..._plain import leaves
from ..._text import printable
from .connection import Argument, Connection, pack, why
from .errors import Disconnected, Misconfigured, NotPrimary, ReplyError
from .replies import Batch, Pending, Reply

#: What a TLS server begins its complaint with (RFC 8446, section 5.1: alert).
_ALERT: Final = b"\x15"
#: What may be the matter where there is no answer to what is not TLS.
_TLS: Final = "; perhaps it speaks TLS only"
#: What TLS fails with where a connection was cut off, which may not happen again.
_CUT_OFF: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
#: What a broker says by a code, and what that means where it does not change by itself.
_PERMANENT: Final = {
    "WRONGPASS": "it does not accept the user name or the password",
    "NOAUTH": "it asks for a password",
    "NOPROTO": "it does not speak RESP3; Redis 6 or later does",
    "NOPERM": "the user may not connect: it needs +hello, +ping and +select",
    "DENIED": "it is in protected mode: it accepts connections of its own machine only",
}


class Greeting(NamedTuple):
    """What a broker says of itself."""

    server: str  #: such as redis or valkey
    version: tuple[int, ...]  #: such as (7, 0, 15)
    mode: str  #: standalone or sentinel
    role: str  #: master or replica


@asynccontextmanager
async def open_connection(
    host: str,
    port: int,
    *,
    context: ssl.SSLContext | None,
    timeout: float,
    pushed: Callable[[Sequence[Any]], object] | None = None,
) -> AsyncIterator[Connection]:
    """Connect, and have a connection while the context lasts.

    When the connection ends by itself, the block is not cancelled: see `Connection.wait_ended`.

    Args:
        host: name or address.
        port: of TCP.
        context: for TLS; None: without.
        timeout: seconds for connecting, and of silence after which the broker is dead.
        pushed: see `Connection`.

    Raises:
        Disconnected: it cannot be reached.
        Misconfigured: it does not speak TLS, or its certificate is not trusted.
    """
    stream = await open_stream(host, port, context, timeout)
    name = place(host, port)
    async with Connection(stream, name=name, timeout=timeout, pushed=pushed).running() as opened:
        yield opened


async def open_stream(
    host: str, port: int, context: ssl.SSLContext | None, timeout: float
) -> trio.abc.Stream:
    """Connect by TCP, and by TLS where there is a context; see `open_connection`."""
    name, begun = place(host, port), ""
    with trio.move_on_after(timeout):
        try:
            stream = await trio.open_tcp_stream(host, port)
        except (OSError, UnicodeError) as exc:
            causes = [leaf for leaf in leaves(exc.__cause__ or exc) if isinstance(leaf, OSError)]
            text = why(causes[0] if causes else exc)
            raise Disconnected(f"cannot connect to {name}: {text}") from exc
        if context is None:
            return stream
        try:
            below = _StillHeard(stream)
            secure = trio.SSLStream(below, context, server_hostname=host, https_compatible=True)
            begun = "; perhaps it does not speak TLS"
            await secure.do_handshake()
        except trio.BrokenResourceError as exc:
            await trio.aclose_forcefully(stream)
            raise _no_tls(name, exc.__cause__ or exc) from exc
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secure
    raise Disconnected(f"cannot connect to {name}: no answer within {timeout:g} s{begun}")


class _StillHeard(trio.abc.Stream):
    """A stream below TLS: where writing fails, what was said before is still read, such as why."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # The reader finds the end.
        with suppress(trio.BrokenResourceError):
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


def place(host: str, port: int) -> str:
    """A broker's address, for people."""
    return printable(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _no_tls(name: str, cause: BaseException) -> Disconnected | Misconfigured:
    if not isinstance(cause, ssl.SSLError) or isinstance(cause, _CUT_OFF):
        return Disconnected(f"no TLS with {name}: {why(cause)}")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Misconfigured(f"the certificate of {name} is not trusted: {why(cause)}")
    if cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return Misconfigured(f"{name} does not speak TLS: try the scheme without the second s")
    return Misconfigured(f"no TLS with {name}: {why(cause)}")


async def shake_hands(
    connection: Connection,
    *,
    username: str | None,
    password: str | None,
    client_name: str | None,
    database: int | None,
) -> Greeting:
    """Say who is here, and hear what is there: the first that is sent on a connection.

    Args:
        connection: a new one.
        username: of an ACL user; None: the default user.
        password: None: no authentication.
        client_name: for CLIENT LIST; None: no name.
        database: number of the database of a primary; None: any broker will do, also a Sentinel or
            a replica.

    Raises:
        Misconfigured: it cannot be used.
        NotPrimary: it is a replica.
        Disconnected: there was no answer, or it cannot be used now.
    """
    hello: list[Argument] = ["HELLO", 3]
    if password is not None:
        hello += ["AUTH", username or "default", password]
    if client_name is not None:
        hello += ["SETNAME", client_name]
    # Only PING is refused by a broker that is loading its data, or has lost its primary.
    commands: list[list[Argument]] = [hello, ["PING"]]
    if database:
        commands.append(["SELECT", database])
    answers: list[Reply] = []
    batch = Batch(len(commands))
    with suppress(Disconnected):
        await connection.exchange(
            batch, ((pack(tuple(c)), Pending(batch, answers.append)) for c in commands)
        )
    # The causes of what is raised here must not have what was sent.
    if answers and isinstance(answers[0], ReplyError):
        raise _refused(connection.name, answers[0])
    if len(answers) < len(commands):
        raise _no_answer(connection)
    greeted, *others = answers
    greeting = _greeting(connection.name, greeted)
    if database is not None:
        _check_primary(connection.name, greeting)
    pinged, *selected = others
    if isinstance(pinged, ReplyError) and pinged.code != "NOPERM":
        raise _refused(connection.name, pinged)
    if selected and isinstance(selected[0], ReplyError):
        raise _not_selected(connection.name, selected[0], database)
    return greeting


def _no_answer(connection: Connection) -> Disconnected | Misconfigured:
    error = connection.error
    assert error is not None
    cause = error.__cause__
    if connection.first == _ALERT:
        return Misconfigured(f"{connection.name} speaks TLS: try the scheme with a second s")
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, _CUT_OFF):
        return Misconfigured(f"{connection.name} does not accept this client: {why(cause)}")
    if connection.complaint is not None:
        return _refused(connection.name, connection.complaint)
    if connection.garbled:
        return Misconfigured(f"{connection.name} is no Redis or Valkey: it does not speak RESP")
    cut_off = isinstance(cause, OSError) and not connection.first
    return Disconnected(f"{error}{_TLS if cut_off and not connection.secure else ''}")


def _refused(name: str, error: ReplyError) -> Disconnected | Misconfigured:
    text = _PERMANENT.get(error.code)
    if text is not None:
        return Misconfigured(f"{name} cannot be used: {text}")
    if error.code == "ERR" and "unknown command" in str(error):
        return Misconfigured(
            f"{name} cannot be used: it does not know HELLO; Redis 6 or later does"
        )
    return Disconnected(f"{name} cannot be used now: {error}")


def _greeting(name: str, answer: Reply) -> Greeting:
    if not isinstance(answer, dict):
        raise Misconfigured(f"{name} is no Redis or Valkey: it does not answer HELLO as they do")
    fields = [answer.get(field, b"") for field in (b"server", b"version", b"mode", b"role")]
    server, version, mode, role = (
        printable(field.decode("utf-8", "replace")) if isinstance(field, bytes) else ""
        for field in fields
    )
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    return Greeting(server, numbers, mode, role)


async def check_primary(connection: Connection) -> None:
    """See that what a connection leads to is still a primary.

    Raises:
        Misconfigured: it is none.
        Disconnected: the connection has ended.
        ReplyError: it does not say.
    """
    _check_primary(connection.name, _greeting(connection.name, await connection.call("HELLO")))


def _check_primary(name: str, greeting: Greeting) -> None:
    if greeting.mode == "cluster":
        raise Misconfigured(f"{name} cannot be used: it belongs to a Cluster")
    if greeting.mode == "sentinel":
        raise Misconfigured(f"{name} is a Sentinel: use the scheme that ends in +sentinel")
    if greeting.role not in ("master", "primary"):
        raise NotPrimary(f"{name} cannot be used: it is a replica")


def _not_selected(
    name: str, error: ReplyError, database: int | None
) -> Disconnected | Misconfigured:
    if error.code == "NOPERM":
        return Misconfigured(f"{name} cannot be used: the user may not SELECT a database")
    if error.code == "ERR":
        return Misconfigured(f"{name} cannot be used: it has no database {database}")
    return Disconnected(f"{name} cannot be used now: {error}")
