"""Methods of the inside that are made to fail."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pytest
import trio

from trio_beat._channels.consumer import HubConsumer
from trio_beat._connection.handler import HandlerConsumer
from trio_beat._connection.life import Life
from trio_beat._heartbeat import Verdict
from trio_beat._metronome import Metronome, Seat
from trio_beat._server.pending import PendingTCP, PendingTLS
from trio_beat._transports.outbox import Outbox
from trio_beat._transports.tcp import TCPTransport
from trio_beat._transports.tls import TLSTransport

#: The methods through which a connection goes.
_METHODS: Final[dict[type, str]] = {
    PendingTCP: "read_head_nowait transport",
    PendingTLS: "begin receive_some transport",
    TCPTransport: "wait_readable receive_nowait write_nowait drain rest stirring finish abort",
    TLSTransport: "receive_nowait write_nowait drain abort",
    Outbox: "append_reply append_beat buffers taken",
    Verdict: "heard listen beat",
    Seat: "beat leave",
    Life: "_take _ponged send_beat _send_response _put _conclude _report",
    HandlerConsumer: "opened received finished closed",
    HubConsumer: "opened received finished closed",
}
#: A connection needs them for leaving nothing behind: they do their work, and fail all the same.
_CLEANUP: Final = {"abort", "closed", "leave", "_report"}
#: Once they are called the connection has ended, and that end stands.
_LATE: Final = _CLEANUP | {"finish", "finished", "_conclude"}


class InjectedError(Exception):
    """An exception that nothing expects."""


class Fault(NamedTuple):
    """A method that fails."""

    cls: type
    name: str

    def __str__(self) -> str:
        return f"{self.cls.__name__}.{self.name}"

    @property
    def secure(self) -> bool:
        """Whether only a connection over TLS has it."""
        return self.cls in (PendingTLS, TLSTransport)

    @property
    def handles(self) -> bool:
        """Whether a connection with a handler has it."""
        return self.cls is not HubConsumer

    @property
    def late(self) -> bool:
        """Whether the connection has ended by then."""
        return self.name in _LATE


FAULTS: Final = [Fault(cls, name) for cls, names in _METHODS.items() for name in names.split()]
#: A message cannot be written.
WRITE: Final = Fault(TCPTransport, "write_nowait")


class Injected:
    """Makes a method fail for the objects that are made from some time on.

    Attributes:
        count: how often it has failed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
        self.count = 0
        #: Whether what is made now is the victim's.
        self.making = False
        #: Whether it does not fail yet.
        self.asleep = False
        #: Kept, so that no other object gets the identity of one of them.
        self._made: list[object] = []
        cls, name = fault
        method, init = getattr(cls, name), cls.__init__  # type: ignore[misc]

        def note(this: object, *args: Any, **kwargs: Any) -> None:
            if self.making:
                self._made.append(this)
            init(this, *args, **kwargs)

        def fail(this: object, *args: Any, **kwargs: Any) -> Any:
            if self.asleep or not any(this is it for it in self._made):
                return method(this, *args, **kwargs)
            self.count += 1
            if name in _CLEANUP:
                method(this, *args, **kwargs)
            raise InjectedError(name)

        monkeypatch.setattr(cls, "__init__", note)
        monkeypatch.setattr(cls, name, fail)


def metronome_fails(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], *, after: float
) -> None:
    """Make each metronome raise an exception some seconds after it has begun."""

    async def fail(self: Metronome, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(after)
        raise error

    monkeypatch.setattr(Metronome, "run", fail)
