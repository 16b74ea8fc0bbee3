"""The parser that is made where it is needed, and dropped."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.utils import apply_mask

from tests.support.framing import (
    LIMIT,
    MASK,
    Fed,
    closing,
    fragments,
    masked,
)
from trio_beat._transports import Failure, PeerClose, Pong

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

    @pytest.mark.slow
    @given(st.lists(short_frames() | st.binary(max_size=140), min_size=1, max_size=3))
    def test_both_ways_give_the_same(self, reads: list[bytes]) -> None:
        # At the limit of a message, below it, and none.
        for limit in (4, 100, LIMIT):
            one, other = Fed(limit), Fed(limit)
            for data in reads:
                if other._state is None:
                    other._parser()  # where there is one, nothing is taken without it
                assert one.feed(data) == other.feed(data)
            assert type(one._state) is type(other._state)

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

    @pytest.mark.slow
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
        assert fed.held <= size * parts
        assert fed.feed(masked(Opcode.BINARY)[:0]) == []
        assert peak < 2.5 * 2**20

    @pytest.mark.parametrize(
        "end",
        [
            lambda fed: fed.forget(),
            lambda fed: fed.give_up("enough"),
        ],
        ids=["forgotten", "given up"],
    )
    def test_no_cycle_keeps_it(self, end: Callable[[Fed], object], no_gc: None) -> None:
        fed = Fed(2**20)
        fed.feed(masked(Opcode.TEXT, b"x" * 100, fin=False))
        fed.feed(masked(Opcode.CONT, b"x" * 100_000)[:-1])
        parser = weakref.ref(fed.parser)
        assert fed.held > 100_000
        end(fed)
        assert parser() is None
        assert fed.held == 0

    @pytest.mark.parametrize(
        "last",
        [closing(), b"\xff" * 10, masked(Opcode.CONT, b"\xff"), masked(Opcode.CONT, b"x" * 2000)],
        ids=["1000", "1002", "1007", "1009"],
    )
    def test_no_cycle_keeps_one_that_has_ended(self, last: bytes, no_gc: None) -> None:
        fed = Fed()
        fed.feed(masked(Opcode.TEXT, b"x" * 100, fin=False))
        parser = weakref.ref(fed.parser)
        assert isinstance(fed.feed(last)[-1], PeerClose | Failure)
        assert parser() is None
        assert fed.held == 0

    def test_no_cycle_keeps_one_that_was_idle(self, no_gc: None) -> None:
        fed = Fed()
        fed.feed(masked(Opcode.TEXT, b"x"))
        parser = weakref.ref(fed.parser)
        fed.idle()
        assert parser() is None
