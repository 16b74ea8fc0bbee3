from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from trio_beat.trio_websocket.frames import Frames

HEARTBEAT = "--beat--"


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def kind(event: object) -> str:
    return type(event).__name__


def ping(number: int) -> bytes:
    return frame(Opcode.PONG, number.to_bytes(4, "big"))


def cut(data: bytes, places: list[int]) -> list[bytes]:
    begins = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(begins) if end > begin]


FRAMES = st.lists(
    st.one_of(
        st.builds(
            frame,
            st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT]),
            st.sampled_from([b"", b"a", b"b" * 125, b"c" * 126, b"d" * 70_000]),
            fin=st.booleans(),
        ),
        st.builds(ping, st.integers(0, 2**32 - 1)),
    ),
    max_size=6,
)


@given(FRAMES, st.lists(st.integers(0, 1000), max_size=6), st.booleans())
def test_all_is_handed_on_however_it_is_cut(
    pieces: list[bytes], places: list[int], closes: bool
) -> None:
    data = b"".join(pieces)
    frames, passed, found = Frames(None), b"", list[object]()
    end = frame(Opcode.CLOSE, Close(4001, "bye").serialize()) if closes else b""
    for part in cut(data + end, places):
        some, events = frames.take(part)
        passed += some
        found += events
    assert passed == data
    assert frames.aligned
    ends = [event for event in found if kind(event) != "Pong"]
    assert [str(event).partition(", reply")[0] for event in ends] == (
        ["PeerClose(code=4001, reason='bye'"] if closes else []
    )
    assert frames.over == closes


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_close_frame_ends_it(size: int) -> None:
    data = frame(Opcode.TEXT, b"hello") + frame(Opcode.CLOSE) + frame(Opcode.TEXT, b"late")
    frames, passed, found = Frames(None), b"", list[object]()
    for begin in range(0, len(data), size):
        some, events = frames.take(data[begin : begin + size])
        passed += some
        found += events
    assert passed == frame(Opcode.TEXT, b"hello")[:2] + passed[2:]
    assert len(passed) == 11
    (close,) = found
    assert str(close).startswith("PeerClose(code=1005, reason='', ")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(Opcode.CLOSE, b"x"), 1002),
        (b"\x08\x82\0\0\0\0\x03\xe8", 1002),  # in fragments
        (b"\x88\xfe\0\x7e\0\0\0\0" + b"r" * 126, 1002),  # too long
        (frame(Opcode.CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(Opcode.CLOSE, b"\0\0"), 1002),
        (Frame(Opcode.CLOSE, b"\x03\xe8four").serialize(mask=False), 1002),
    ],
)
def test_a_wrong_close_frame_is_a_failure(data: bytes, code: int) -> None:
    passed, (event,) = Frames(None).take(data)
    assert passed == b""
    assert kind(event) == "Failure"
    assert event[0] == code


def test_a_lone_answer_is_known() -> None:
    frames = Frames(None)
    frames.pinged(7)
    assert frames.answer(ping(7)) == 7
    assert frames.answer(ping(8)) is None
    assert frames.answer(ping(7) + ping(7)) is None
    # The same bytes within a message are the message's.
    frames.take(frame(Opcode.TEXT, b"x" * 100)[:50])
    assert frames.answer(ping(7)) is None
    assert not frames.between


def test_each_answer_is_handed_on_where_others_send_pings() -> None:
    frames = Frames(None)
    frames.pinged(7)
    frames.number = None
    frames.pinged(8)
    assert frames.answer(ping(8)) is None
    data = ping(8)
    assert frames.take(data) == (data, [(8,)])


def test_pongs_are_told_and_handed_on() -> None:
    data = ping(3) + frame(Opcode.PONG, b"longer")
    assert Frames(None).take(data) == (data, [(3,)])


@pytest.mark.parametrize("whole", [True, False])
def test_a_text_heartbeat_is_left_out(whole: bool) -> None:
    frames = Frames(HEARTBEAT)
    before, beat, behind = (
        frame(Opcode.TEXT, text.encode()) for text in ("one", HEARTBEAT, HEARTBEAT + "!")
    )
    if whole:
        assert frames.take(before + beat + behind) == (before + behind, [])
    else:  # where it is cut it may be a message as any other, which is harmless
        passed = b"".join(frames.take(part)[0] for part in (before + beat[:9], beat[9:] + behind))
        assert passed == before + beat + behind
