"""Frames in every form: what comes of them, and in how many turns."""

from __future__ import annotations

import pytest
from websockets.frames import Close, Opcode

from tests.support.framing import (
    LIMIT,
    Fed,
    closing,
    fragments,
    masked,
    plain,
)
from trio_beat._transports import CloseFrame, PeerClose, Pong, Reply


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


class TestCloseFrame:
    def test_has_code_and_reason(self) -> None:
        assert Fed().close_frame(1013, "slow").frame == b"\x88\x06\x03\xf5slow"
