"""Frames for transports that carry bytes.

The parser of websockets' Sans-I/O layer is made when a frame needs parsing, and let go when the
connection has been idle for a beat at a frame boundary: a connection that only answers PINGs needs
none, because a short PONG that comes alone is recognised without it.
"""

from __future__ import annotations

import codecs
import struct
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, cast

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.streams import StreamReader

from .._checks import check_kind, check_text, check_whole, encode
from .._log import get_logger
from . import END_OF_STREAM, Event, Failure, PeerClose, Pong, Reply, Transport

_log = get_logger("trio_beat.frames")

#: The payload of our PINGs is a number of this many bytes.
PING_SIZE: Final = 4
#: A PONG that answers one: its head, the mask, and the masked number.
_PONG: Final = struct.Struct("!HII")
_PONG_HEAD: Final = (0x80 | Opcode.PONG) << 8 | 0x80 | PING_SIZE
#: A control frame's payload is no longer than this (RFC 6455, section 5.5).
_MOST_CONTROL: Final = 125
#: How much is parsed at a time, other than a large frame, and after how many frames others get a
#: turn: a read full of tiny frames takes tens of milliseconds.
_STEP: Final = 4096
_MOST_FRAMES: Final = 64
_AT_BOUNDARY: Final = StreamReader.at_eof.__code__


def message_frame(message: str | bytes) -> bytes:
    """Serialize a message as one frame (RFC 6455, section 5.6).

    Raises:
        TypeError: it is neither text nor bytes.
        ValueError: it is a text with surrogates, which cannot be encoded.
    """
    if isinstance(message, str):
        return Frame(Opcode.TEXT, encode("message", message)).serialize(mask=False)
    check_kind("message", message, (bytes, bytearray, memoryview), "text or bytes")
    return Frame(Opcode.BINARY, message).serialize(mask=False)


@lru_cache(maxsize=64)
def beat_frames(number: int, message: str | None) -> bytes:
    """The frames of one beat; all connections of a metronome's slot send the same ones.

    Args:
        number: the PING's payload, below 2**32.
        message: the text heartbeat, or None.
    """
    ping = Frame(Opcode.PING, number.to_bytes(PING_SIZE, "big")).serialize(mask=False)
    return ping if message is None else ping + message_frame(message)


class Wire:
    """What the transports of one server share.

    Args:
        max_message_size: largest message that a peer may send, in bytes.
    """

    __slots__ = ("_pongs", "buffer", "max_message_size", "view")

    def __init__(self, max_message_size: int, buffer_size: int = 131072) -> None:
        self.max_message_size = max_message_size
        #: Where bytes are received. Invariant: empty of meaning across an await.
        self.buffer = bytearray(buffer_size)
        self.view = memoryview(self.buffer)
        self._pongs = (Pong(-1),)

    def pongs(self, number: int) -> tuple[Pong]:
        """The events of a lone PONG; the same object for all who answer one beat's PINGs."""
        if self._pongs[0].number != number:
            self._pongs = (Pong(number),)
        return self._pongs


class _Fragments:
    """A message of which not all frames have come (RFC 6455, section 5.4)."""

    __slots__ = ("data", "decoder")

    def __init__(self, opcode: Opcode) -> None:
        self.data = bytearray()
        self.decoder = codecs.getincrementaldecoder("utf-8")() if opcode is Opcode.TEXT else None

    def append(self, data: bytes | bytearray, *, final: bool) -> None:
        """Raises UnicodeDecodeError as soon as a text cannot be UTF-8 (section 8.1)."""
        self.data += data
        if self.decoder is not None:
            self.decoder.decode(data, final)

    def message(self) -> str | bytes:
        return bytes(self.data) if self.decoder is None else self.data.decode()


