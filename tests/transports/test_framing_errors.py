"""What breaks the protocol, or a limit."""

from __future__ import annotations

import pytest
from websockets.frames import Opcode

from tests.support.framing import (
    LIMIT,
    VIOLATIONS,
    Fed,
    closing,
    failure,
    fragments,
    masked,
)
from trio_beat._transports import PeerClose


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
