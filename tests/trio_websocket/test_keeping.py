from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing
import trio_websocket
from trio_websocket import ConnectionClosed, WebSocketConnection
from websockets.frames import Frame, Opcode

from tests.support.kept import (
    BEATS,
    BytewiseStream,
    MemoryStream,
    answer,
    in_memory,
    kept,
    over_streams,
    unix_pair,
)
from tests.support.peer import HANDSHAKE, Peer
from trio_beat import Closed, EndReason, Heartbeat
from trio_beat.trio_websocket import keep_alive, open_service, private

needs_tcp_info = pytest.mark.needs_tcp_info


@pytest.mark.parametrize("tls", [False, True])
async def test_a_silent_peer_is_dead_in_its_time(
    tls: bool, patient_clock: trio.testing.MockClock
) -> None:
    async with kept(tls=tls) as (one, peer):
        begin = trio.current_time()
        await one.over.wait()
        assert one.closed == Closed(EndReason.MISSED_BEATS, 1006, "2 in a row")
        # The first beat comes within one interval, and is not whole.
        assert one.at - begin <= BEATS.patience + 1
        with pytest.raises(ConnectionClosed):
            await one.ws.get_message()
        assert await peer.closed() is None


@pytest.mark.parametrize("tls", [False, True])
async def test_one_that_answers_lives(tls: bool, patient_clock: trio.testing.MockClock) -> None:
    async with kept(tls=tls) as (one, peer), trio.open_nursery() as nursery:
        nursery.start_soon(answer, peer)
        await trio.sleep(30)
        assert one.closed is None
        nursery.cancel_scope.cancel()


@needs_tcp_info
async def test_no_live_peer_dies_of_a_full_queue(patient_clock: trio.testing.MockClock) -> None:
    async with kept(queue=1) as (one, peer), trio.open_nursery() as nursery:
        for number in range(5):
            await peer.send_text(f"{number}")
        nursery.start_soon(answer, peer)
        await trio.sleep(60)  # the program takes nothing
        assert one.closed is None
        assert [await one.ws.get_message() for _ in range(5)] == ["0", "1", "2", "3", "4"]
        assert one.closed is None
        nursery.cancel_scope.cancel()


@needs_tcp_info
async def test_a_full_queue_hides_no_dead_peer(patient_clock: trio.testing.MockClock) -> None:
    # What it sent lies in trio-websocket, and the kernel holds nothing unread.
    async with kept(queue=1) as (one, peer):
        for number in range(2):
            await peer.send_text(f"{number}")
            await trio.sleep(0.1)
        begin = trio.current_time()
        await one.over.wait()
        assert one.closed == Closed(EndReason.MISSED_BEATS, 1006, "2 in a row")
        assert one.at - begin <= BEATS.patience + 1
        assert await one.ws.get_message() == "0"


async def test_unread_bytes_are_no_silence(patient_clock: trio.testing.MockClock) -> None:
    async with kept(queue=1) as (one, peer):
        for number in range(5):
            await peer.send_text(f"{number}" * 3000)  # more than it reads at a time
        await trio.sleep(60)
        assert one.closed is None
        for _ in range(5):
            await one.ws.get_message()
        await one.over.wait()
        assert one.closed is not None
        assert one.closed.by is EndReason.MISSED_BEATS


async def test_a_frame_that_trickles_in_proves_life(patient_clock: trio.testing.MockClock) -> None:
    async with kept() as (one, peer):
        data = Frame(Opcode.TEXT, b"x" * 80_000).serialize(mask=True)
        for begin in range(0, len(data), 8000):
            await peer.send(data[begin : begin + 8000])
            await trio.sleep(0.9)
        assert one.closed is None
        assert await one.ws.get_message() == "x" * 80_000


@pytest.mark.parametrize(
    ("end", "closed"),
    [
        (lambda peer: peer.send_close(4001, "bye"), (EndReason.PEER, 4001)),
        (lambda peer: peer.send_text("x" * 2**20 + "x"), (EndReason.TOO_BIG, 1009)),
        (lambda peer: peer.aclose(), (EndReason.LOST, 1006)),
        (lambda peer: peer.send(b"\x83\x80\0\0\0\0"), (EndReason.PROTOCOL_ERROR, 1002)),
    ],
    ids=["peer", "too-big", "cut", "wrong"],
)
async def test_it_ends_with_the_websocket(
    end: Callable[[Peer], Awaitable[None]],
    closed: tuple[EndReason, int],
    patient_clock: trio.testing.MockClock,
) -> None:
    async with kept(heartbeat=Heartbeat(10.0)) as (one, peer):
        with contextlib.suppress(trio.BrokenResourceError):
            await end(peer)
        with trio.fail_after(60):
            await one.over.wait()
        assert one.closed is not None
        assert one.closed[:2] == closed


async def test_it_ends_with_a_close_of_the_program(
    patient_clock: trio.testing.MockClock,
) -> None:
    async with kept(heartbeat=Heartbeat(10.0)) as (one, peer), trio.open_nursery() as nursery:
        nursery.start_soon(one.ws.aclose, 1000)
        await peer.closed()
        await peer.send_close(1000)
        with trio.fail_after(60):
            await one.over.wait()
        assert one.closed == Closed(EndReason.HANDLER, 1000, "")


