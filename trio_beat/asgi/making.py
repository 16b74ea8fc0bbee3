"""Makes an ASGI application of what it is to serve."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal

from .._channels.hub import Hub
from .._channels.permissions import Permissions
from .._connection.handler import Handler
from .._heartbeat import Heartbeat
from .._observer import Observer
from .._server.gate import Admit
from .._server.limits import Limits
from .serving import Application, HubSource


def application(
    served: Handler | Hub | AbstractAsyncContextManager[Hub] | str | None = None,
    *,
    hub: HubSource | None = None,
    handler_errors: Literal["raise", "close"] = "raise",
    heartbeat: Heartbeat = Heartbeat(message="--heartbeat--"),  # noqa: B008 - immutable
    admit: Admit | None = None,
    permissions: Permissions | None = None,
    refuse_by: Literal["status", "close"] = "status",
    allowed_origins: Sequence[str] = (),
    path_prefix: str = "/ws/",
    subprotocols: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008 - immutable
    grace: float = 8.0,
    observer: Observer | None = None,
) -> Application:
    """Make an ASGI 3 application that serves WebSockets, to be run by a server under Trio.

    Nothing runs until its lifespan does.

    Args:
        served: a handler, or a hub as for `hub`, which is a text, a `Hub`, or a context manager
            here. None: connections are opened by `Application.connection` only, or there is `hub`.
        hub: where connections subscribe and publish, as their URLs ask for; beside a handler see
            `trio_beat.serve`. A `Hub` that is open whenever connections are; or what
            `trio_beat.open_hub` returns, a function that returns it, or a URL for it: the lifespan
            opens that. One that `open_hub` has returned can be opened once, the others as often as
            the lifespan.
        handler_errors: ``raise``: what a handler raises propagates to the server, which logs it.
            ``close``: it is logged here and counted.
        heartbeat: its `message` proves that a peer lives, since ASGI shows no PONG; peers have to
            send it back. None there: a silent peer is never noticed, which is logged once.
        admit: see `trio_beat.serve`; `Request.scope` is the ASGI scope.
        permissions: see `trio_beat.serve`.
        refuse_by: see `trio_beat.serve`.
        allowed_origins: see `trio_beat.serve`.
        path_prefix: what the path of a hub's WebSocket begins with, below the place where the
            application is mounted.
        subprotocols: names that the application speaks, the preferred one first.
        limits: what the application holds at most. Over ASGI a peer can be held back for a short
            while only: where `Limits.inbound` messages wait for a handler, and as many behind them,
            for longer than that, the connection ends with ``inbox-full``. The server has limits of
            its own for messages and handshakes.
        grace: seconds in which connections are closed when the lifespan ends.
        observer: see `trio_beat.serve`.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument can never be right.
    """
    handler: Handler | None = None
    if isinstance(served, Hub | AbstractAsyncContextManager | str):
        if hub is not None:
            raise ValueError("there are two hubs; give one")
        hub = served
    else:
        handler = served
    return Application(
        handler,
        hub,
        handler_errors=handler_errors,
        heartbeat=heartbeat,
        admit=admit,
        permissions=permissions,
        refuse_by=refuse_by,
        allowed_origins=allowed_origins,
        path_prefix=path_prefix,
        subprotocols=subprotocols,
        limits=limits,
        grace=grace,
        observer=observer,
    )
