"""The load that compresses."""

from __future__ import annotations

import json
import zlib

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import OPEN, SERVER, Protocol

from benchmarks._load_deflate import compressed_frame, document


def test_a_document_has_its_size_and_differs_from_others() -> None:
    for size in (1024, 4096):
        documents = [document(number, size) for number in range(5)]
        assert {len(text) for text in documents} == {size}
        assert len(set(documents)) == 5
        assert document(3, size) == documents[3]
        assert json.loads(documents[0].rpartition(b", ")[0].rpartition(b"}")[0] + b"}]")
        assert 2 < size / len(zlib.compress(documents[0])) < 6


def test_a_server_inflates_its_frames() -> None:
    protocol = Protocol(SERVER, state=OPEN)
    protocol.extensions = [PerMessageDeflate(True, True, 15, 15)]
    protocol.receive_data(compressed_frame(document(1, 4096)))
    (frame,) = protocol.events_received()
    assert frame.data == document(1, 4096)  # type: ignore[union-attr]
