"""Messages and control items: what each holds, and the frame that it becomes."""

from __future__ import annotations

import copy
import enum
import pickle
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from trio_beat import Message
from trio_beat._protocol.messages import (
    BeatFrames,
    CloseFrame,
    Outgoing,
    Reply,
    Response,
    make_beat,
    make_close,
)

#: Around each length at which a frame's head grows (RFC 6455, section 5.2).
LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 65537]


class Text(str, enum.Enum):  # noqa: UP042 - is formatted by its name
    ASCII = "abc"
    WIDE = "\u00e9"


class Data(bytes):
    pass


def frames(item: Outgoing) -> list[Frame]:
    """What a client gets of an item."""
    protocol = Protocol(CLIENT, state=OPEN, max_size=None)
    protocol.receive_data(item.frame)
    received = protocol.events_received()
    assert all(isinstance(frame, Frame) for frame in received)
    return [frame for frame in received if isinstance(frame, Frame)]


class TestMessage:
    def test_text(self) -> None:
        message = Message("caf\u00e9")
        assert (message.payload, message.kind) == ("caf\u00e9", "text")
        assert message.frame == b"\x81\x05caf\xc3\xa9"

    def test_binary(self) -> None:
        message = Message(b"\0\xff")
        assert (message.payload, message.kind) == (b"\0\xff", "binary")
        assert message.frame == b"\x82\x02\0\xff"

    @pytest.mark.parametrize("length", LENGTHS)
    @pytest.mark.parametrize("character", ["x", "\u00e9", "\u20ac", "\U0001f409"])
    def test_frame_of_text_is_that_of_websockets(self, character: str, length: int) -> None:
        text = character + "x" * (length - len(character.encode())) if length else ""
        expected = Frame(Opcode.TEXT, text.encode()).serialize(mask=False)
        assert Message(text).frame == expected

    @pytest.mark.parametrize("length", LENGTHS)
    def test_frame_of_bytes_is_that_of_websockets(self, length: int) -> None:
        data = bytes(length)
        assert Message(data).frame == Frame(Opcode.BINARY, data).serialize(mask=False)

    @given(st.text() | st.binary())
    def test_is_received_as_it_was_made(self, payload: str | bytes) -> None:
        (frame,) = frames(Message(payload))
        assert frame.fin
        data = bytes(frame.data)
        assert payload == (data.decode() if frame.opcode is Opcode.TEXT else data)

    @pytest.mark.parametrize("payload", ["text", "caf\u00e9", b"binary"])
    def test_frame_is_made_once(self, payload: str | bytes) -> None:
        message = Message(payload)
        assert message.frame is message.frame

    @pytest.mark.parametrize("length", LENGTHS)
    @pytest.mark.parametrize("payload", ["x", "caf\u00e9", b"x"])
    def test_payload_is_read_out_of_the_frame_that_replaced_it(
        self, payload: str | bytes, length: int
    ) -> None:
        message = Message(payload * length)
        assert (message.payload, message.kind) == (payload * length, Message(payload).kind)
        size = message.size
        assert size == len(message.frame)
        assert (message.payload, message.kind) == (payload * length, Message(payload).kind)
        assert message.size == size

    @pytest.mark.parametrize("payload", ["x", "caf\u00e9\U0001f409", b"x"])
    def test_holds_its_bytes_once(self, payload: str | bytes) -> None:
        whole = payload * 10_000
        expected = len(whole if isinstance(whole, bytes) else whole.encode())
        tracemalloc.start()
        try:
            message = Message(payload * 10_000)
            assert message.frame
            assert message.payload == whole
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert expected < held < expected + 500

    @pytest.mark.parametrize("payload", [bytearray(b"ab"), memoryview(b"a-b-")[::2]])
    def test_what_could_change_is_copied(self, payload: Any) -> None:
        message = Message(payload)
        if isinstance(payload, bytearray):
            payload[0] = 0
        assert type(message.payload) is bytes
        assert message.payload == b"ab"
        assert message.frame == b"\x82\x02ab"

    @pytest.mark.parametrize("payload", [None, 1, True, ["text"], object()])
    def test_of_another_type(self, payload: Any) -> None:
        with pytest.raises(TypeError, match=r"message is .*; it must be text or bytes"):
            Message(payload)

    def test_of_surrogates_is_refused_when_it_is_made(self) -> None:
        with pytest.raises(ValueError, match=r"message has a surrogate, '.ud800' at position 1"):
            Message("x\ud800")

    def test_equal_are_those_of_the_same_payload_and_kind(self) -> None:
        assert Message("x") == Message("x")
        assert len({Message("x"), Message("x"), Message(b"x"), Message("y")}) == 3
        assert Message("") != Message(b"")
        assert Message("x") != "x"

    @pytest.mark.parametrize("payload", ["text", "caf\u00e9", b"binary"])
    def test_can_be_copied_and_pickled(self, payload: str | bytes) -> None:
        message = Message(payload)
        for framed in (False, True):
            assert not framed or message.frame
            for copied in (
                copy.copy(message),
                copy.deepcopy(message),
                pickle.loads(pickle.dumps(message)),
            ):
                assert copied == message
                assert copied.size == len(copied.frame)
                assert copied.frame == message.frame
                assert copied.payload == payload

    @pytest.mark.parametrize(
        ("payload", "plain"), [(Text.ASCII, "abc"), (Text.WIDE, "\u00e9"), (Data(b"abc"), b"abc")]
    )
    def test_of_a_subclass_has_a_plain_payload(
        self, payload: str | bytes, plain: str | bytes
    ) -> None:
        message = Message(payload)
        for _ in range(2):
            assert type(message.payload) is type(plain)
            assert message.payload == plain
            assert message.frame == Message(plain).frame

    def test_frame_may_be_made_by_two_threads(self) -> None:
        message = Message("abc")

        class Slow(str):
            """A text whose other thread is quicker."""

            __slots__ = ()

            def encode(self, *_: str) -> bytes:
                message.frame = b"\x81\x03abc"
                del message.payload
                return b"abc"

        message.payload = Slow("abc")
        assert message.frame == b"\x81\x03abc"
        assert message.payload == "abc"

    def test_is_shown_in_short(self) -> None:
        assert repr(Message("x")) == "<Message 'x'>"
        assert repr(Message(b"x")) == "<Message b'x'>"
        assert repr(Message("x" * 41)) == f"<Message {'x' * 40!r} and 1 more>"

    def test_has_no_other_attributes(self) -> None:
        message: Any = Message("x")
        with pytest.raises(AttributeError, match="'Message' object has no attribute 'data'"):
            message.data  # noqa: B018 - it raises
        with pytest.raises(AttributeError):
            message.data = 1


