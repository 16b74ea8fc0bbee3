"""What waits for a socket: whole frames, in order, whatever is dropped."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from trio_beat import Message
from trio_beat._transports import BeatFrames, CloseFrame, Outgoing, Reply, Response
from trio_beat._transports.outbox import _TOGETHER, Outbox

#: Lengths of payloads around those at which a frame's header grows (RFC 6455, section 5.2).
SIZES = st.sampled_from([1, 2, 10, 125, 126, 300, 65535, 65536])


PING = Frame(Opcode.PING, b"\0\0\0\1").serialize(mask=False)
PONG = Reply(Frame(Opcode.PONG, b"").serialize(mask=False))
#: Messages whose frames are of four bytes.
A, B, C = (Message(letter * 2) for letter in "abc")


def make_message(number: int, size: int = 1) -> Message:
    return Message(f"{number},{'x' * size}")


def joined(*items: Outgoing) -> bytes:
    return b"".join(item.frame for item in items)


def write(outbox: Outbox, count: int | None = None) -> bytes:
    """Let a socket take bytes; None: as many as it is offered."""
    data = b"".join(outbox.buffers())[:count]
    outbox.taken(len(data))
    return data


def test_gathering_write_has_at_most_64_buffers() -> None:
    messages = [make_message(number) for number in range(100)]
    outbox = Outbox(messages[0])
    for message in messages[1:]:
        outbox.append(message)
    frames = [message.frame for message in messages]
    assert outbox.buffers() == frames[:64]
    assert write(outbox) == b"".join(frames[:64])
    assert outbox.buffers() == frames[64:]


def test_buffers_begin_with_the_rest_of_the_first_frame() -> None:
    outbox = Outbox(Response(b"first"), taken=2)
    outbox.append(Response(b"second"))
    assert outbox.size == 9
    assert [bytes(buffer) for buffer in outbox.buffers()] == [b"rst", b"second"]
    outbox.taken(4)
    assert outbox.size == 5
    assert [bytes(buffer) for buffer in outbox.buffers()] == [b"econd"]


def test_drop_oldest_stops_below_its_limit() -> None:
    outbox = Outbox(A)
    for message in (B, C):
        outbox.append(message)
    assert outbox.drop_oldest(13) == 0
    assert outbox.drop_oldest(12) == 1
    assert outbox.size == 8
    assert outbox.buffers() == [B.frame, C.frame]


@pytest.mark.parametrize("between", [False, True])
def test_many_pongs_that_wait_are_few_frames(between: bool) -> None:
    # A peer that takes nothing may ask for one with each packet, and each drop goes through them.
    outbox = Outbox(Response(b"first"), taken=2)
    for number in range(5000):
        outbox.append_reply(PONG)
        if between:
            outbox.append(make_message(number))
    outbox.drop_oldest(0)
    assert outbox.size == 3 + 5000 * len(PONG.frame)
    assert len(outbox.buffers()) < 10
    assert write(outbox) == b"rst" + 5000 * PONG.frame
    assert outbox.size == outbox.replies == 0


def test_frame_that_the_peer_has_a_part_of_is_kept() -> None:
    outbox = Outbox(A, taken=1)
    outbox.append(B)
    outbox.drop_all()
    assert outbox.size == 3
    assert write(outbox) == A.frame[1:]


def test_frame_that_is_to_be_kept_is_kept_until_the_peer_has_it() -> None:
    outbox = Outbox(C, keep=True)
    outbox.append(A)
    outbox.drop_all()
    assert outbox.buffers() == [C.frame]
    outbox.append(B)
    outbox.taken(len(C.frame))
    outbox.drop_all()
    assert outbox.buffers() == []
    assert outbox.size == 0


def test_no_more_than_one_beat_waits() -> None:
    beat = BeatFrames(1, None, PING)
    outbox = Outbox(A, taken=1)
    for _ in range(3):
        outbox.append_beat(beat)
    outbox.append(B)
    outbox.append_beat(beat)
    assert write(outbox) == joined(A, beat, B)[1:]
    outbox = Outbox(A)
    outbox.append_beat(beat)
    outbox.append(B)
    outbox.taken(len(joined(A, beat)))
    outbox.append_beat(beat)
    assert write(outbox) == joined(B, beat)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_beat_that_is_the_first_to_wait_is_the_only_one(taken: int) -> None:
    beat, later = BeatFrames(7, None, PING), BeatFrames(8, None, bytes(reversed(PING)))
    outbox = Outbox(beat, taken)
    outbox.append_beat(later)
    assert write(outbox) == beat.frame[taken:]
    outbox.append_beat(later)
    assert write(outbox) == later.frame


@pytest.mark.parametrize("taken", [0, 1])
def test_pongs_that_are_the_first_to_wait_are_counted(taken: int) -> None:
    outbox = Outbox(PONG, taken)
    outbox.append_reply(PONG)
    assert outbox.replies == 2 * len(PONG.frame)
    write(outbox)
    assert outbox.replies == 0


def test_control_items_are_not_dropped_nor_counted() -> None:
    # Nor is the text heartbeat of a beat, though it is a message to the peer.
    text = "--heartbeat--"
    beat = BeatFrames(1, text, PING + Message(text).frame)
    close = CloseFrame(1000, "", Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=False))
    outbox = Outbox(A)
    outbox.append_beat(beat)
    outbox.append(B)
    outbox.append_reply(PONG)
    outbox.append(C)
    outbox.append(close)
    assert outbox.drop_oldest(0) == 3
    outbox.append_beat(beat)  # the one before still waits
    assert outbox.replies == 2
    assert write(outbox) == joined(beat, PONG, close)
    assert outbox.replies == outbox.size == 0


@pytest.mark.parametrize("payload", [b"\x89\0", b"\x8a\0", b"\x88\0", ""])
def test_messages_are_dropped_whatever_they_hold(payload: str | bytes) -> None:
    outbox = Outbox(A)
    outbox.append(Message(payload))
    outbox.drop_all()
    assert outbox.size == 0


def test_response_of_no_bytes_goes_with_what_is_behind_it() -> None:
    """A client has none to send."""
    outbox = Outbox(Response(b""), keep=True)
    outbox.append(A)
    outbox.taken(0)
    assert outbox.first is A
    outbox.taken(len(A.frame))
    assert outbox.size == 0


class OutboxMachine(RuleBasedStateMachine):
    """A peer parses what the socket takes; a plain list says what it should get."""

    @initialize(size=SIZES, taken=st.integers(0, 70_000), keep=st.booleans())
    def open(self, size: int, taken: int, keep: bool) -> None:
        message = make_message(0, size)
        frame = message.frame
        taken = min(taken, len(frame) - 1)
        self.outbox = Outbox(message, taken, keep=keep)
        self.frames = 1
        #: What waits, as number, bytes left, and whether it is a control frame; and how many of
        #: them may not be dropped.
        self.waiting = [(0, len(frame) - taken, False)]
        self.fixed = int(keep or taken > 0)
        self.expected: list[int] = []
        self.peer = Protocol(CLIENT, state=OPEN, max_size=None)
        self.got: list[int] = []
        self.receive(frame[:taken])

    def receive(self, data: bytes) -> None:
        self.peer.receive_data(data)
        for frame in self.peer.events_received():
            assert isinstance(frame, Frame)
            self.got.append(int(bytes(frame.data).partition(b",")[0]))
        assert self.peer.state is OPEN, self.peer.close_exc

    @rule(size=SIZES)
    def append(self, size: int) -> None:
        message = make_message(self.frames, size)
        self.outbox.append(message)
        self.waiting.append((self.frames, len(message.frame), False))
        self.frames += 1

    @rule()
    def append_reply(self) -> None:
        frame = Frame(Opcode.PONG, b"%d," % self.frames).serialize(mask=False)
        self.outbox.append_reply(Reply(frame))
        self.waiting.append((self.frames, len(frame), True))
        self.frames += 1

    @precondition(lambda self: self.outbox.size)
    @rule(count=st.sampled_from([1, 2, 100, 70_000, None]) | st.integers(1, 70_000))
    def take(self, count: int | None) -> None:
        data = write(self.outbox, count)
        self.receive(data)
        left = len(data)
        while left:
            number, size, control = self.waiting[0]
            if left < size:
                self.waiting[0] = (number, size - left, control)
                self.fixed = 1
                break
            left -= size
            self.expected.append(number)
            del self.waiting[0]
            self.fixed = 0

    def drop(self, limit: int) -> int:
        messages = [it for it in self.waiting[self.fixed :] if not it[2]]
        dropped = 0
        while messages and sum(size for _, size, _ in self.waiting) >= limit:
            self.waiting.remove(messages.pop(0))
            dropped += 1
        return dropped

    @rule(limit=st.integers(0, 200_000))
    def drop_oldest(self, limit: int) -> None:
        assert self.outbox.drop_oldest(limit) == self.drop(limit)

    @rule()
    def drop_all(self) -> None:
        self.drop(0)
        self.outbox.drop_all()

    @invariant()
    def sizes_are_exact(self) -> None:
        assert self.outbox.size == sum(size for _, size, _ in self.waiting)
        whole = self.waiting[self.fixed :]
        replies = sum(size for _, size, control in whole if control)
        # Those that are put together count in full while the peer has a part of them.
        assert replies <= self.outbox.replies <= replies + _TOGETHER

    @invariant()
    def peer_got_whole_frames_in_order(self) -> None:
        assert self.got == self.expected

    def teardown(self) -> None:
        while self.outbox.size:
            self.receive(write(self.outbox))
        assert self.got == self.expected + [number for number, *_ in self.waiting]


TestOutbox = OutboxMachine.TestCase