class FramingTransport(Transport):
    """A transport that turns received bytes into events."""

    __slots__ = ("_fragments", "_lacking", "_protocol", "_rest", "_used", "_wire")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._protocol: Protocol | None = None
        self._fragments: _Fragments | None = None
        #: Bytes of a large frame that are yet to come; 0 outside of one.
        self._lacking = 0
        #: The parser was needed since the last beat, for more than a PONG.
        self._used = False
        #: What was received and is not parsed yet, because it would take too long at once.
        self._rest: bytes | None = None

    def _parser(self) -> Protocol:
        if self._protocol is None:
            # The layer counts a control frame that comes between fragments against the message;
            # the allowance keeps that from failing a message at the limit. `_data` checks it.
            limit = self._wire.max_message_size + _MOST_CONTROL
            self._protocol = Protocol(SERVER, state=OPEN, max_size=limit, logger=_log)
        return self._protocol

    def _parse(self, data: bytearray | memoryview | bytes) -> Sequence[Event]:
        if len(data) == _PONG.size and self._protocol is None:
            head, mask, masked = _PONG.unpack(data)
            if head == _PONG_HEAD:
                return self._wire.pongs(mask ^ masked)
        protocol, events = self._parser(), list[Event]()
        begin = count = 0
        while begin < len(data) and not protocol.eof_sent:
            lacking = self._lacking or self._large_frame(data, begin)
            chunk = data[begin : begin + (lacking or _STEP)]
            begin += len(chunk)
            self._lacking = max(0, lacking - len(chunk))
            # It is appended to a buffer, whatever holds it.
            protocol.receive_data(cast("bytes", chunk))
            frames = protocol.events_received()
            if (failure := self._take_frames(frames, events)) is not None:
                return [*events, failure]
            count += len(frames)
            if count > _MOST_FRAMES and begin < len(data):
                self._keep(bytes(data[begin:]))
                break
        return self._conclude(protocol, events)

    def _large_frame(self, data: bytearray | memoryview | bytes, begin: int) -> int:
        """The size of a frame that is to be parsed at once, because it is large; else 0."""
        if len(data) - begin <= _STEP or not self._at_boundary():
            return 0
        # Section 5.2: a length of two or eight bytes, and a mask of four.
        match data[begin + 1] & 0x7F:
            case 126:
                size = 8 + int.from_bytes(data[begin + 2 : begin + 4], "big")
            case 127:
                size = 14 + int.from_bytes(data[begin + 2 : begin + 10], "big")
            case _:
                return 0
        return size if size > _STEP else 0

    def _keep(self, rest: bytes) -> None:
        """Leave some for the next time."""
        self._rest = rest

    def _parse_rest(self) -> Sequence[Event]:
        rest, self._rest = self._rest, None
        assert rest is not None
        return self._parse(rest)

    def _take_frames(self, frames: Sequence[object], events: list[Event]) -> Failure | None:
        for frame in frames:
            assert isinstance(frame, Frame)
            try:
                event = self._frame(frame)
            except UnicodeDecodeError as exc:
                return _failure(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}")
            except PayloadTooBig as exc:
                return _failure(CloseCode.MESSAGE_TOO_BIG, str(exc))
            if event is not None:
                events.append(event)
            self._used |= frame.opcode is not Opcode.PONG
        return None

    def _conclude(self, protocol: Protocol, events: list[Event]) -> Sequence[Event]:
        """Add what the protocol wants to be sent, and how it ended if it did."""
        output = b"".join(protocol.data_to_send())
        if (received := protocol.close_rcvd) is not None:
            if protocol.parser_exc is not None:
                # To close between fragments gives up a message, and is no error (section 5.5.1
                # lets a close frame stand anywhere); the layer below takes it for one.
                output = close_frame(received.code, received.reason)
            events.append(PeerClose(received.code, received.reason, output))
        elif protocol.eof_sent:
            sent = protocol.close_sent
            assert sent is not None
            events.append(Failure(sent.code, sent.reason, output))
        elif output:
            # First: it must not wait until somebody takes the messages that came with the PING.
            events.insert(0, Reply(output))
        return events

    def _frame(self, frame: Frame) -> Event | None:
        data = frame.data
        assert not isinstance(data, memoryview)
        if frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            if frame.fin:
                self._check_size(len(data))
                return data.decode() if frame.opcode is Opcode.TEXT else bytes(data)
            self._fragments = _Fragments(frame.opcode)
        if frame.opcode is Opcode.PONG:
            return Pong(int.from_bytes(data, "big") if len(data) == PING_SIZE else -1)
        if frame.opcode is Opcode.PING or frame.opcode is Opcode.CLOSE:
            return None
        fragments = self._fragments
        assert fragments is not None
        self._check_size(len(fragments.data) + len(data))
        fragments.append(data, final=frame.fin)
        if not frame.fin:
            return None
        self._fragments = None
        return fragments.message()

    def _check_size(self, size: int) -> None:
        if size > self._wire.max_message_size:
            raise PayloadTooBig(size, self._wire.max_message_size)

    def rest(self, *, heard: bool) -> None:
        idle = not self._used and self._fragments is None and self._rest is None
        if idle and self._protocol is not None and self._at_boundary():
            self._protocol = None
        self._used = False

    def _at_boundary(self) -> bool:
        """Whether the parser waits for the first byte of a frame.

        It says so nowhere; but a generator tells what it is waiting in.
        """
        assert self._protocol is not None
        inner = getattr(self._protocol.parser, "gi_yieldfrom", None)
        return getattr(inner, "gi_code", None) is _AT_BOUNDARY

    def close_frame(self, code: int, reason: str) -> bytes:
        return close_frame(code, reason)

    async def finish(self, *, answered: bool) -> None:
        # The peer's close frame, or its failure, may stand behind a message that nobody took.
        answered = answered or (self._protocol is not None and self._protocol.eof_sent)
        while not answered:
            await self.wait_readable()
            answered = any(
                isinstance(event, PeerClose | Failure) or event is END_OF_STREAM
                for event in self.receive_nowait()
            )
        await self._linger()

    @abstractmethod
    async def _linger(self) -> None:
        """Tell the peer that no more bytes come, and read until it says the same.

        To close a socket that holds unread bytes resets the connection, and the peer may lose
        the close frame.
        """


def close_frame(code: int, reason: str) -> bytes:
    """The close frame of a code and reason; an empty one for 1005 (RFC 6455, section 5.5.1)."""
    empty = code == CloseCode.NO_STATUS_RCVD
    payload = b"" if empty else Close(code, reason).serialize()
    return Frame(Opcode.CLOSE, payload).serialize(mask=False)


def _failure(code: int, reason: str) -> Failure:
    return Failure(code, reason, close_frame(code, reason))


def check_close(code: int, reason: str) -> None:
    """Check a close code and reason before they are needed.

    Raises:
        TypeError: the code is no whole number, or the reason no text.
        ValueError: the code may not be sent (RFC 6455, section 7.4), or the reason is longer
            than 123 bytes of UTF-8, or cannot be encoded.
    """
    check_whole("close code", code)
    check_text("close reason", reason)
    try:
        payload = Close(code, reason).serialize()
    except ProtocolError as exc:
        raise ValueError(f"close code {code} may not be sent; 1000 to 4999, see RFC 6455") from exc
    if len(payload) > _MOST_CONTROL:
        raise ValueError(f"close reason takes {len(payload) - 2} bytes; at most 123 are allowed")
