"""Opens a service, and runs what it needs.

::

    open_service              (a nursery)
    ├── the poller, and the turns
    └── what connections need (`_server.service.Service`): the metronome, ends of identities, ...
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

import trio

from .._channels.hub import Hub
from .._channels.permissions import Permissions
from .._checks import check_kind, check_prefix, check_seconds, check_subprotocols, check_trio
from .._connection.handler import Handler
from .._heartbeat import Heartbeat
from .._identity import Identity
from .._observer import Observer
from .._plain import Plain
from .._protocol.compression import Compression
from .._protocol.request import Request
from .._server.admission import Admission
from .._server.limits import Limits
from .._server.origins import Origins
from .._server.parts import Parts
from .._server.proxies import Proxies
from .._server.service import Service
from .service import TrioWebSocketService


def open_service(
    handler: Handler | None = None,
    *,
    hub: Hub | None = None,
    handler_errors: Literal["raise", "close"] = "raise",
    heartbeat: Heartbeat = Heartbeat(),  # noqa: B008 - immutable
    admit: Callable[[Request], Awaitable[Identity | None]] | None = None,
    permissions: Permissions | None = None,
    refuse_by: Literal["status", "close"] = "status",
    allowed_origins: Sequence[str] = (),
    path_prefix: str = "/ws/",
    subprotocols: Sequence[str] = (),
    compression: Compression | None = None,
    trusted_proxies: Sequence[str] = (),
    forwarded_host: bool = False,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    grace: float = 8.0,
    observer: Observer | None = None,
) -> AbstractAsyncContextManager[TrioWebSocketService]:
    """Open a service for a program that uses trio-websocket.

    A context manager, around the program's server. All arguments are those of `trio_beat.serve`,
    and mean the same, also where they are None, unless said here.

    Args:
        handler: an async function, called with each `trio_beat.Connection`. None: connections do
            what their URLs ask for of `hub`; where there is no hub either, the service only watches
            (`TrioWebSocketService.keep_alive`).
        hub: where connections subscribe and publish; a `trio_beat.Hub` that is open.
        handler_errors: ``raise``: what a handler raises propagates out of `handle_request`, and so
            out of trio-websocket's server. ``close``: it is logged, and ends its own connection.
        heartbeat: how connections beat, and when they count as dead.
        admit: tells who a peer is, or raises `trio_beat.Refused`.
        permissions: what peers may do of what their URLs ask for.
        refuse_by: how a peer is told 401 or 403.
        allowed_origins: pages of other origins that may connect.
        path_prefix: what the hub's paths begin with.
        subprotocols: that the program speaks, the preferred one first.
        compression: compress messages of `handle_request` for peers that offer it, as
            `trio_beat.serve` does; None: for none. What trio-websocket accepts is plain.
        trusted_proxies: addresses and networks whose X-Forwarded headers are believed.
        forwarded_host: believe their X-Forwarded-Host, too.
        limits: what is held at most.
        grace: seconds that `TrioWebSocketService.drain` takes at most.
        observer: is told what happens.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument can never be right, or there are `permissions` beside a handler, or
            without a hub.
    """
    check_prefix(path_prefix)
    check_kind("limits", limits, Limits, "a Limits")
    check_seconds("grace", grace, zero=True)
    if refuse_by not in ("status", "close"):
        raise ValueError(f"refuse_by is {refuse_by!r}; it must be 'status' or 'close'")
    check_trio()
    serves = handler is not None or hub is not None
    service = Service(
        handler=handler if serves else _no_handler,
        handler_errors=handler_errors,
        hub=hub,
        admit=admit,
        permissions=permissions,
        origins=Origins(allowed_origins),
        path_prefix=path_prefix,
        heartbeat=heartbeat,
        limits=limits,
        observer=observer,
    )
    parts = Parts(limits, None)
    proxies = Proxies(trusted_proxies, forwarded_host=forwarded_host)
    admission = Admission(
        parts,
        service,
        proxies,
        check_subprotocols(subprotocols),
        compression=compression,
        refuse_by=refuse_by,
        http_prefix=None,
    )
    made = TrioWebSocketService(service, parts, proxies, admission, grace, serves=serves)
    return Plain(_running(made, service, parts))


async def _no_handler(_: object) -> None:
    """Stands for a handler in a service that only watches."""


@asynccontextmanager
async def _running(
    made: TrioWebSocketService, service: Service, parts: Parts
) -> AsyncIterator[TrioWebSocketService]:
    with parts.poller, contextlib.ExitStack() as at_end:
        at_end.callback(service.tell)
        async with trio.open_nursery() as nursery:
            await nursery.start(parts.poller.run)
            await nursery.start(parts.turns.run)
            await service.start(nursery)
            yield made
            nursery.cancel_scope.cancel()
