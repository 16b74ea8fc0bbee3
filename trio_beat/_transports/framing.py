"""Frames for transports that carry bytes.

1. The parser is made when a frame needs parsing, and dropped when the connection has been idle for
   a beat at a frame boundary. A short PONG or message that comes alone, whole, and while there is
   no parser, is taken without it: a connection that only answers PINGs has none.
2. At most `_MOST_FRAMES` are parsed at a time, however small they are; what is left waits for the
   next turn.
3. A message that is not finished is given up when it takes too long, or when all such messages of
   a server hold too much (`Unfinished`): its memory is free at once, and the reader is woken and
   gets a `Failure`.
4. Where compression was agreed on, a message may be compressed (RSV1). Of what is inflated, too,
   only as much is done at a time as others may wait for (`Inflating`).
"""

from __future__ import annotations

import codecs
import struct
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final, cast

import trio
from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import SERVER, Side

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it is not compiled
    from websockets.utils import apply_mask

from .._protocol.deflate import STEP, Deflate, MalformedError, TooLargeError
from .._protocol.events import END_OF_STREAM, Event, Failure, PeerClose, Pong
from .._protocol.frames import MOST_CONTROL, PING_SIZE
from .._protocol.messages import RSV1, CloseFrame, Reply, make_close
from .._protocol.parser import CompressedFrame, Parser, Pieces
from .._turns import Turns
from . import Transport
from .inflating import Inflating
from .unfinished import Unfinished

#: A PONG that answers one: its head, the mask, and the masked number.
_ANSWER: Final = struct.Struct("!HII")
_ANSWER_HEAD: Final = (0x80 | Opcode.PONG) << 8 | 0x80 | PING_SIZE
#: The first bytes of the frames that are taken without the parser (RFC 6455, section 5.2): the
#: last of their message, no extension, and an opcode.
_TEXT, _BINARY, _PONG = (0x80 | code for code in (Opcode.TEXT, Opcode.BINARY, Opcode.PONG))
_COMPRESSED: Final = {RSV1 | _TEXT: Opcode.TEXT, RSV1 | _BINARY: Opcode.BINARY}
#: Frames that are parsed before others get a turn: a read full of tiny ones takes tens of
#: milliseconds.
_MOST_FRAMES: Final = 64
#: Frames of one read after which the next read waits for its turn.
_FEW: Final = 8
#: Bytes that are read of a peer while its close frame is waited for, and after that. A peer that
#: sends on for longer than it takes to read our close frame is not read to the end.
CLOSING_BYTES: Final = 2**22
LINGER_BYTES: Final = 2**18
#: Bytes of a read that takes a while, as much as many small ones.
LARGE: Final = 2**14
#: Seconds in which such a peer may still read the close frame, before the connection is reset.
_PAUSE: Final = 1.0
#: After these nothing more counts.
_ENDS: Final = frozenset({PeerClose, Failure})
#: Bytes of the smallest frame of a client: its head and the mask; and of the longest whose length
#: takes 7 bits.
_SMALLEST: Final = 6
_SHORT: Final = _SMALLEST + MOST_CONTROL


class ReadContext:
    """What the transports of one server share.

    Args:
        max_message_size: largest message that a peer may send, in bytes.
        turns: for the work that a peer can cause much of.
        unfinished: what messages hold that are not finished.
        buffer: where bytes are received; None: one of its own.
    """

    __slots__ = (
        "_pongs",
        "budget",
        "buffer",
        "max_message_size",
        "size",
        "turns",
        "unfinished",
        "view",
    )

    def __init__(
        self,
        max_message_size: int,
        turns: Turns,
        unfinished: Unfinished,
        *,
        buffer_size: int = 131072,
        buffer: bytearray | None = None,
    ) -> None:
        self.max_message_size = max_message_size
        self.turns = turns
        self.unfinished = unfinished
        #: Where bytes are received. Invariant: empty of meaning across an await.
        self.buffer = bytearray(buffer_size) if buffer is None else buffer
        self.view = memoryview(self.buffer)
        #: Bytes of the last read. Invariant: the same.
        self.size = 0
        #: Bytes that may still be inflated at this time. Invariant: the same.
        self.budget = 0
        self._pongs = (Pong(-1),)

    def pongs(self, number: int) -> tuple[Pong]:
        """The events of a lone PONG; the same object for all peers that answer one beat's PINGs."""
        if self._pongs[0].number != number:
            self._pongs = (Pong(number),)
        return self._pongs


