"""Whether the broker answers, what it is, and how fast."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import trio

from ..._exceptions import BackendError
from ..._plain import leaves
from ..._protocol.messages import Message
from ..._text import public_backend
from ...backends import Backend, Receiver, backend_from_url
from ...backends.memory import MemoryBackend
from ..arguments import ConfigurationError
from ..settings import Settings
from ..workers import check_workers
from .section import Section

#: Seconds that the broker has for all of it.
_PATIENCE: Final = 10.0
#: A channel as peers have them, of which nobody hears.
_CHANNEL: Final = "broadcast:trio-beat-check"
#: Questions of which the fastest answer is told: the first ones also open and warm up things.
_TIMES: Final = 5
#: Seconds: slower than that, and each publish is slow.
SLOW: Final = 0.1


class _Told(Receiver):
    """Keeps why the broker is away."""

    def __init__(self) -> None:
        self.error: BackendError | None = None

    async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
        await trio.lowlevel.checkpoint()

    def lost(self, channels: Collection[str]) -> None:
        pass

    def away(self, error: BackendError) -> None:
        self.error = self.error or error

    def back(self) -> None:
        pass


async def check_backend(settings: Settings) -> Section:
    """Connect to the broker, and say what it answers; nothing is published."""
    section = Section("backend")
    shown = public_backend(settings.backend)
    section.data = {"url": shown, "software": None, "latency": None}
    section.row("URL", shown)
    try:
        if settings.workers > 1:
            check_workers(settings)
        backend = backend_from_url(settings.backend)
    except (BackendError, ConfigurationError) as exc:
        begin = "--backend: " if isinstance(exc, BackendError) else ""
        section.fail("backend", f"{begin}{exc}")
        return section
    if isinstance(backend, MemoryBackend):
        section.row("broker", "none: this process hears of no other server")
        return section
    told = _Told()
    with trio.move_on_after(_PATIENCE) as scope:
        try:
            async with backend.running(told):
                if told.error is None:
                    await _ask(section, backend)
        except* BackendError as group:
            told.error = next(it for it in leaves(group) if isinstance(it, BackendError))
    if scope.cancelled_caught:
        told.error = BackendError(f"{shown} has not answered for {_PATIENCE:g} s")
    if told.error is not None:
        section.row("broker", "cannot be used")
        section.fail("backend", f"--backend: {told.error}")
    return section


async def _ask(section: Section, backend: Backend) -> None:
    software = backend.software
    refused = await backend.subscribe([_CHANNEL])
    for error in refused.values():
        section.fail("backend", f"--backend: it refuses to subscribe to a channel: {error}")
        return
    took = []
    for _ in range(_TIMES):
        begun = trio.current_time()
        refused = await backend.last([_CHANNEL], lambda *_: None)
        took.append(trio.current_time() - begun)
        for error in refused.values():
            section.fail("backend", f"--backend: it refuses to tell a last message: {error}")
            return
    await backend.unsubscribe([_CHANNEL])
    fastest = min(took)
    section.data |= {"software": software, "latency": fastest}
    section.row("broker", software or "it does not say what it is")
    section.row("answers within", f"{fastest * 1000:.1f} ms")
    if fastest > SLOW:
        text = f"the broker takes {fastest * 1000:.0f} ms to answer, and so does each publish"
        section.warn("backend", text)
