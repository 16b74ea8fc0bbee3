"""A client's frames are masked, however their bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from trio_beat._protocol.masking import Masker
from trio_beat._protocol.messages import Message, make_beat, make_close

#: Payloads of every length encoding, and close to its limits.
SIZES = [0, 1, 2, 3, 4, 5, 123, 125, 126, 127, 128, 129, 65535, 65536]


def frames(data: bytes) -> list[tuple[Opcode, bytes]]:
    """What a server makes of a client's bytes; it takes only masked frames."""
    protocol = Protocol(SERVER, state=OPEN, max_size=None)
    protocol.receive_data(data)
    assert protocol.parser_exc is None
    got = []
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        got.append((event.opcode, bytes(event.data)))
    return got


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_frame(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    masked = Masker().mask(Message(payload).frame)
    assert frames(masked) == [(Opcode.BINARY, payload)]
    assert len(masked) == len(Message(payload).frame) + 4


def test_a_beat_is_two_frames() -> None:
    assert frames(Masker().mask(make_beat(7, "--heartbeat--").frame)) == [
        (Opcode.PING, b"\0\0\0\7"),
        (Opcode.TEXT, b"--heartbeat--"),
    ]


def test_the_bits_of_extensions_stay() -> None:
    assert Masker().mask(b"\xc1\x01x")[0] == 0xC1


@pytest.mark.parametrize("size", [10, 200])
def test_no_two_frames_have_the_same_key(size: int) -> None:
    masker, frame = Masker(), Message(b"\0" * size).frame
    assert len({masker.mask(frame)[-size:] for _ in range(100)}) == 100


@st.composite
def cut(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Plain payloads, and the pieces of their frames; some of the frames are masked already."""
    sizes = draw(st.lists(st.sampled_from(SIZES), max_size=6))
    payloads = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    data = b"".join(
        Frame(Opcode.BINARY, payload).serialize(mask=draw(st.booleans())) for payload in payloads
    )
    edges = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    # Near the begin of a frame more often: that is where heads are cut.
    edges += [edge for edge in draw(st.lists(st.integers(0, 300), max_size=20)) if edge < len(data)]
    edges = [0, *sorted(edges), len(data)]
    return payloads, [data[a:b] for a, b in pairwise(edges)]


@given(cut())
def test_frames_that_are_cut_anywhere(sent: tuple[list[bytes], list[bytes]]) -> None:
    payloads, pieces = sent
    masker = Masker()
    data = b"".join(masker.mask(memoryview(piece)) for piece in pieces)
    assert frames(data) == [(Opcode.BINARY, payload) for payload in payloads]


def test_a_close_frame() -> None:
    assert frames(Masker().mask(make_close(1000, "bye").frame)) == [(Opcode.CLOSE, b"\x03\xe8bye")]
