"""Where the server would listen: whether that is free, and who reaches it.

1. Places are looked at one by one, whatever they are. Each gets a state, and the rest of the check
   knows nothing of sockets.
2. A place is free when it can be listened at: it is, for a moment.
3. Where something listens already it is asked for its page. It may be the server that runs with
   these very settings.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import stat
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

import trio

from ..._server.listeners import open_listeners
from ..arguments import ConfigurationError, cannot_listen
from ..exposure import EXPOSED, beyond_loopback, is_open
from ..internal import parse_place
from ..settings import Settings
from .section import Section

if sys.platform != "win32":
    from ..._server.unix import check_length, check_way

#: What a place is: nobody listens there; a trio-beat does; something else does; or nobody can.
State: TypeAlias = Literal["free", "trio-beat", "taken", "unusable"]

#: Seconds for an answer of what listens there, and for names to be looked up.
_PATIENCE: Final = 3.0
_LOOKUP: Final = 10.0
#: Bytes of an answer that are read, at most: the page has less.
_MOST: Final = 2**16
#: What the page and health of every trio-beat have.
_MARK: Final = b"trio-beat"
_HEALTH: Final = (b'"version"', b'"hub"')


class _Place(NamedTuple):
    """Where the server would listen."""

    option: str  #: that names it
    kind: Literal["tcp", "unix"]
    address: str
    state: State
    why: str  #: of what is unusable; else empty
    exposed: Sequence[str] = ()  #: addresses that not only this machine reaches
    #: What is bound there: a path, or addresses and the port; nothing where the system chooses.
    bound: frozenset[str | tuple[str, int]] = frozenset()


async def check_listening(settings: Settings, behind: bool) -> Section:
    """Say where the server would listen, and who reaches it there.

    Args:
        settings: the options.
        behind: whether a proxy is known to stand in front.
    """
    section = Section("listening")
    found = await _public(settings)
    exposed = " and ".join(address for place in found for address in place.exposed)
    if settings.internal_bind is not None:
        try:
            internal = await _internal(settings.internal_bind)
        except ConfigurationError as exc:
            section.fail("internal", str(exc))
        else:
            for place in found:
                if _overlap(place, internal):
                    why = f"cannot listen on {internal.address}: {place.option} is there already"
                    internal = internal._replace(state="unusable", why=why)
            found.append(internal)
            _check_internal(section, settings, internal)
    for place in found:
        _tell(section, place)
    if settings.fd:
        shown = ", ".join(map(str, settings.fd))
        section.row("fd", f"{shown}, as far as the server is started with them")
    section.data["places"] = [
        {"option": it.option, "kind": it.kind, "address": it.address, "state": it.state}
        for it in found
    ]
    if exposed and is_open(settings):
        section.warn("exposure", EXPOSED % exposed)
    if exposed and settings.tls_cert is None and not (behind or settings.trusted_proxy):
        section.warn(
            "tls",
            f"{exposed} can be reached in plain text: who is on the way reads "
            "messages and credentials; use --tls-cert, or say with --behind what speaks TLS",
        )
    return section


def _tell(section: Section, place: _Place) -> None:
    states: dict[State, str] = {
        "free": "free",
        "trio-beat": "a trio-beat server runs there",
        "taken": "something else listens there",
        "unusable": "cannot be listened at",
    }
    section.row(place.option.removeprefix("--"), f"{place.address}, {states[place.state]}")
    text = f"{place.option}: {place.address}"
    if place.state == "trio-beat":
        text = (
            f"{text}: a trio-beat server runs there; with these settings a second would not start"
        )
        section.note("listening", text)
    elif place.state == "taken":
        section.warn(
            "listening", f"{text}: what listens there does not answer as a trio-beat server"
        )
    elif place.state == "unusable":
        section.fail("listening", f"{place.option}: {place.why}")


def _check_internal(section: Section, settings: Settings, place: _Place) -> None:
    if place.exposed and (settings.api_tokens or settings.publish_token) is not None:
        section.warn(
            "exposure",
            f"--internal-bind listens on {' and '.join(place.exposed)} and speaks plain HTTP: who "
            "is on the way reads the tokens of the API",
        )


async def _public(settings: Settings) -> list[_Place]:
    """Where peers come: as many places as the options name."""
    secure = settings.tls_cert is not None
    found = []
    if settings.listens_on_port(given=bool(settings.fd)):
        found.append(await _tcp("--port", settings.host, settings.port, secure))
    if settings.uds is not None:
        found.append(await _unix("--uds", settings.uds, secure))
    return found


async def _internal(bind: str) -> _Place:
    place = parse_place(bind)
    if place.path:
        return await _unix("--internal-bind", place.path, secure=False)
    return await _tcp("--internal-bind", [place.host], place.port, secure=False)


async def _tcp(option: str, hosts: Sequence[str], port: int, secure: bool) -> _Place:
    address = " and ".join(_shown(host, port) for host in hosts)
    here: list[str] = []
    with trio.move_on_after(_LOOKUP) as lookup:
        try:
            with _Closed(await open_listeners(port, hosts)) as listeners:
                exposed, bound = beyond_loopback(listeners), _bound(listeners, port)
                return _Place(option, "tcp", address, "free", "", exposed, bound)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                return _Place(option, "tcp", address, "unusable", str(cannot_listen(exc)))
        # At another port the same addresses can be had.
        with _Closed(await open_listeners(0, hosts)) as listeners:
            exposed, bound = beyond_loopback(listeners), _bound(listeners, port)
            here = [it.getsockname()[0] for it in listeners]
    if lookup.cancelled_caught:
        why = f"cannot listen on {address}: no address was found within {_LOOKUP:g} s"
        return _Place(option, "tcp", address, "unusable", why)
    state: State = "taken"
    for host in here:
        if await _is_ours(await _connected(_reachable(host), port, secure)):
            state = "trio-beat"
            break
    return _Place(option, "tcp", address, state, "", exposed, bound)


async def _unix(option: str, path: str, secure: bool) -> _Place:
    place = _Place(option, "unix", f"unix:{path}", "free", "", (), frozenset({_whole(path)}))
    why = _unusable(path)
    if not why:
        try:
            stream = await trio.open_unix_socket(path)
        except (FileNotFoundError, ConnectionRefusedError):
            # Where nobody listens any more the file is replaced.
            why = _in_the_way(path)
            if not why:
                return place
        except OSError as exc:  # the server asks likewise, and leaves the file alone
            why = exc.strerror or str(exc)
        else:
            ours = await _is_ours(_secured(stream) if secure else stream)
            return place._replace(state="trio-beat" if ours else "taken")
    return place._replace(state="unusable", why=f"cannot listen on {path}: {why}")


def _whole(path: str) -> str:
    """A path from the root; its last part is no link, where it can be listened at."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _unusable(name: str) -> str:
    """Why nobody can listen at a path; empty: it can be listened at, or something does."""
    path = Path(name)
    try:
        if sys.platform != "win32":
            check_length(name)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return "" if path.parent.is_dir() else f"there is no folder {path.parent}"
    except OSError as exc:
        return exc.strerror or str(exc)
    return "" if stat.S_ISSOCK(mode) else "there is a file that is no socket"