class _Fragments:
    """A message of which not all frames have come (RFC 6455, section 5.4)."""

    __slots__ = ("compressed", "data", "decoder", "opcode")

    def __init__(self, opcode: Opcode, *, compressed: bool) -> None:
        self.data = Pieces()
        self.opcode = opcode
        self.compressed = compressed
        self.decoder = None
        if opcode is Opcode.TEXT and not compressed:
            self.decoder = codecs.getincrementaldecoder("utf-8")()

    def append(self, data: bytes | bytearray, *, final: bool) -> None:
        """Raises UnicodeDecodeError as soon as a text cannot be UTF-8 (section 8.1)."""
        self.data.append(data)
        if self.decoder is not None:
            self.decoder.decode(data, final)

    def message(self) -> str | bytes:
        data = self.data.join()
        return data if self.decoder is None else data.decode()


class FramingTransport(Transport):
    """A transport that turns received bytes into events.

    Args:
        reads: what the transports of a server share.
        deflate: what the handshake agreed on; None: nothing is compressed.
    """

    __slots__ = ("_kept", "_lacking", "_protocol", "_reads", "_state", "_used", "deflate")

    #: Our side, and bytes of the smallest frame of the peer.
    _side: ClassVar[Side] = SERVER
    _smallest: ClassVar[int] = _SMALLEST

    def __init__(self, reads: ReadContext, deflate: Deflate | None = None) -> None:
        self._reads = reads
        self.deflate = deflate
        self._protocol: Parser | None = None
        #: None between messages; else what has come of a message in fragments; in the end what the
        #: peer ended with, and nothing that comes after it counts.
        self._state: _Fragments | PeerClose | Failure | None = None
        #: Bytes of a frame that are yet to come; 0 where that is not known.
        self._lacking = 0
        #: The parser was needed since the last beat, for more than a PONG.
        self._used = False
        #: What is left for the next call, since all at once would take too long: bytes, or a
        #: message that is being inflated, with what follows it.
        self._kept: bytes | Inflating | None = None

    def _parser(self) -> Parser:
        if self._protocol is None:
            # The layer counts a control frame that comes between fragments against the message;
            # the allowance keeps that from failing a message at the limit. `_frame` checks it.
            compressed = self.deflate is not None
            size = self._most_bytes(compressed=compressed)
            self._protocol = Parser(size + MOST_CONTROL, self._side, compressed=compressed)
        return self._protocol

    def _most_bytes(self, *, compressed: bool) -> int:
        """Bytes of the largest message, as it comes: what does not get smaller grows a little."""
        size = self._reads.max_message_size
        return size + size // 8 + 64 if compressed else size

    def _parse(self, data: bytearray | memoryview | bytes) -> Sequence[Event]:
        if self._protocol is None:
            if type(self._state) in _ENDS:
                return ()
            if len(data) <= _SHORT and (events := self._lone(data)) is not None:
                return events
        self._reads.budget = STEP
        return self._parse_frames(data, [])

    def _parse_frames(
        self, data: bytearray | memoryview | bytes, events: list[Event]
    ) -> Sequence[Event]:
        protocol = self._parser()
        begin = count = 0
        while begin < len(data) and protocol.close_sent is None:
            if count >= _MOST_FRAMES:
                self._keep(bytes(data[begin:]))
                break
            room = _MOST_FRAMES - count
            size = self._lacking
            if not size and len(data) - begin > room * self._smallest and protocol.at_boundary:
                size = _size(data, begin, room, self._smallest)
            # If the size of the next frames is not known: as much as the smallest ones would take.
            chunk = data[begin : begin + (size or room * self._smallest)]
            begin += len(chunk)
            self._lacking = max(0, size - len(chunk))
            # It is appended to a buffer, whatever holds it.
            protocol.receive_data(cast("bytes", chunk))
            frames = protocol.events_received()
            if (failure := self._take_frames(frames, events)) is not None:
                return [*events, self._end(failure)]
            if isinstance(self._kept, Inflating):
                return self._leave(self._kept, bytes(data[begin:]), events)
            count += len(frames)
        if count > _FEW or self._reads.budget < STEP - LARGE:
            self._busy()
        return self._conclude(protocol, events)

    def _lone(self, data: bytearray | memoryview | bytes) -> Sequence[Event] | None:
        """The event of a short frame that is all that was read; None: the parser has to look."""
        if len(data) == _ANSWER.size:
            head, mask, masked = _ANSWER.unpack(data)
            if head == _ANSWER_HEAD:
                return self._reads.pongs(mask ^ masked)
        size = len(data) - _SMALLEST
        if size < 0 or data[1] != 0x80 | size:
            return None
        kind, payload = data[0], apply_mask(data[_SMALLEST:], bytes(data[2:_SMALLEST]))
        if kind == _PONG:
            return [Pong(int.from_bytes(payload, "big") if size == PING_SIZE else -1)]
        if kind not in (_TEXT, _BINARY) or size > self._reads.max_message_size:
            if kind in _COMPRESSED and self.deflate is not None:
                return self._lone_compressed(_COMPRESSED[kind], payload, self.deflate)
            return None
        try:
            return [payload.decode() if kind == _TEXT else payload]
        except UnicodeDecodeError:  # which the parser tells the peer
            return None

    def _lone_compressed(
        self, opcode: Opcode, payload: bytes, deflate: Deflate
    ) -> Sequence[Event] | None:
        inflating = Inflating(opcode, payload, self._reads.max_message_size, deflate.counts)
        try:
            # Deflate makes a thousand bytes of one, at most.
            if left := inflating.step(STEP):
                if left < STEP - LARGE:
                    self._busy()
                return [inflating.message()]
        except (MalformedError, TooLargeError, UnicodeDecodeError):
            pass
        return None

    def _end(self, event: PeerClose | Failure) -> Event:
        self._forget()
        self._state = event
        return event

    def _keep(self, rest: bytes | Inflating) -> None:
        """Leave something for the next call."""
        self._kept = rest

    @abstractmethod
    def _busy(self) -> None:
        """Much was parsed: let the next wait take a turn."""

    @abstractmethod
    def _wake(self) -> None:
        """Let the reader, where it waits, call `receive_nowait`."""

    def _parse_kept(self) -> Sequence[Event]:
        rest, self._kept = self._kept, None
        self._reads.size = 0  # it was counted when it was read
        if isinstance(self._state, Failure):  # it was given up
            return (self._state,)
        assert rest is not None
        if not isinstance(rest, Inflating):
            return self._parse(rest)
        self._reads.budget = STEP
        events: list[Event] = []
        if (failure := self._take_frames([rest, *rest.frames], events)) is not None:
            return [*events, self._end(failure)]
        if isinstance(self._kept, Inflating):  # it, or one behind it
            return self._leave(self._kept, rest.rest, events)
        return self._parse_frames(rest.rest, events)

    def _leave(self, inflating: Inflating, rest: bytes, events: list[Event]) -> Sequence[Event]:
        """Go on with a message, and with what is behind it, at the next call."""
        inflating.rest = rest
        self._busy()
        self._reads.unfinished.holds(self, inflating.held)
        return events

    def _take_frames(self, frames: Sequence[object], events: list[Event]) -> Failure | None:
        finished = False
        for number, frame in enumerate(frames):
            try:
                event = self._frame(frame) if isinstance(frame, Frame) else frame
                if isinstance(event, Inflating):
                    self._reads.budget = event.step(self._reads.budget)
                    if not self._reads.budget:
                        event.frames = frames[number + 1 :]
                        self._keep(event)
                        break
                    event = event.message()
            except MalformedError as exc:
                return _failure(CloseCode.PROTOCOL_ERROR, str(exc))
            except TooLargeError as exc:
                return _failure(CloseCode.MESSAGE_TOO_BIG, str(exc))
            except UnicodeDecodeError as exc:
                return _failure(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
            except PayloadTooBig as exc:
                return _failure(CloseCode.MESSAGE_TOO_BIG, str(exc))
            if event is not None:
                events.append(cast("Event", event))
            self._used |= not isinstance(event, Pong)
            finished |= self._state is None
        if finished:
            # What follows is another message, though no read may ever end where a message does.
            self._reads.unfinished.finished(self)
        return None

    def _conclude(self, protocol: Parser, events: list[Event]) -> Sequence[Event]:
        """Add what the protocol wants to be sent, and how it ended if it did."""
        # Before a close frame there may be PONGs.
        output = b"".join(protocol.data_to_send())
        if (received := protocol.close_rcvd) is not None:
            code, reason = received.code, received.reason
            reply = CloseFrame(code, reason, output)
            if protocol.parser_exc is not None:
                # To close between fragments gives up a message, and is no error (section 5.5.1
                # lets a close frame stand anywhere); the layer below takes it for one.
                reply = make_close(code, reason)
            events.append(self._end(PeerClose(code, reason, reply)))
            return events
        if (sent := protocol.close_sent) is not None:
            reply = CloseFrame(sent.code, sent.reason, output)
            events.append(self._end(Failure(sent.code, sent.reason, reply)))
            return events
        if output:
            # First: it must not wait until the messages that came with the PING are taken.
            events.insert(0, Reply(output))
        self._account(protocol)
        return events

    def _account(self, protocol: Parser) -> None:
        """Tell what the message that is not finished holds."""
        fragments, unfinished = self._state, self._reads.unfinished
        if isinstance(fragments, _Fragments):
            unfinished.holds(self, protocol.reader.held + len(fragments.data))
        elif not protocol.at_boundary:
            unfinished.holds(self, protocol.reader.held)

    def give_up(self, reason: str) -> None:
        """Drop a message that is not finished, and fail; for `Unfinished`."""
        self._end(_failure(CloseCode.TRY_AGAIN_LATER, reason))
        self._kept = b""  # so that the failure is read
        self._wake()

    def _forget(self) -> None:
        """Keep nothing of what came."""
        self._reads.unfinished.finished(self)
        if self._protocol is not None:
            self._protocol.close()
        self._protocol = self._state = self._kept = None
        self._lacking = 0

    def _frame(self, frame: Frame) -> Event | Inflating | None:
        data = frame.data
        assert not isinstance(data, memoryview)
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            compressed = type(frame) is CompressedFrame
            if frame.fin:
                self._check_size(len(data), compressed=compressed)
                if compressed:
                    return self._inflating(frame.opcode, data)
                return data.decode() if frame.opcode is Opcode.TEXT else bytes(data)
            self._state = _Fragments(frame.opcode, compressed=compressed)
        if frame.opcode is Opcode.PONG:
            return Pong(int.from_bytes(data, "big") if len(data) == PING_SIZE else -1)
        if frame.opcode is Opcode.PING or frame.opcode is Opcode.CLOSE:
            return None
        fragments = self._state
        assert isinstance(fragments, _Fragments)
        self._check_size(len(fragments.data) + len(data), compressed=fragments.compressed)
        fragments.append(data, final=frame.fin)
        if not frame.fin:
            return None
        self._state = None
        if fragments.compressed:
            return self._inflating(fragments.opcode, fragments.data.join())
        return fragments.message()

    def _inflating(self, opcode: Opcode, data: bytes | bytearray) -> Inflating:
        assert self.deflate is not None
        return Inflating(opcode, data, self._reads.max_message_size, self.deflate.counts)

    def _check_size(self, size: int, *, compressed: bool) -> None:
        if size > self._most_bytes(compressed=compressed):
            raise PayloadTooBig(size, self._reads.max_message_size)

    @property
    def read_size(self) -> int:
        return self._reads.size

    def rest(self, *, heard: bool, listening: bool = True) -> None:
        protocol = self._protocol
        if protocol is None:
            return
        inflating = isinstance(self._kept, Inflating)
        if self._state is not None or inflating or not protocol.at_boundary:
            self._reads.unfinished.look_at(self, listening=listening)
        elif not self._used and self._kept is None:
            self._forget()
        self._used = False

    def close_frame(self, code: int, reason: str) -> CloseFrame:
        return make_close(code, reason)

    async def finish(self, *, answered: bool) -> None:
        # The peer's close frame, or its failure, may be behind a message that was not taken.
        answered |= type(self._state) in _ENDS
        left = CLOSING_BYTES
        while not answered and left > 0:
            await self.wait_readable()
            self._reads.size = 0
            answered = any(
                isinstance(event, PeerClose | Failure) or event is END_OF_STREAM
                for event in self.receive_nowait() or ()
            )
            left -= self._reads.size
        if answered:
            await self._linger()
        else:
            await self._cut_off()

    async def _cut_off(self) -> None:
        """Read no more, and reset the connection: the peer sends all the time."""
        await trio.sleep(_PAUSE)
        self._reset()

    @abstractmethod
    async def _linger(self) -> None:
        """Tell the peer that no more bytes come, and read until it says the same.

        To close a socket that holds unread bytes resets the connection, and the peer may lose
        the close frame.
        """

    @abstractmethod
    def _reset(self) -> None:
        """Close the socket at once, with a reset."""


def _size(data: bytearray | memoryview | bytes, begin: int, count: int, smallest: int) -> int:
    """Bytes of the next frames, of which the last may be yet to come.

    Args:
        data: what has come.
        begin: where a frame begins.
        count: how many frames at most.
        smallest: bytes of an empty frame.
    """
    end = begin
    for _ in range(count):
        if end + 10 > len(data):  # the length may not have come
            break
        # Section 5.2: a length of two or eight bytes more.
        length = data[end + 1] & 0x7F
        if length < 126:
            end += smallest + length
        elif length == 126:
            end += smallest + 2 + (data[end + 2] << 8 | data[end + 3])
        else:
            end += smallest + 8 + int.from_bytes(data[end + 2 : end + 10], "big")
    return end - begin


def _failure(code: int, reason: str) -> Failure:
    return Failure(code, reason, make_close(code, reason))
