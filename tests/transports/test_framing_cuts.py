"""Conversations cut in every way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Opcode

from tests.support.framing import (
    VIOLATIONS,
    Fed,
    closing,
    fragments,
    masked,
    plain,
)
from trio_beat._transports import Failure, PeerClose, Pong, Reply


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
