"""The load's frames, compared with another project's parser."""

from __future__ import annotations

import pytest
from websockets.frames import Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from benchmarks._frames import frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_frames_are_valid_and_carry_their_payload(size: int) -> None:
    protocol = Protocol(SERVER, state=OPEN, max_size=None)
    payload = bytes(index % 251 for index in range(size))
    protocol.receive_data(frame(Opcode.BINARY, payload))
    (event,) = protocol.events_received()
    assert event.opcode is Opcode.BINARY  # type: ignore[union-attr]
    assert bytes(event.data) == payload  # type: ignore[union-attr]


def test_frames_are_masked_by_chance() -> None:
    assert len({frame(Opcode.TEXT, b"the same") for _ in range(8)}) > 1