class TestControlItems:
    def test_beat_is_a_ping(self) -> None:
        beat = make_beat(258, None)
        assert beat == BeatFrames(258, None, b"\x89\x04\0\0\x01\x02")
        assert [frame.opcode for frame in frames(beat)] == [Opcode.PING]

    def test_beat_may_have_a_text_heartbeat(self) -> None:
        beat = make_beat(1, "--heartbeat--")
        assert beat.frame == b"\x89\x04\0\0\0\x01\x81\x0d--heartbeat--"
        assert (beat.number, beat.message) == (1, "--heartbeat--")

    def test_beat_may_have_a_short_one(self) -> None:
        assert make_beat(0, "hi").frame == b"\x89\x04\0\0\0\0\x81\x02hi"

    def test_beat_is_made_once_for_all_connections_of_a_slot(self) -> None:
        assert make_beat(7, "x") is make_beat(7, "x")

    @pytest.mark.parametrize("reason", ["", "going away", "\u20ac" * 41])
    def test_close_frame(self, reason: str) -> None:
        close = make_close(1001, reason)
        assert (close.code, close.reason) == (1001, reason)
        (frame,) = frames(close)
        assert frame.opcode is Opcode.CLOSE
        assert Close.parse(bytes(frame.data)) == Close(1001, reason)

    def test_close_frame_without_a_code(self) -> None:
        assert make_close(1005, "") == CloseFrame(1005, "", b"\x88\0")

    @pytest.mark.parametrize(
        "item",
        [make_beat(1, None), Reply(b"\x8a\0"), make_close(1000, ""), Response(b"HTTP/1.1 101")],
    )
    def test_cannot_be_changed(self, item: Any) -> None:
        with pytest.raises(AttributeError):
            item.frame = b""
