"""What the transport over ASGI does by itself; the rest is tested with its application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support.asgi import Played
from trio_beat import EndReason, Message
from trio_beat._transports import BeatFrames, Failure, PeerClose, Reply, Response
from trio_beat._transports.asgi import ACCEPT, ASGITransport
from trio_beat._transports.outbox import Outbox


def make_beat(number: int, text: str | None) -> BeatFrames:
    """A beat; over ASGI its frames count by their size alone."""
    return BeatFrames(number, text, b"\0" * 20)


class Owner:
    """Notes how it is ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[EndReason, int, str]] = []

    def end_nowait(self, by: EndReason, code: int, reason: str) -> None:
        self.ends.append((by, code, reason))


class Pair(NamedTuple):
    """A transport and its server."""

    played: Played
    transport: ASGITransport
    owner: Owner

    async def receive(self) -> list[Any]:
        await self.transport.wait_readable()
        return list(self.transport.receive_nowait() or ())


@asynccontextmanager
async def paired(**options: Any) -> AsyncIterator[Pair]:
    """A transport whose handshake was received."""
    played, owner = Played(), Owner()
    await played.receive()
    async with trio.open_nursery() as nursery:
        transport = ASGITransport(
            played.receive, played.send, nursery.start_soon, peer="peer", **options
        )
        transport.attach(owner)
        yield Pair(played, transport, owner)
        nursery.cancel_scope.cancel()