async def test_a_text_heartbeat_is_sent(patient_clock: trio.testing.MockClock) -> None:
    async with kept(heartbeat=Heartbeat(1.0, 2, "--beat--")) as (one, peer):
        assert await peer.text() == "--beat--"
        await peer.send_text("--beat--")
        assert await one.ws.get_message() == "--beat--"


async def test_over_a_unix_socket(patient_clock: trio.testing.MockClock) -> None:
    async with over_streams(*unix_pair()) as (one, peer):
        with trio.move_on_after(20):
            await answer(peer)
        assert one.closed is None
        with trio.fail_after(60):
            await one.over.wait()
        assert one.closed == Closed(EndReason.MISSED_BEATS, 1006, "2 in a row")


async def test_without_a_kernel_pongs_prove_life(autojump_clock: trio.testing.MockClock) -> None:
    async with in_memory() as (one, peer):
        with trio.move_on_after(20):
            await answer(peer)
        assert one.closed is None
        await one.over.wait()
        assert one.closed == Closed(EndReason.MISSED_BEATS, 1006, "2 in a row")


async def test_without_a_kernel_nobody_is_judged_while_messages_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with in_memory() as (one, peer):
        for number in range(5):
            await peer.send_text(f"{number}")
        await trio.sleep(60)
        assert one.closed is None
        for _ in range(5):
            await one.ws.get_message()
        await one.over.wait()
        assert one.closed is not None
        assert one.closed.by is EndReason.MISSED_BEATS


async def test_without_the_names_nobody_is_judged(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_memory() as (one, _):
        for name, unknown in (("queue_is_full", None), ("ended", None), ("stream", None)):
            monkeypatch.setattr(private, name, lambda _, answer=unknown: answer)
        await trio.sleep(60)
        assert one.closed is None
        monkeypatch.undo()


async def test_without_what_sends_a_ping_each_is_waited_for(
    patient_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "ping", lambda _: None)
    async with kept(tls=True) as (one, peer):
        with trio.move_on_after(6):
            await answer(peer)
        assert one.closed is None
        with trio.fail_after(60):  # two PINGs, and more, are in flight
            await one.over.wait()
        assert one.closed == Closed(EndReason.MISSED_BEATS, 1006, "2 in a row")


async def test_without_a_kernel_no_pong_is_waited_for_in_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with in_memory() as (one, peer):
        kept_alive = len(vars(one.ws)["_pings"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(keep_alive, one.ws, heartbeat=Heartbeat(0.25, 100)))
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert len(vars(one.ws)["_pings"]) <= kept_alive + 1  # that of `one`
        await peer.aclose()


async def test_a_beat_that_is_cancelled_is_sent_to_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # Over a stream that takes a byte at a time: its peer must never find half a frame.
    ours, theirs = trio.testing.memory_stream_pair()
    bytewise = BytewiseStream(ours)
    with trio.fail_after(60):
        await cancel_in_a_beat(bytewise, theirs)


async def cancel_in_a_beat(bytewise: BytewiseStream, theirs: MemoryStream) -> None:
    async with trio.open_nursery() as nursery:
        await theirs.send_all(HANDSHAKE.format(target="/", headers="").encode())
        request = await trio_websocket.wrap_server_stream(nursery, bytewise)
        ws = await request.accept()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await theirs.receive_some(1)
        with trio.CancelScope() as scope:
            bytewise.sent = scope.cancel
            await keep_alive(ws, heartbeat=BEATS)
        await ws.send_message("whole")
        peer = Peer(theirs)
        frames = [await peer.frame(), await peer.frame()]
        assert [frame and frame.opcode for frame in frames] == [Opcode.PING, Opcode.TEXT]
        nursery.cancel_scope.cancel()


async def test_a_beat_when_the_program_closes(autojump_clock: trio.testing.MockClock) -> None:
    async def close(ws: WebSocketConnection, at: float) -> None:
        await trio.sleep_until(at)
        await ws.aclose()

    for _ in range(20):  # which of the two comes first is chance
        async with in_memory() as (one, peer), trio.open_nursery() as nursery:
            frame = await peer.frame()
            assert frame is not None
            nursery.start_soon(close, one.ws, trio.current_time() + BEATS.interval)
            await peer.pong(frame)
            await peer.closed()
            await peer.send_close(1000)
            await one.over.wait()
            assert one.closed == Closed(EndReason.HANDLER, 1000, "")


async def test_misuse_is_named() -> None:
    with pytest.raises(TypeError, match="ws is"):
        await keep_alive(object())  # type: ignore[arg-type]
    async with open_service() as service, trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with await trio.testing.open_stream_to_socket_listener(listener) as client:
            await client.send_all(HANDSHAKE.format(target="/", headers="").encode())
            stream = service.stream(await listener.accept())
            await listener.aclose()
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            with pytest.raises(ValueError, match=r"service\.keep_alive"):
                await keep_alive(await request.accept())
            nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)