def _in_the_way(path: str) -> str:
    """Why no server can begin at a path at which nobody listens; empty: it can."""
    folder = Path(path).parent
    if not os.access(folder, os.W_OK):
        return f"no file may be made in {folder}"
    try:
        if sys.platform != "win32":
            check_way(path)
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""


def _bound(listeners: Sequence[socket.socket], port: int) -> frozenset[str | tuple[str, int]]:
    return frozenset((it.getsockname()[0], port) for it in listeners if port)


def _overlap(one: _Place, other: _Place) -> bool:
    """Whether one server cannot listen at both places."""
    if one.bound & other.bound:
        return True
    pairs = product(one.bound, other.bound)
    return any(_covers(here, there) or _covers(there, here) for here, there in pairs)


def _covers(whole: str | tuple[str, int], place: str | tuple[str, int]) -> bool:
    """Whether an address stands for all of its family, and so for another one."""
    if isinstance(whole, str) or isinstance(place, str) or whole[1] != place[1]:
        return False
    return whole[0] == ("::" if ":" in place[0] else "0.0.0.0")  # noqa: S104 - names it


class _Closed(contextlib.ExitStack):
    """Listeners that are closed when the context ends."""

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        super().__init__()
        self._listeners = listeners
        for listener in listeners:
            self.enter_context(listener)

    def __enter__(self) -> Sequence[socket.socket]:  # type: ignore[override]
        return self._listeners


def _shown(host: str, port: int) -> str:
    where = f"[{host}]" if ":" in host and not host.startswith("[") else host
    if not port:
        return f"{where or 'all addresses'}, a port that the system chooses"
    return f"{where}:{port}" if where else f"all addresses, port {port}"


def _reachable(host: str) -> str:
    """An address at which this machine reaches what listens on all of them."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - names it


async def _connected(host: str, port: int, secure: bool) -> trio.abc.Stream | None:
    """A connection to what listens there; None: it takes none."""
    with trio.move_on_after(_PATIENCE):
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError:
            return None
        return _secured(stream) if secure else stream
    return None


def _secured(stream: trio.SocketStream) -> trio.abc.Stream:
    """TLS over a connection; what is there is asked what it is, and told nothing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return trio.SSLStream(stream, context, https_compatible=True)


async def _is_ours(stream: trio.abc.Stream | None) -> bool:
    """Whether a trio-beat answers; closes the stream."""
    if stream is None:
        return False
    answer = b""
    try:
        with trio.move_on_after(_PATIENCE), contextlib.suppress(trio.BrokenResourceError):
            # Health is only at one of the listeners, where there are two; the page at the other.
            await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await stream.send_all(
                b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            while len(answer) < _MOST and (data := await stream.receive_some(_MOST)):
                answer += data
    finally:
        await trio.aclose_forcefully(stream)
    return _MARK in answer or all(part in answer for part in _HEALTH)
