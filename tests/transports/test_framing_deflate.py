"""Compressed messages among frames (RFC 7692, sections 6 and 7.2.2)."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode

from tests.support.deflating import STEP, compressed, make_deflate, some_json
from tests.support.framing import (
    LIMIT,
    VIOLATIONS,
    Fed,
    closing,
    failure,
    fragments,
    masked,
    plain,
    rsv1,
)
from trio_beat._transports import PeerClose, Pong, Reply


def fed(limit: int = LIMIT) -> Fed:
    return Fed(limit, make_deflate())


def text(content: str) -> bytes:
    return rsv1(masked(Opcode.TEXT, compressed(content.encode())))


def binary(content: bytes) -> bytes:
    return rsv1(masked(Opcode.BINARY, compressed(content)))


def in_fragments(opcode: Opcode, *parts: bytes) -> bytes:
    frames = fragments(opcode, *parts)
    return b"".join([rsv1(frames[0]), *frames[1:]])


class TestWhatComes:
    @pytest.mark.parametrize("size", [0, 1, 50, 125, 126, LIMIT])
    def test_messages(self, size: int) -> None:
        assert fed().feed(text("é" * (size // 2))) == ["é" * (size // 2)]
        noise = random.Random(size).randbytes(size)
        assert fed().feed(binary(noise)) == [noise]
        assert fed().feed(binary(b"\0" * size) * 2) == [b"\0" * size] * 2

    def test_a_short_lone_message_needs_no_parser(self) -> None:
        transport = fed()
        assert transport.feed(text("hello" * 20)) == ["hello" * 20]
        assert not transport.has_parser

    def test_plain_messages_may_come_in_between(self) -> None:
        data = text("a" * 200) + masked(Opcode.TEXT, b"b") + text("c") + masked(Opcode.BINARY, b"d")
        assert fed().feed(data) == ["a" * 200, "b", "c", b"d"]
        transport = fed()
        assert transport.feed(masked(Opcode.TEXT, b"b")) == ["b"]
        assert transport.feed(masked(Opcode.TEXT, b"b" * LIMIT)) == ["b" * LIMIT]

    @settings(deadline=None)
    @given(
        st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=300)), max_size=5),
        st.data(),
    )
    def test_any_messages_in_any_frames_and_pieces(
        self, messages: list[str | bytes], data: st.DataObject
    ) -> None:
        sent = b""
        for message in messages:
            opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
            payload = message.encode() if isinstance(message, str) else message
            squeezed = data.draw(st.booleans())
            if squeezed:
                payload = compressed(payload)
            cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
            bounds = [0, *cuts, len(payload)]
            parts = [payload[begin:end] for begin, end in pairwise(bounds)]
            frames = fragments(opcode, *parts)
            sent += b"".join([rsv1(frames[0]) if squeezed else frames[0], *frames[1:]])
        transport = Fed(10_000, make_deflate())
        events = []
        step = data.draw(st.integers(1, 200))
        for begin in range(0, len(sent), step):
            events += transport.feed(sent[begin : begin + step])
        assert events == messages

    def test_control_frames_between_fragments(self) -> None:
        payload = compressed(b"hello" * 50)
        first, second = fragments(Opcode.TEXT, payload[:5], payload[5:])
        events = fed().feed(
            rsv1(first) + masked(Opcode.PING, b"x") + masked(Opcode.PONG, b"\0\0\0\1") + second
        )
        assert events == [Reply(plain(Opcode.PONG, b"x")), Pong(1), "hello" * 50]

    def test_a_text_may_be_cut_within_a_character(self) -> None:
        payload = compressed(("é" * 100).encode())
        for cut in range(len(payload)):
            data = in_fragments(Opcode.TEXT, payload[:cut], payload[cut:])
            assert fed().feed(data) == ["é" * 100]

    def test_what_is_inflated_is_counted(self) -> None:
        transport = fed()
        transport.feed(text("a" * 500))
        transport.feed(binary(b"b" * 10))
        assert transport.deflate is not None
        counts = transport.deflate.counts.statistics()
        before = len(compressed(b"a" * 500)) + len(compressed(b"b" * 10))
        assert counts[-3:] == (2, before, 510)

    def test_what_is_no_message_is_not_counted(self) -> None:
        transport = fed()
        transport.feed(rsv1(masked(Opcode.TEXT, compressed(b"\xff"))))
        assert transport.deflate is not None
        assert transport.deflate.counts.statistics().inflated == 0


class TestErrors:
    @pytest.mark.parametrize("name", sorted(set(VIOLATIONS) - {"reserved bit 1"}))
    def test_other_violations_are_what_they_were(self, name: str) -> None:
        assert fed().feed(VIOLATIONS[name]) == Fed().feed(VIOLATIONS[name])

    def test_the_bit_is_an_error_where_nothing_was_agreed_on(self) -> None:
        assert failure(Fed().feed(text("hello"))).code == 1002
        assert failure(Fed().feed(in_fragments(Opcode.TEXT, b"a", b"b"))).code == 1002

    @pytest.mark.parametrize(
        "frame",
        [
            *(rsv1(masked(opcode, b"\0\0\0\1")) for opcode in (Opcode.PING, Opcode.PONG)),
            rsv1(closing()),
            masked(Opcode.TEXT, b"a", fin=False) + rsv1(masked(Opcode.CONT, b"b")),
            rsv1(masked(Opcode.TEXT, b"a", fin=False)) + rsv1(masked(Opcode.CONT, b"b")),
            b"\xe1" + masked(Opcode.TEXT, b"\0")[1:],  # and the second one
        ],
    )
    def test_the_bit_is_an_error_elsewhere(self, frame: bytes) -> None:
        assert failure(fed().feed(frame)).code == 1002
        assert failure(fed().feed(frame)).reason == "reserved bits must be 0"

    def test_every_truncation_is_1002(self) -> None:
        whole = compressed(some_json(900).encode())
        for size in range(len(whole)):
            failed = failure(fed().feed(rsv1(masked(Opcode.TEXT, whole[:size]))))
            assert failed.code == 1002

    def test_a_message_that_is_none_is_1002(self) -> None:
        for size in (20, 900):  # alone and without a parser, and with one
            failed = failure(fed().feed(rsv1(masked(Opcode.TEXT, b"\xff" * size))))
            assert failed[:2] == (1002, "compressed message is malformed")

    def test_what_inflates_to_no_text_is_1007(self) -> None:
        for content in (b"\xff", b"\xff" * 900, b"a" * 99 + b"\xc3"):
            for data in (
                rsv1(masked(Opcode.TEXT, compressed(content))),
                in_fragments(Opcode.TEXT, compressed(content), b""),
            ):
                assert failure(fed().feed(data)).code == 1007

    @pytest.mark.parametrize("many", [1, 3])
    def test_a_bomb_is_1009(self, many: int) -> None:
        bomb = compressed(b"\0" * 900_000)
        assert len(bomb) < LIMIT
        for data in (rsv1(masked(Opcode.BINARY, bomb)), in_fragments(Opcode.TEXT, bomb, b"")):
            failed = failure(fed().feed(data * many))
            assert failed[:2] == (1009, f"inflated message exceeds limit of {LIMIT} bytes")

    def test_a_small_bomb_that_comes_alone_is_1009(self) -> None:
        bomb = rsv1(masked(Opcode.BINARY, compressed(b"\0" * 100_000)))
        assert len(bomb) < 131
        assert failure(fed().feed(bomb)).code == 1009

    def test_what_does_not_get_smaller_may_be_as_large_as_allowed(self) -> None:
        noise = random.Random(1).randbytes(LIMIT)
        payload = compressed(noise, level=1)
        assert len(payload) > LIMIT
        assert fed().feed(rsv1(masked(Opcode.BINARY, payload))) == [noise]
        halves = in_fragments(Opcode.BINARY, payload[:500], payload[500:])
        assert fed().feed(halves) == [noise]

    def test_what_comes_is_bounded_too(self) -> None:
        empty = bytes.fromhex("000000ffff") * LIMIT
        assert failure(fed().feed(rsv1(masked(Opcode.TEXT, empty)))).code == 1009
        parts = [empty[:100]] * LIMIT
        assert failure(fed().feed(in_fragments(Opcode.TEXT, *parts))).code == 1009

    def test_a_plain_message_has_the_limit_that_it_had(self) -> None:
        data = masked(Opcode.TEXT, b"x" * (LIMIT + 1))
        assert failure(fed().feed(data)).code == 1009
        parts = fragments(Opcode.TEXT, b"x" * LIMIT, b"x")
        assert failure(fed().feed(b"".join(parts))).code == 1009

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(Opcode), st.booleans(), st.booleans(), st.binary(max_size=200)
            )
        )
    )
    def test_any_frames_are_events_or_a_failure(
        self, frames: list[tuple[Opcode, bool, bool, bytes]]
    ) -> None:
        transport = fed()
        for opcode, bit, final, data in frames:
            payload = data if len(data) % 2 else compressed(data)
            frame = (rsv1 if bit else bytes)(masked(Opcode.BINARY, payload))
            head = frame[0] & 0x40 | (0x80 if final else 0) | opcode
            transport.feed(bytes((head,)) + frame[1:])
        transport.forget()
        assert transport.held == 0


class TestTurns:
    @pytest.mark.parametrize(("size", "busy"), [(1000, False), (100_000, True)])
    def test_a_short_lone_message_that_takes_a_while_counts_as_work(
        self, size: int, busy: bool
    ) -> None:
        transport = fed(STEP)
        data = binary(b"\0" * size)
        assert len(data) < 126
        assert transport.feed(data) == [b"\0" * size]
        assert not transport.has_parser
        assert transport.was_busy is busy

    def test_a_large_message_is_inflated_in_turns_and_what_follows_waits(self) -> None:
        transport, content = fed(10 * STEP), "x" * (4 * STEP + 10)
        data = text(content) + masked(Opcode.TEXT, b"behind") + masked(Opcode.PING) + closing()
        assert transport.feed_a_turn(data) == 0
        assert transport.was_busy
        assert transport.held > STEP
        turns = 1
        events: list[object] = []
        while not events:
            events += transport.feed_on()
            turns += 1
        assert turns >= 5
        assert events[:2] == [content, "behind"]
        assert isinstance(events[-1], PeerClose)
        assert transport.held == 0

    def test_many_bombs_are_inflated_in_turns(self) -> None:
        transport = fed(STEP)
        bombs = text("x" * (STEP - 10)) * 10
        done = [transport.feed_a_turn(bombs)]
        while done[-1] >= 0:
            done.append(transport.turn())
        assert sum(done) + 1 == 10
        assert max(done) <= 2

    def test_messages_in_turns_stay_in_order(self) -> None:
        messages = [str(number) * (STEP // (number + 1)) for number in range(6)]
        data = b"".join(text(message) + masked(Opcode.TEXT, b"-") for message in messages)
        for step in (len(data), 1000, 7):
            transport, events = fed(2 * STEP), []
            for begin in range(0, len(data), step):
                events += transport.feed(data[begin : begin + step])
            assert events[::2] == messages
            assert set(events[1::2]) == {"-"}

    def test_a_message_that_turns_out_malformed_ends_what_follows(self) -> None:
        transport = fed(10 * STEP)
        payload = compressed(b"x" * (3 * STEP))[:-3]
        data = rsv1(masked(Opcode.TEXT, payload)) + masked(Opcode.TEXT, b"behind")
        assert failure(transport.feed(data)).code == 1002
        assert transport.held == 0

    def test_it_counts_as_unfinished_and_may_be_given_up(self) -> None:
        transport = fed(10 * STEP)
        transport.feed_a_turn(text("x" * (4 * STEP)))
        transport.rest(heard=True)
        transport.rest(heard=True)
        assert transport.has_parser
        transport.give_up("too many unfinished messages")
        assert transport.held == 0
        assert failure(transport.feed_on()).code == 1013
        assert not transport.has_parser

    def test_nothing_is_kept_when_idle(self) -> None:
        transport = fed(10 * STEP)
        transport.feed(text("x" * (4 * STEP)))
        transport.idle()
        assert not transport.has_parser