class TestReading:
    async def test_gives_messages_and_their_size(self, autojump_clock: MockClock) -> None:
        async with paired() as pair:
            for message in ("é", b"abc"):
                await pair.played.says(message)
                assert await pair.receive() == [message]
                assert pair.transport.read_size == len(message) + isinstance(message, str)
            assert pair.transport.receive_nowait() is None
            await pair.played.leaves(1001)
            assert await pair.receive() == [PeerClose(1001, "", None)]

    async def test_goes_on_while_nothing_needs_the_reader(self, autojump_clock: MockClock) -> None:
        async with paired() as pair:
            seen: list[Any] = []

            def take() -> list[str] | None:
                seen.extend(pair.transport.receive_nowait() or ())
                return ["done"] if "end" in seen else None

            for message in ("one", "two", "end"):
                await pair.played.says(message)
            assert await pair.transport.wait_readable(take) == ["done"]
            assert seen == ["one", "two", "end"]

    async def test_another_task_receives_while_the_reader_is_away(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired(inbound=3) as pair:
            await pair.played.says("first")
            assert await pair.receive() == ["first"]
            for message in "abc":
                await pair.played.says(message)
            await wait_all_tasks_blocked()
            assert pair.transport.receive_nowait() == list("abc")
            async with trio.open_nursery() as nursery:  # and it hands over

                async def read() -> None:
                    for message in "de":
                        assert await pair.receive() == [message]

                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                await pair.played.says("d")
                await wait_all_tasks_blocked()
                await pair.played.says("e")
            assert pair.owner.ends == []

    async def test_too_many_end_the_connection_once(self, autojump_clock: MockClock) -> None:
        async with paired(inbound=3) as pair:
            await pair.played.says("first")
            assert await pair.receive() == ["first"]
            for _ in range(100):
                await pair.played.says("more")
            await wait_all_tasks_blocked()
            ended = (EndReason.INBOX_FULL, 1013, "too many messages wait")
            assert pair.owner.ends == [ended]
            assert pair.transport.receive_nowait() == ["more"] * 3

    async def test_a_large_message_fails_and_is_the_last(self, autojump_clock: MockClock) -> None:
        async with paired(message_size=3) as pair:
            await pair.played.says("éé")
            ((failure),) = await pair.receive()
            assert isinstance(failure, Failure)
            assert failure.code == 1009
            await pair.played.says("x")
            await wait_all_tasks_blocked()
            assert pair.transport.receive_nowait() is None

    async def test_a_cancelled_reader_loses_nothing(self, autojump_clock: MockClock) -> None:
        async with paired() as pair:
            with trio.move_on_after(1):
                await pair.transport.wait_readable()
            await pair.played.says("kept")
            await wait_all_tasks_blocked()
            assert await pair.receive() == ["kept"]

    @pytest.mark.parametrize("away", [True, False])
    async def test_a_receive_that_fails(self, away: bool, autojump_clock: MockClock) -> None:
        async with paired() as pair:
            if away:
                await pair.played.says("x")
                await pair.receive()
                await wait_all_tasks_blocked()
            fail = trio.Event()

            async def receive() -> Any:
                await fail.wait()
                raise RuntimeError("secret")

            pair.transport._receive = receive
            if away:
                await pair.played.says("y")
            await wait_all_tasks_blocked()
            fail.set()
            if away:
                assert await pair.receive() == ["y"]
            with pytest.raises(ConnectionResetError, match="receive failed: RuntimeError") as it:
                await pair.receive()
            assert it.value.__cause__ is None


class TestWriting:
    @pytest.mark.parametrize(
        ("item", "event"),
        [
            (Response(ACCEPT), {"type": "websocket.accept", "subprotocol": "a"}),
            (Message("é"), {"type": "websocket.send", "text": "é"}),
            (Message(b"b"), {"type": "websocket.send", "bytes": b"b"}),
            (make_beat(1, "beat"), {"type": "websocket.send", "text": "beat"}),
            (make_beat(1, None), None),
            (Reply(b"pong"), None),
        ],
    )
    async def test_each_item_is_an_event(
        self, item: Any, event: object, autojump_clock: MockClock
    ) -> None:
        async with paired(subprotocol="a") as pair:
            for _ in range(2):
                assert pair.transport.write_nowait(item) == len(item.frame)
                await wait_all_tasks_blocked()
            outbox = Outbox(item)
            while outbox.size:
                await pair.transport.drain(outbox)
            assert pair.played.sent == ([] if event is None else [event] * 3)

    @pytest.mark.parametrize(("code", "sent"), [(4000, 4000), (1005, 1000)])
    async def test_a_close_is_one(self, code: int, sent: int, autojump_clock: MockClock) -> None:
        async with paired() as pair:
            pair.transport.write_nowait(pair.transport.close_frame(code, "why"))
            pair.transport.abort()  # sends no other one
            await wait_all_tasks_blocked()
            assert pair.played.sent == [{"type": "websocket.close", "code": sent, "reason": "why"}]

    async def test_one_is_sent_at_a_time_and_in_order(self, autojump_clock: MockClock) -> None:
        async with paired() as pair:
            pair.played.stuck = trio.Event()
            assert pair.transport.write_nowait(Message("1"))
            assert pair.transport.write_nowait(Message("2")) == 0
            outbox = Outbox(Message("2"))
            outbox.append(make_beat(1, None))
            outbox.append(Message("3"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pair.transport.drain, outbox)
                await wait_all_tasks_blocked()
                pair.played.stuck.set()
            assert [event["text"] for event in pair.played.sent] == list("123")
            assert not outbox.size

    async def test_what_is_being_sent_outlives_a_cancelled_drain(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair:
            pair.played.stuck = trio.Event()
            outbox = Outbox(Message("1"))
            outbox.append(Message("2"))
            with trio.move_on_after(1):
                await pair.transport.drain(outbox)
            pair.played.stuck.set()
            await wait_all_tasks_blocked()
            assert [event["text"] for event in pair.played.sent] == ["1"]
            await pair.transport.drain(outbox)
            assert [event["text"] for event in pair.played.sent] == ["1", "2"]

    async def test_a_send_that_fails_is_told_without_its_text(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair:

            async def send(event: Any) -> None:
                raise RuntimeError("secret")

            pair.transport._send = send
            pair.transport.write_nowait(Message("1"))
            await wait_all_tasks_blocked()
            raised = []
            calls: list[Callable[[], object]] = [lambda: pair.transport.write_nowait(Message("2"))]
            for call in calls * 2:
                with pytest.raises(
                    ConnectionResetError, match=r"^send failed: RuntimeError$"
                ) as it:
                    call()
                raised.append(it.value)
            assert raised[0] is not raised[1]
            with pytest.raises(ConnectionResetError, match="send failed"):
                await pair.transport.drain(Outbox(Message("2")))
            with pytest.raises(ConnectionResetError, match="send failed"):
                await pair.transport.finish(answered=False)

    async def test_an_abort_ends_the_stream_behind_what_is_sent(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair:
            pair.played.stuck = trio.Event()
            pair.transport.write_nowait(Message("1"))
            await wait_all_tasks_blocked()
            for _ in range(2):
                pair.transport.abort()
            pair.played.stuck.set()
            await wait_all_tasks_blocked()
            last = {"type": "websocket.close", "code": 1001, "reason": ""}
            assert pair.played.sent[1:] == [last]
            with pytest.raises(ConnectionAbortedError):
                pair.transport.write_nowait(Message("2"))
            with pytest.raises(ConnectionAbortedError):
                await pair.transport.wait_readable()

    async def test_after_the_application_nothing_is_sent(self, autojump_clock: MockClock) -> None:
        async with paired() as pair:
            pass
        with pytest.raises(ConnectionAbortedError, match="has ended"):
            pair.transport.write_nowait(Message("1"))
        pair.transport.abort()
        await pair.transport.leave(5, silent=5)


class TestSilence:
    async def test_is_excused_while_a_beat_waits_and_others_are_taken(
        self, autojump_clock: MockClock
    ) -> None:
        async with paired() as pair:
            transport, message = pair.transport, Message("x" * 100)
            outbox = Outbox(message)
            outbox.append(message)
            assert not transport.stirring(outbox.size)
            outbox.append(make_beat(1, "beat"))
            await transport.drain(outbox)
            assert not transport.stirring(0)  # all was sent, with the beat
            transport.rest(heard=True)
            assert transport.write_nowait(message)
            assert not transport.stirring(100)
            await wait_all_tasks_blocked()
            assert transport.stirring(100)  # of what is before the beat, some was taken
            assert not transport.stirring(100)

    async def test_always_without_a_text(self, autojump_clock: MockClock) -> None:
        async with paired(answered=False) as pair:
            assert pair.transport.stirring(0)
            assert not pair.transport.unreachable(0)

    async def test_counts_while_the_reader_is_away(self, autojump_clock: MockClock) -> None:
        async with paired() as pair:
            await pair.played.says("x")
            await pair.receive()
            for _ in range(3):
                assert not pair.transport.unreachable(10)
                await trio.sleep(6)
                await pair.played.says("y")
                await wait_all_tasks_blocked()
                assert not pair.transport.unreachable(10)
            await trio.sleep(11)
            assert pair.transport.unreachable(10)
            pair.transport.rest(heard=False, listening=True)
            assert not pair.transport.unreachable(10)


def test_a_beat_is_what_it_was() -> None:
    # `ASGITransport` matches its fields by their places.
    assert BeatFrames._fields[:2] == ("number", "message")
