"""What an ASGI scope says of a request.

1. A target is what stands below the place where the application is mounted, as it was sent. Most
   frameworks put that place at the end of ``root_path`` and leave the path whole, as the
   specification has it; Litestar cuts it off the path, adds a slash to the path's end, and tells
   it nowhere. Both give the same target.
2. What a proxy has cut off stands in ``root_path``, too, and not in the path.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote

from .._exceptions import Refused
from .._protocol.addresses import read_address
from .._protocol.request import Request, keep_scope
from .._server.proxies import Client

Scope: TypeAlias = MutableMapping[str, Any]

#: What stands in a path as it is (RFC 3986, section 3.3).
_PATH: Final = "/:@!$&'()*+,;=-._~"
_NOWHERE: Final = "unknown"


def target(scope: Scope) -> str:
    """Path and query of a request, below the place where the application is mounted."""
    path = _below(scope["path"], scope.get("root_path") or "")
    query = (scope.get("query_string") or b"").decode("latin-1")
    sent = _as_sent(path, scope.get("raw_path"))
    return f"{sent}?{query}" if query else sent


def _below(path: str, root: str) -> str:
    """Cut off the place where the application is mounted."""
    for place in _places(root.rstrip("/")):
        if path == place or path.startswith(f"{place}/"):
            return path.removeprefix(place) or "/"
    return path or "/"


def _places(root: str) -> Iterator[str]:
    """What may stand before a path: all of ``root_path``, or what a proxy left of it."""
    while root:
        yield root
        at = root.find("/", 1)
        root = root[at:] if at > 0 else ""


def _as_sent(path: str, raw: bytes | None) -> str:
    """A path as it was sent: the end of the whole one, where the server tells that."""
    if raw is not None:
        whole = raw.decode("latin-1").partition("?")[0]
        for wanted in (path, path.removesuffix("/")):
            if (end := _end(whole, wanted)) is not None:
                return end
    return quote(path, safe=_PATH)


def _end(whole: str, wanted: str) -> str | None:
    """The end of a path as it was sent, from a slash on, that means what is wanted.

    In one pass, since strangers choose both: to decode each end that there is would take the square
    of their length. No character goes over a slash, so that its parts can be decoded one by one.
    """
    if not unquote(whole).endswith(wanted):
        return None
    left, at = len(wanted), len(whole)
    for part in reversed(whole.split("/")[1:]):
        at -= len(part) + 1
        left -= len(unquote(part)) + 1
        if left <= 0:
            break
    return whole[at:] if left == 0 and wanted else None


def client(scope: Scope) -> Client:
    """Who asks, as far as the server tells."""
    told = scope.get("client")
    host = next((value for name, value in _headers(scope) if name.lower() == b"host"), b"")
    secure = scope.get("scheme") in ("wss", "https")
    peer, address = _NOWHERE, None
    if told is not None:
        name, port = told[0], told[1] if len(told) > 1 else None
        # A socket for both families shows IPv4 addresses like this (RFC 4291, section 2.5.5.2).
        name = name.removeprefix("::ffff:") if "." in name else name
        address = read_address(name)
        name = f"[{name}]" if ":" in name else name
        peer = f"{name}:{port}" if port else name
    return Client(address, peer, "https" if secure else None, host.decode("latin-1"))


def request(scope: Scope, client: Client) -> Request:
    """Make the request of a scope.

    Raises:
        Refused: it is none that could be admitted.
    """
    try:
        made = Request.of(
            target(scope), _headers(scope), peer=client.peer, secure=client.scheme == "https"
        )
    except ValueError as exc:
        # Which says what is wrong, and may quote what is secret.
        raise Refused(400, f"bad request: {exc}", logged="malformed request") from None
    keep_scope(made, scope)
    return made


def _headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in scope["headers"]]


def subprotocol(scope: Scope, spoken: tuple[str, ...]) -> str | None:
    """The first subprotocol that is spoken and offered, or None."""
    offered = scope.get("subprotocols") or ()
    return next((name for name in spoken if name in offered), None)
