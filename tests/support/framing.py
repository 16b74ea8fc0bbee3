"""A transport that is given its bytes by hand, and frames to give it."""

from __future__ import annotations

import gc

from websockets.frames import Close, Frame, Opcode

from tests.support.harness import make_read_context
from trio_beat._protocol.deflate import Deflate
from trio_beat._protocol.events import Event, Failure
from trio_beat._protocol.messages import RSV1, CloseFrame, Outgoing
from trio_beat._protocol.parser import Parser
from trio_beat._transports import Take, awake
from trio_beat._transports.framing import FramingTransport
from trio_beat._transports.outbox import Outbox

#: Bytes of the largest message that a `Fed` takes.
LIMIT = 1000


def parsers() -> list[Parser]:
    """The parsers that there are."""
    return [it for it in gc.get_objects() if issubclass(type(it), Parser)]


class Fed(FramingTransport):
    """A transport that is given its bytes by hand."""

    peer = "a test"
    was_busy = False

    def __init__(self, limit: int = LIMIT, deflate: Deflate | None = None) -> None:
        super().__init__(make_read_context(limit, clock=lambda: 0.0), deflate)

    def feed(self, data: bytes | memoryview) -> list[Event]:
        events = list(self._parse(data))
        while self._kept is not None:
            events += self._parse_kept()
        return events

    def feed_a_turn(self, data: bytes) -> int:
        """Parse for as long as others may wait; returns how many events there were."""
        return len(self._parse(data))

    def turn(self) -> int:
        """Another one; -1 when there is nothing left."""
        return -1 if self._kept is None else len(self._parse_kept())

    def feed_on(self) -> list[Event]:
        """Another one, and its events."""
        return list(self._parse_kept())

    @property
    def has_parser(self) -> bool:
        return self._protocol is not None

    @property
    def parser(self) -> Parser:
        """The parser, which is made where there is none."""
        return self._parser()

    @property
    def held(self) -> int:
        """Bytes that a message which is not finished holds."""
        return self._reads.unfinished.held

    def forget(self) -> None:
        """Keep nothing of what came."""
        self._forget()

    def idle(self) -> None:
        """Two beats without a byte: the first may still belong to what came before."""
        self.rest(heard=True)
        self.rest(heard=True)

    async def wait_readable(self, take: Take = awake) -> list[Event]: ...  # type: ignore[empty-body]
    def receive_nowait(self) -> list[Event]: ...  # type: ignore[empty-body]
    def write_nowait(self, item: Outgoing) -> int: ...  # type: ignore[empty-body]
    async def drain(self, outbox: Outbox) -> None: ...
    def stirring(self, queued: int) -> bool: ...  # type: ignore[empty-body]
    def unreachable(self, patience: float) -> bool: ...  # type: ignore[empty-body]
    def abort(self) -> None: ...
    async def _linger(self) -> None: ...
    def _busy(self) -> None:
        self.was_busy = True

    def _wake(self) -> None: ...
    def _reset(self) -> None: ...


def masked(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A client's frame."""
    return Frame(opcode, data, fin).serialize(mask=True)


def rsv1(frame: bytes) -> bytes:
    """The same frame with the bit that tells of compression (RFC 7692, section 6)."""
    return bytes((frame[0] | RSV1,)) + frame[1:]


def plain(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    """A server's frame."""
    return Frame(opcode, data, fin).serialize(mask=False)


def closing(code: int = 1000, reason: str = "") -> bytes:
    """A client's close frame."""
    return masked(Opcode.CLOSE, Close(code, reason).serialize())


def fragments(opcode: Opcode, *parts: bytes) -> list[bytes]:
    """A client's message in several frames."""
    opcodes = [opcode, *[Opcode.CONT] * (len(parts) - 1)]
    last = len(parts) - 1
    return [
        masked(opcode, part, fin=index == last)
        for index, (opcode, part) in enumerate(zip(opcodes, parts, strict=True))
    ]


def failure(events: list[Event]) -> Failure:
    """The failure that events end with; its reply says the same."""
    last = events[-1]
    assert isinstance(last, Failure), events
    frame = plain(Opcode.CLOSE, Close(last.code, last.reason).serialize())
    assert last.reply == CloseFrame(last.code, last.reason, frame)
    return last


MASK = b"\0\0\0\0"
VIOLATIONS = {
    "control frame over 125 bytes": b"\x89\xfe\x00\x7e" + MASK + b"x" * 126,
    "close frame over 125 bytes": b"\x88\xfe\xff\xff",
    "pong over any limit": b"\x8a\xff" + (2**40).to_bytes(8, "big"),
    "length with its highest bit": b"\x82\xff" + (2**63 + 1).to_bytes(8, "big"),
    "length of ones": b"\x81\xff" + b"\xff" * 8,
    "two bytes for a length of one": b"\x81\xfe\x00\x7d" + MASK,
    "eight bytes for a length of one": b"\x81\xff" + (5).to_bytes(8, "big") + MASK,
    "eight bytes for a length of two": b"\x81\xff" + (65535).to_bytes(8, "big") + MASK,
    "fragmented ping": b"\x09\x80" + MASK,
    "fragmented close": b"\x08\x80" + MASK,
    "reserved bit 1": b"\xc1\x80" + MASK,
    "reserved bit 2": b"\xa1\x80" + MASK,
    "reserved bit 3": b"\x91\x80" + MASK,
    "unmasked text": b"\x81\x01x",
    "unmasked pong": b"\x8a\x04\0\0\0\1",
    "bad data opcode": b"\x83\x80" + MASK,
    "bad control opcode": b"\x8b\x80" + MASK,
    "continuation of nothing": masked(Opcode.CONT, b"x"),
    "text inside a fragmented message": masked(Opcode.TEXT, b"a", fin=False)
    + masked(Opcode.TEXT, b"b"),
    "binary inside a fragmented message": masked(Opcode.TEXT, b"a", fin=False)
    + masked(Opcode.BINARY, b"b"),
    "close payload of one byte": masked(Opcode.CLOSE, b"\x03"),
    **{
        f"close code {code}": masked(Opcode.CLOSE, code.to_bytes(2, "big"))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}
