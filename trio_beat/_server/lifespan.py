"""The lifespan of an ASGI application (ASGI lifespan, version 2.0).

1. The application is told of the start before the server accepts. If it answers that this failed,
   or does not answer in time, the server does not start.
2. An application that raises before it has answered does not support lifespans, by that
   specification, and is served without.
3. It is told of the shutdown when all peers are gone. If the server is cancelled, the application
   is cancelled, too, and is told nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from .._exceptions import StartupFailed
from .._log import get_logger

_log = get_logger("trio_beat.http")

#: An ASGI 3 application.
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

#: Seconds in which an application must have started.
STARTUP_TIMEOUT: Final = 60.0
#: Seconds in which it must have shut down, though the server's grace time is over.
SHUTDOWN_TIMEOUT: Final = 1.0

_STARTUP: Final = "lifespan.startup"
_SHUTDOWN: Final = "lifespan.shutdown"


class Lifespan:
    """Tells an application that the server starts and stops.

    Args:
        app: an ASGI 3 application.

    Attributes:
        state: the application's, filled while it starts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self._started = trio.Event()
        self._stopping = trio.Event()
        self._ended = trio.Event()
        self._heard: list[str] = []
        self._failed: str | None = None
        self._cause: Exception | None = None

    async def run(self) -> None:
        """Run the application's lifespan until it ends."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as exc:  # what the application raises
            self._raised(exc)
        finally:
            self._started.set()
            self._ended.set()

    async def start(self) -> StartupFailed | None:
        """Wait until the application has started; returns why it has not."""
        with trio.move_on_after(STARTUP_TIMEOUT) as scope:
            await self._started.wait()
        if scope.cancelled_caught:
            return StartupFailed(f"the application did not start within {STARTUP_TIMEOUT:g} s")
        if self._failed is None:
            return None
        with trio.move_on_after(SHUTDOWN_TIMEOUT):
            await self._ended.wait()
        # Starlette's message is a whole traceback.
        lines = self._failed.strip().splitlines() or ["no reason given"]
        failure = StartupFailed(f"the application did not start: {lines[-1]}")
        failure.__cause__ = self._cause
        return failure

    async def stop(self, until: float) -> None:
        """Let the application shut down.

        Args:
            until: when it must have done so; it has `SHUTDOWN_TIMEOUT` in any case.
        """
        self._stopping.set()
        with trio.move_on_at(max(until, trio.current_time() + SHUTDOWN_TIMEOUT)) as scope:
            await self._ended.wait()
        if scope.cancelled_caught:
            _log.error("the application did not shut down in time, and is cut off")

    async def _receive(self) -> dict[str, Any]:
        if not self._heard:
            await trio.lowlevel.checkpoint()
            self._heard.append(_STARTUP)
            return {"type": _STARTUP}
        await self._stopping.wait()
        if _SHUTDOWN in self._heard:
            await trio.sleep_forever()
        self._heard.append(_SHUTDOWN)
        return {"type": _SHUTDOWN}

    async def _send(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "lifespan.startup.complete" if not self._started.is_set():
                self._started.set()
            case "lifespan.startup.failed" if not self._started.is_set():
                self._failed = event.get("message", "")
                self._started.set()
            case "lifespan.shutdown.complete":
                self._ended.set()
            case "lifespan.shutdown.failed":
                # It is also what Starlette says where it is cancelled.
                if self._stopping.is_set():
                    _log.error("the application failed to shut down: %s", event.get("message", ""))
                self._ended.set()
            case other:
                raise RuntimeError(f"{other!r} is not what a lifespan expects now")
        await trio.lowlevel.checkpoint()

    def _raised(self, exc: Exception) -> None:
        if self._failed is not None:
            self._cause = exc
        elif not self._started.is_set():
            _log.warning(
                "the application raised %s when its lifespan began: serving it without",
                type(exc).__name__,
                exc_info=exc if self._heard else None,
            )
        else:
            _log.error("the application's lifespan failed", exc_info=exc)
