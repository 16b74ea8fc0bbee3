"""Frames in every form, cut in every way; and the parser that is made and let go."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.utils import apply_mask

from tests.support.harness import make_read_context
from trio_beat._protocol.events import Event, Failure, PeerClose, Pong
from trio_beat._protocol.frames import check_close
from trio_beat._protocol.messages import CloseFrame, Message, Outgoing, Reply, make_beat
from trio_beat._transports import Take, awake
from trio_beat._transports.framing import FramingTransport
from trio_beat._transports.outbox import Outbox

LIMIT = 1000


class Fed(FramingTransport):
    """A transport that is given its bytes by hand."""

    peer = "a test"
    was_busy = False

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__(make_read_context(limit, clock=lambda: 0.0))

    def feed(self, data: bytes | memoryview) -> list[Event]:
        events = list(self._parse(data))
        while self._rest is not None:
            events += self._parse_rest()
        return events

    def feed_a_turn(self, data: bytes) -> int:
        """Parse for as long as others may wait; returns how many events there were."""
        return len(self._parse(data))

    def turn(self) -> int:
        """Another one; -1 when there is nothing left."""
        return -1 if self._rest is None else len(self._parse_rest())

    @property
    def has_parser(self) -> bool:
        return self._protocol is not None

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
    return Frame(opcode, data, fin).serialize(mask=True)


def plain(opcode: Opcode, data: bytes = b"") -> bytes:
    return Frame(opcode, data).serialize(mask=False)


def closing(code: int = 1000, reason: str = "") -> bytes:
    return masked(Opcode.CLOSE, Close(code, reason).serialize())


def fragments(opcode: Opcode, *parts: bytes) -> list[bytes]:
    opcodes = [opcode, *[Opcode.CONT] * (len(parts) - 1)]
    last = len(parts) - 1
    return [
        masked(opcode, part, fin=index == last)
        for index, (opcode, part) in enumerate(zip(opcodes, parts, strict=True))
    ]


class TestTurns:
    """A read full of tiny frames is not parsed at once; a large message is."""

    def test_tiny_frames_are_parsed_in_turns(self) -> None:
        fed = Fed()
        turns = [fed.feed_a_turn(masked(Opcode.TEXT, b"x") * 9000)]
        while turns[-1] >= 0:
            turns.append(fed.turn())
        assert sum(turns) + 1 == 9000
        assert max(turns) <= 64

    def test_pieces_of_frames_count_too(self) -> None:
        fed, frame = Fed(), masked(Opcode.TEXT, b"x")
        fed.feed_a_turn(frame[:5])
        turns = [fed.feed_a_turn(frame[5:] + frame * 500)]
        while turns[-1] >= 0:
            turns.append(fed.turn())
        assert sum(turns) + 1 == 501
        assert max(turns) <= 64

    @pytest.mark.parametrize(("size", "busy"), [(1, True), (200, True), (20_000, False)])
    def test_a_read_of_many_frames_makes_the_next_one_wait(self, size: int, busy: bool) -> None:
        fed = Fed(10**6)
        fed.feed_a_turn(masked(Opcode.TEXT, b"x" * size) * (60_000 // (size + 8)))
        assert fed.was_busy is busy

    def test_parser_is_kept_between_turns(self) -> None:
        fed = Fed()
        fed.feed_a_turn(masked(Opcode.PONG) * 9000)
        fed.idle()
        assert fed.has_parser

    def test_large_message_is_parsed_in_one_turn(self) -> None:
        assert Fed(10**6).feed_a_turn(masked(Opcode.TEXT, b"x" * 65000)) == 1

    def test_tiny_frames_behind_a_large_one_are_parsed_in_turns(self) -> None:
        fed = Fed(10**6)
        data = masked(Opcode.TEXT, b"x" * 30_000) + masked(Opcode.TEXT, b"x") * 5000
        assert fed.feed_a_turn(data) <= 64


class TestWhatComes:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, LIMIT])
    def test_text_and_binary_of_every_length_encoding(self, size: int) -> None:
        assert Fed().feed(masked(Opcode.TEXT, b"x" * size)) == ["x" * size]
        events = Fed().feed(masked(Opcode.BINARY, b"\xff" * size))
        assert events == [b"\xff" * size]
        assert type(events[0]) is bytes

    def test_lengths_of_eight_bytes(self) -> None:
        assert Fed(70_000).feed(masked(Opcode.BINARY, b"x" * 70_000)) == [b"x" * 70_000]

    @pytest.mark.parametrize("data", [b"", b"abc", b"x" * 125])
    def test_a_ping_is_answered_with_its_payload(self, data: bytes) -> None:
        assert Fed().feed(masked(Opcode.PING, data)) == [Reply(plain(Opcode.PONG, data))]

    def test_a_pong_of_ours_carries_its_number(self) -> None:
        assert Fed().feed(masked(Opcode.PONG, b"\0\0\1\2")) == [Pong(0x102)]

    @pytest.mark.parametrize("data", [b"", b"abc", b"abcde", b"x" * 125])
    def test_a_pong_that_answers_no_ping_of_ours_has_no_number(self, data: bytes) -> None:
        assert Fed().feed(masked(Opcode.PONG, data)) == [Pong(-1)]

    def test_a_close_frame_is_echoed(self) -> None:
        reply = CloseFrame(1001, "bye", plain(Opcode.CLOSE, Close(1001, "bye").serialize()))
        assert Fed().feed(closing(1001, "bye")) == [PeerClose(1001, "bye", reply)]

    def test_a_close_frame_without_a_code_is_echoed_without_one(self) -> None:
        expected = PeerClose(1005, "", CloseFrame(1005, "", plain(Opcode.CLOSE)))
        assert Fed().feed(masked(Opcode.CLOSE)) == [expected]

    def test_pings_before_a_close_frame_are_answered_before_it(self) -> None:
        [event] = Fed().feed(masked(Opcode.PING, b"1") + closing(1000))
        assert isinstance(event, PeerClose)
        pong = plain(Opcode.PONG, b"1")
        assert event.reply is not None
        assert event.reply.frame == pong + plain(Opcode.CLOSE, Close(1000, "").serialize())

    def test_nothing_behind_a_close_frame_counts(self) -> None:
        [event] = Fed().feed(closing() + masked(Opcode.TEXT, b"late") + b"\xff\xff")
        assert isinstance(event, PeerClose)

    def test_messages_come_in_their_order(self) -> None:
        data = b"".join(
            [
                masked(Opcode.TEXT, b"1"),
                masked(Opcode.BINARY, b"2"),
                *fragments(Opcode.TEXT, b"3", b"4"),
                masked(Opcode.TEXT, b"5"),
            ]
        )
        assert Fed().feed(data) == ["1", b"2", "34", "5"]


class TestFragments:
    def test_are_put_together(self) -> None:
        fed = Fed()
        frames = fragments(Opcode.BINARY, b"a", b"", b"b", b"c")
        assert [fed.feed(frame) for frame in frames] == [[], [], [], [b"abc"]]

    def test_may_have_control_frames_between_them(self) -> None:
        fed = Fed()
        first, second = fragments(Opcode.TEXT, b"a", b"b")
        events = fed.feed(first + masked(Opcode.PING, b"p") + masked(Opcode.PONG) + second)
        assert events == [Reply(plain(Opcode.PONG, b"p")), Pong(-1), "ab"]

    @pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8bye"])
    def test_may_be_given_up_by_a_close(self, payload: bytes) -> None:
        fed = Fed()
        close = masked(Opcode.CLOSE, payload)
        (event,) = fed.feed(fragments(Opcode.TEXT, b"a", b"b")[0] + close)
        code, reason = (1000 if payload else 1005), payload[2:].decode()
        reply = CloseFrame(code, reason, plain(Opcode.CLOSE, payload))
        assert event == PeerClose(code, reason, reply)

    def test_may_cut_a_character(self) -> None:
        euro = "€".encode()
        assert Fed().feed(b"".join(fragments(Opcode.TEXT, euro[:1], euro[1:2], euro[2:]))) == ["€"]

    def test_a_message_in_fragments_does_not_colour_the_next(self) -> None:
        fed = Fed()
        for _ in range(2):
            assert fed.feed(b"".join(fragments(Opcode.TEXT, b"a", b"b"))) == ["ab"]
            assert fed.feed(b"".join(fragments(Opcode.BINARY, b"a", b"b"))) == [b"ab"]


def failure(events: list[Event]) -> Failure:
    last = events[-1]
    assert isinstance(last, Failure), events
    frame = plain(Opcode.CLOSE, Close(last.code, last.reason).serialize())
    assert last.reply == CloseFrame(last.code, last.reason, frame)
    return last


class TestInvalidText:
    """RFC 6455, section 8.1."""

    def test_is_1007(self) -> None:
        assert failure(Fed().feed(masked(Opcode.TEXT, b"ok \xff"))).code == 1007

    def test_what_came_before_is_delivered(self) -> None:
        events = Fed().feed(masked(Opcode.TEXT, b"good") + masked(Opcode.TEXT, b"\xff"))
        assert events[0] == "good"
        assert failure(events).code == 1007

    def test_fails_in_the_frame_in_which_it_is(self) -> None:
        fed = Fed()
        first, second, _ = fragments(Opcode.TEXT, b"ok", b"\xff", b"")
        assert fed.feed(first) == []
        assert failure(fed.feed(second)).code == 1007

    def test_a_character_that_ends_too_early_fails_in_the_last_frame(self) -> None:
        fed = Fed()
        first, second = fragments(Opcode.TEXT, "€".encode()[:2], b"")
        assert fed.feed(first) == []
        assert failure(fed.feed(second)).code == 1007

    def test_surrogates_are_not_utf8(self) -> None:
        assert failure(Fed().feed(masked(Opcode.TEXT, b"\xed\xa0\x80"))).code == 1007

    def test_a_close_frame_behind_it_changes_nothing(self) -> None:
        events = Fed().feed(masked(Opcode.TEXT, b"\xff") + closing(1000))
        assert [failure(events).code] == [1007]
        assert len(events) == 1

    def test_in_a_close_reason_is_1007(self) -> None:
        assert failure(Fed().feed(masked(Opcode.CLOSE, b"\x03\xe8\xff"))).code == 1007

    def test_binary_may_be_anything(self) -> None:
        assert Fed().feed(b"".join(fragments(Opcode.BINARY, b"\xff", b"\xfe"))) == [b"\xff\xfe"]


class TestOversize:
    @pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
    @pytest.mark.parametrize("excess", [1, 124, 125, 126, 5000])
    def test_one_frame_over_the_limit_is_1009(self, opcode: Opcode, excess: int) -> None:
        assert failure(Fed().feed(masked(opcode, b"x" * (LIMIT + excess)))).code == 1009

    def test_the_head_of_a_frame_far_too_big_is_enough(self) -> None:
        assert failure(Fed().feed(b"\x82\xff" + (2**40).to_bytes(8, "big"))).code == 1009

    @pytest.mark.parametrize("first", [0, 1, LIMIT - 1, LIMIT])
    def test_fragments_at_the_limit_pass(self, first: int) -> None:
        parts = b"x" * first, b"x" * (LIMIT - first)
        assert Fed().feed(b"".join(fragments(Opcode.TEXT, *parts))) == ["x" * LIMIT]

    @pytest.mark.parametrize("first", [0, 1, LIMIT - 1, LIMIT, LIMIT + 1])
    def test_fragments_over_the_limit_are_1009(self, first: int) -> None:
        parts = b"x" * first, b"x" * (LIMIT + 1 - first)
        assert failure(Fed().feed(b"".join(fragments(Opcode.TEXT, *parts)))).code == 1009

    def test_fragments_fail_as_soon_as_they_are_too_many(self) -> None:
        fed = Fed()
        first, second, _ = fragments(Opcode.BINARY, b"x" * LIMIT, b"x", b"")
        assert fed.feed(first) == []
        assert failure(fed.feed(second)).code == 1009

    @pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
    def test_a_control_frame_between_them_does_not_count(self, opcode: Opcode) -> None:
        first, second = fragments(Opcode.TEXT, b"x" * LIMIT, b"")
        events = Fed().feed(first + masked(opcode, b"c" * 125) + second)
        assert "x" * LIMIT in events

    def test_the_limit_is_each_message_s(self) -> None:
        fed = Fed()
        for _ in range(3):
            assert fed.feed(masked(Opcode.TEXT, b"x" * LIMIT)) == ["x" * LIMIT]


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
violations = pytest.mark.parametrize("data", VIOLATIONS.values(), ids=VIOLATIONS.keys())


class TestViolations:
    @violations
    def test_are_1002(self, data: bytes) -> None:
        assert failure(Fed().feed(data)).code == 1002

    @violations
    def test_byte_by_byte_too(self, data: bytes) -> None:
        fed = Fed()
        ends = (events for byte in data if (events := fed.feed(bytes([byte]))))
        assert failure(next(ends)).code == 1002

    @violations
    def test_what_came_before_is_delivered(self, data: bytes) -> None:
        events = Fed().feed(masked(Opcode.TEXT, b"before") + data)
        assert events[0] == "before"
        assert failure(events).code == 1002

    @pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
    def test_valid_close_codes_pass(self, code: int) -> None:
        [event] = Fed().feed(closing(code))
        assert isinstance(event, PeerClose)
        assert event.code == code


#: The first two bytes of a frame, any payload, and how many bytes too many or too few there are.
_HEADS = st.sampled_from([0x81, 0x82, 0x8A]) | st.integers(0, 0xFF)


@st.composite
def short_frames(draw: st.DrawFn) -> bytes:
    """What is a short frame, or nearly."""
    payload = draw(st.binary(max_size=130) | st.text(max_size=30).map(str.encode))
    length = draw(st.just(len(payload)) | st.integers(0, 127))
    head, mask = draw(_HEADS), draw(st.binary(min_size=4, max_size=4))
    marked = draw(st.sampled_from([0x80, 0x80, 0x80, 0]))
    return bytes([head, marked | length & 0x7F]) + mask + apply_mask(payload, mask)


class TestShortFrames:
    """What is taken without the parser is what the parser would have made of it."""

    @given(st.lists(short_frames() | st.binary(max_size=140), min_size=1, max_size=3))
    def test_both_ways_give_the_same(self, reads: list[bytes]) -> None:
        # At the limit of a message, below it, and none.
        for limit in (4, 100, LIMIT):
            one, other = Fed(limit), Fed(limit)
            for data in reads:
                if other._fragments is None:
                    other._parser()  # where there is one, nothing is taken without it
                assert one.feed(data) == other.feed(data)
            assert type(one._fragments) is type(other._fragments)

    @given(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PONG]), st.binary(max_size=125))
    def test_whole_frames_too(self, opcode: Opcode, payload: bytes) -> None:
        one, other = Fed(), Fed()
        other._parser()
        data = masked(opcode, payload)
        # As it is read: out of a buffer that is used again.
        buffer = bytearray(data)
        events = one.feed(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
        assert events == other.feed(data)
        assert not one.has_parser or isinstance(events[-1], Failure)


class TestParser:
    def test_a_lone_pong_needs_none(self) -> None:
        fed = Fed()
        for number in (0, 1, 2**32 - 1):
            payload = number.to_bytes(4, "big")
            assert fed.feed(masked(Opcode.PONG, payload)) == [Pong(number)]
        assert not fed.has_parser

    @pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY, Opcode.PONG])
    @pytest.mark.parametrize("size", [0, 1, 4, 125])
    def test_nor_does_a_short_frame_that_comes_alone(self, opcode: Opcode, size: int) -> None:
        fed = Fed()
        [event] = fed.feed(masked(opcode, b"x" * size))
        assert not fed.has_parser
        number = int.from_bytes(b"xxxx", "big") if size == 4 else -1
        text = "x" * size if opcode is Opcode.TEXT else b"x" * size
        assert event == (Pong(number) if opcode is Opcode.PONG else text)

    @pytest.mark.parametrize(
        "data",
        [
            masked(Opcode.PONG, b"abcd")[:9],
            masked(Opcode.PONG, b"abcd") * 2,
            masked(Opcode.TEXT, b"abcd") * 2,
            masked(Opcode.PING, b"abcd"),
            masked(Opcode.TEXT, b"abcd", fin=False),
            masked(Opcode.TEXT, b"x" * 126),
            b"\x8a\x85" + masked(Opcode.PONG, b"abcde")[2:10],
        ],
    )
    def test_anything_else_does(self, data: bytes) -> None:
        fed = Fed()
        fed.feed(data)
        assert fed.has_parser

    def test_is_dropped_after_an_idle_beat(self) -> None:
        fed = Fed()
        fed.feed(masked(Opcode.TEXT, b"x" * 126))
        fed.rest(heard=True)
        assert fed.has_parser  # it was used in the beat that has passed
        fed.rest(heard=True)
        assert not fed.has_parser
        assert fed.feed(masked(Opcode.TEXT, b"y")) == ["y"]

    def test_pongs_do_not_keep_it(self) -> None:
        fed = Fed()
        fed.feed(masked(Opcode.TEXT, b"x"))
        fed.rest(heard=True)
        fed.feed(masked(Opcode.PONG, b"\0\0\0\1"))
        fed.rest(heard=True)
        assert not fed.has_parser

    @pytest.mark.parametrize("length", range(1, len(masked(Opcode.TEXT, b"x" * 130))))
    def test_is_kept_inside_a_frame(self, length: int) -> None:
        fed, frame = Fed(), masked(Opcode.TEXT, b"x" * 130)
        assert fed.feed(frame[:length]) == []
        fed.idle()
        assert fed.has_parser
        assert fed.feed(frame[length:]) == ["x" * 130]

    def test_is_kept_inside_a_message(self) -> None:
        fed = Fed()
        first, second = fragments(Opcode.TEXT, b"a", b"b")
        fed.feed(first)
        fed.idle()
        assert fed.has_parser
        assert fed.feed(second) == ["ab"]
        fed.idle()
        assert not fed.has_parser

    def test_a_pong_inside_a_frame_is_not_taken_for_one(self) -> None:
        fed, pong = Fed(), masked(Opcode.PONG, b"\0\0\0\1")
        frame = b"\x82\x8a" + MASK
        assert fed.feed(frame) == []
        assert fed.feed(pong) == [pong]


class TestMemory:
    """What is not finished takes about what has come of it, and goes at once."""

    @pytest.mark.parametrize("step", [1000, 65_536, 131_072])
    @pytest.mark.parametrize("parts", [1, 64, 5000])
    def test_an_unfinished_message_takes_no_more_than_has_come(self, parts: int, step: int) -> None:
        size = 2**20 // parts
        data = b"".join(fragments(Opcode.BINARY, *[b"x" * size] * parts))[:-1]
        fed = Fed(2**20)
        fed.feed(data[:100])
        tracemalloc.start()
        try:
            for begin in range(100, len(data), step):
                fed.feed(data[begin : begin + step])
            gc.collect()
            taken, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert size * parts * 0.9 < taken < size * parts + 64 * 1024
        assert fed._reads.unfinished.held <= size * parts
        assert fed.feed(masked(Opcode.BINARY)[:0]) == []
        assert peak < 2.5 * 2**20

    @pytest.mark.parametrize(
        "end",
        [
            lambda fed: fed._forget(),
            lambda fed: fed.give_up("enough"),
        ],
        ids=["let go", "given up"],
    )
    def test_no_cycle_keeps_it(self, end: Callable[[Fed], object], no_gc: None) -> None:
        fed = Fed(2**20)
        fed.feed(masked(Opcode.TEXT, b"x" * 100, fin=False))
        fed.feed(masked(Opcode.CONT, b"x" * 100_000)[:-1])
        parser = weakref.ref(fed._parser())
        assert fed._reads.unfinished.held > 100_000
        end(fed)
        assert parser() is None
        assert fed._reads.unfinished.held == 0

    @pytest.mark.parametrize(
        "last",
        [closing(), b"\xff" * 10, masked(Opcode.CONT, b"\xff"), masked(Opcode.CONT, b"x" * 2000)],
        ids=["1000", "1002", "1007", "1009"],
    )
    def test_no_cycle_keeps_one_that_has_ended(self, last: bytes, no_gc: None) -> None:
        fed = Fed()
        fed.feed(masked(Opcode.TEXT, b"x" * 100, fin=False))
        parser = weakref.ref(fed._parser())
        assert isinstance(fed.feed(last)[-1], PeerClose | Failure)
        assert parser() is None
        assert fed._reads.unfinished.held == 0

    def test_no_cycle_keeps_one_that_was_idle(self, no_gc: None) -> None:
        fed = Fed()
        fed.feed(masked(Opcode.TEXT, b"x"))
        parser = weakref.ref(fed._parser())
        fed.idle()
        assert parser() is None


class Sent(NamedTuple):
    """Some of what a peer sends, and what becomes of it."""

    frames: list[bytes]
    events: list[object] = []  # noqa: RUF012 - never changed
    replies: bytes = b""


def _ping(data: bytes) -> Sent:
    return Sent([masked(Opcode.PING, data)], [], plain(Opcode.PONG, data))


def _pong(data: bytes) -> Sent:
    number = int.from_bytes(data, "big") if len(data) == 4 else -1
    return Sent([masked(Opcode.PONG, data)], [Pong(number)])


def _message(message: str | bytes, cuts: list[int], between: list[list[Sent]]) -> Sent:
    data = message.encode() if isinstance(message, str) else message
    opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    parts = fragments(opcode, *(data[a:b] for a, b in pairwise(edges)))
    sent = Sent(parts[:1], [], b"")
    for part, controls in zip(parts[1:], between, strict=False):
        for control in controls:
            sent = _join(sent, control)
        sent = _join(sent, Sent([part]))
    return _join(sent, Sent([], [message]))


def _join(*parts: Sent) -> Sent:
    return Sent(
        [frame for part in parts for frame in part.frames],
        [event for part in parts for event in part.events],
        b"".join(part.replies for part in parts),
    )


control = st.builds(_ping, st.binary(max_size=125)) | st.builds(_pong, st.binary(max_size=6))
message = st.builds(
    _message,
    st.text(max_size=200) | st.binary(max_size=300),
    st.lists(st.integers(0, 1000), max_size=3),
    st.lists(st.lists(control, max_size=2), min_size=3, max_size=3),
)
conversation = st.builds(lambda parts: _join(*parts), st.lists(message | control, max_size=5))


def _pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return (data[a:b] for a, b in pairwise(edges) if a < b)


def _outcome(fed: Fed, pieces: Iterable[bytes], *, resting: bool = False) -> Sent:
    events: list[object] = []
    replies = b""
    for piece in pieces:
        for event in fed.feed(piece):
            match event:
                case Reply(frame):
                    replies += frame
                case PeerClose(code, reason, reply) | Failure(code, reason, reply):
                    assert reply is not None
                    return Sent([], [*events, (type(event), code, reason)], replies + reply.frame)
                case _:
                    events.append(event)
        if resting:
            fed.idle()
    return Sent([], events, replies)


class TestHoweverItIsCut:
    @given(conversation, st.lists(st.integers(0, 10_000), max_size=20))
    def test_the_events_are_the_same(self, sent: Sent, cuts: list[int]) -> None:
        data, expected = b"".join(sent.frames), Sent([], sent.events, sent.replies)
        assert _outcome(Fed(), [data]) == expected
        assert _outcome(Fed(), (bytes([byte]) for byte in data)) == expected
        assert _outcome(Fed(), sent.frames) == expected
        assert _outcome(Fed(), _pieces(data, cuts)) == expected

    @given(conversation, st.lists(st.integers(0, 10_000), max_size=20))
    def test_idle_beats_in_between_change_nothing(self, sent: Sent, cuts: list[int]) -> None:
        fed, data = Fed(), b"".join(sent.frames)
        expected = Sent([], sent.events, sent.replies)
        assert _outcome(fed, _pieces(data, cuts), resting=True) == expected
        fed.idle()
        assert not fed.has_parser

    @given(conversation, message, st.data())
    def test_the_beginning_of_another_frame_changes_nothing(
        self, sent: Sent, following: Sent, draw: st.DataObject
    ) -> None:
        rest = b"".join(following.frames)
        split = draw.draw(st.integers(1, len(following.frames[0]) - 1))
        fed = Fed()
        data = b"".join(sent.frames)
        assert _outcome(fed, [data + rest[:split]]) == Sent([], sent.events, sent.replies)
        fed.idle()
        assert _outcome(fed, [rest[split:]]) == Sent([], following.events, following.replies)

    @given(
        conversation,
        st.sampled_from([1000, 1001, 3000, 4999]),
        st.text(max_size=30),
        st.binary(max_size=40),
    )
    def test_a_close_frame_ends_it_whatever_follows(
        self, sent: Sent, code: int, reason: str, trailing: bytes
    ) -> None:
        data = b"".join(sent.frames) + closing(code, reason)
        echoed = plain(Opcode.CLOSE, Close(code, reason).serialize())
        expected = Sent([], [*sent.events, (PeerClose, code, reason)], sent.replies + echoed)
        assert _outcome(Fed(), [data + trailing]) == expected
        assert _outcome(Fed(), (bytes([byte]) for byte in data + trailing)) == expected

    @given(conversation, st.sampled_from(list(VIOLATIONS.values())), st.binary(max_size=40))
    def test_a_violation_ends_it_whatever_follows(
        self, sent: Sent, violation: bytes, trailing: bytes
    ) -> None:
        data = b"".join(sent.frames) + violation + trailing
        whole = _outcome(Fed(), [data])
        assert whole.events[:-1] == sent.events
        assert whole.events[-1][:2] == (Failure, 1002)  # type: ignore[index]
        assert _outcome(Fed(), (bytes([byte]) for byte in data)) == whole


class TestWhatIsSent:
    def test_messages(self) -> None:
        assert Message("é").frame == b"\x81\x02\xc3\xa9"
        assert Message(b"\xff").frame == b"\x82\x01\xff"

    def test_beats(self) -> None:
        assert make_beat(258, None).frame == b"\x89\x04\0\0\1\2"
        assert make_beat(0, "hi").frame == b"\x89\x04\0\0\0\0\x81\x02hi"

    def test_close_frames(self) -> None:
        assert Fed().close_frame(1013, "slow").frame == b"\x88\x06\x03\xf5slow"

    @pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 5000])
    def test_close_codes_that_may_not_be_sent(self, code: int) -> None:
        with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
            check_close(code, "")

    def test_close_reasons_are_limited_in_bytes(self) -> None:
        check_close(1000, "é" * 61 + "x")
        with pytest.raises(ValueError, match="takes 124 bytes"):
            check_close(1000, "é" * 62)
