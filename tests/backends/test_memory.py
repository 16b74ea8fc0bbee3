from __future__ import annotations

import tracemalloc

import pytest
import trio
import trio.testing

from tests.support.backends import bytes_of
from trio_beat import BackendError, Message
from trio_beat.backends import Last, backend_from_url
from trio_beat.backends.memory import OVERHEAD, MemoryBackend, _Kept
from trio_beat.testing import check_backend


async def _ignore(channel: str, message: Message) -> None:
    pass


async def _kept(backend: MemoryBackend, *channels: str) -> list[str]:
    return [channel for channel in channels if await backend.last(channel) is not None]


#: What a message of nine bytes takes, in a channel of a short name.
SIZE = OVERHEAD + 1 + bytes_of(Message(b"123456789"))


async def test_keeps_the_contract(autojump_clock: trio.testing.MockClock) -> None:
    await check_backend(MemoryBackend)


async def test_expires_at_the_very_second(autojump_clock: trio.testing.MockClock) -> None:
    backend = MemoryBackend()
    async with backend.running(_ignore):
        await backend.publish("news", Message(b"x"), expire=10)
        await trio.sleep(4)
        assert await backend.last("news") == Last(Message(b"x"), 6)
        await trio.sleep(5.5)
        assert await backend.last("news") == Last(Message(b"x"), 0.5)
        await trio.sleep(0.5)
        assert await backend.last("news") is None


async def test_keeps_as_many_bytes_as_it_may() -> None:
    # Names count as well: an empty message of a long name takes memory too.
    backend = MemoryBackend(keep=2 * SIZE)
    async with backend.running(_ignore):
        await backend.publish("a", Message(b"123456789"), expire=10)
        await backend.publish("b", Message(b"123456789"), expire=10)
        assert await _kept(backend, "a", "b") == ["a", "b"]
        await backend.publish("c", Message(b""), expire=10)
        assert await _kept(backend, "a", "b", "c") == ["b", "c"]
        await backend.publish("d" * 10, Message(b"123456789"), expire=10)
        assert await _kept(backend, "b", "c", "d" * 10) == ["c", "d" * 10]


async def test_the_message_that_was_set_longest_ago_goes_first() -> None:
    backend = MemoryBackend(keep=3 * SIZE)
    async with backend.running(_ignore):
        for channel in ("a", "b", "c", "a"):
            await backend.publish(channel, Message(b"123456789"), expire=10)
        await backend.publish("d", Message(b"123456789"), expire=10)
        assert await _kept(backend, "a", "b", "c", "d") == ["a", "c", "d"]


async def test_a_replaced_message_gives_its_bytes_back() -> None:
    backend = MemoryBackend(keep=2 * SIZE)
    async with backend.running(_ignore):
        await backend.publish("a", Message(b""), expire=10)
        for _ in range(10):
            await backend.publish("b", Message(b"123456789"), expire=10)
        assert await _kept(backend, "a", "b") == ["a", "b"]


async def test_an_expired_message_gives_its_bytes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    backend = MemoryBackend(keep=2 * SIZE)
    async with backend.running(_ignore):
        await backend.publish("a", Message(b"123456789"), expire=10)
        await backend.publish("b", Message(b"123456789"), expire=1)
        await trio.sleep(1)
        assert await backend.last("b") is None
        await backend.publish("c", Message(b"123456789"), expire=10)
        assert await _kept(backend, "a", "b", "c") == ["a", "c"]


async def test_a_message_that_is_larger_than_all_is_delivered_but_not_kept() -> None:
    heard = []

    async def deliver(channel: str, message: Message) -> None:
        heard.append(message)

    backend = MemoryBackend(keep=8)
    async with backend.running(deliver):
        await backend.subscribe("a")
        await backend.publish("a", Message(b"123456789"), expire=10)
        assert heard == [Message(b"123456789")]
        assert await backend.last("a") is None


async def test_remembers_nothing_of_unused_channels() -> None:
    backend = MemoryBackend()
    async with backend.running(_ignore):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                await backend.subscribe(f"{number}")
                for message in (Message(b"x"), Message(b"y")):
                    await backend.publish(f"{number}", message, expire=0)
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await backend.publish(f"{number}", message, expire=0)
                    nursery.start_soon(_publish, backend, f"{number}")
        for number in range(10):
            await backend.unsubscribe(f"{number}")
            assert await backend.last(f"{number}") is None
        assert not backend._publishing
        assert not backend._subscribed
        assert not backend._kept._messages


async def _publish(backend: MemoryBackend, channel: str) -> None:
    await backend.publish(channel, Message(b"z"), expire=0)


async def test_channels_do_not_wait_for_each_other() -> None:
    stuck = trio.Event()

    async def deliver(channel: str, message: Message) -> None:
        if channel == "slow":
            await stuck.wait()

    backend = MemoryBackend()
    async with backend.running(deliver), trio.open_nursery() as nursery:
        await backend.subscribe("slow")
        await backend.subscribe("fast")
        nursery.start_soon(_publish, backend, "slow")
        await trio.testing.wait_all_tasks_blocked()
        await backend.publish("fast", Message(b"x"), expire=0)
        stuck.set()


@pytest.mark.parametrize(
    ("url", "keep"),
    [("memory://", 64 * 2**20), ("memory:///", 64 * 2**20), ("memory://?keep=384", 384)],
)
async def test_is_made_from_a_url(url: str, keep: int) -> None:
    backend = backend_from_url(url)
    assert isinstance(backend, MemoryBackend)
    async with backend.running(_ignore):
        most = keep - OVERHEAD - len("ab") - bytes_of(Message(b""))
        most -= Message(bytes(most)).size - len(Message(b"").frame) - most  # a longer head
        await backend.publish("ab", Message(bytes(most)), expire=10)
        assert await backend.last("ab") is not None
        await backend.publish("ab", Message(bytes(most + 1)), expire=10)
        assert await backend.last("ab") is None


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("memory://localhost", "only memory://"),
        ("memory://:6379", "only memory://"),
        ("memory:///path", "only memory://"),
        ("memory://?keep=", "keep is ''"),
        ("memory://?keep=-1", "keep is '-1'"),
        ("memory://?keep=1k", "keep is '1k'"),
        ("memory://?kept=1", "unknown parameter 'kept', allowed is keep=BYTES"),
        ("memory://?keep=1&prefix", "unknown parameter 'prefix'"),
    ],
)
def test_refuses_a_url_and_names_what_is_wrong(url: str, wrong: str) -> None:
    with pytest.raises(BackendError, match="memory") as caught:
        backend_from_url(url)
    assert url in str(caught.value)
    assert wrong in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("character", ["a", "\xe9", "\u20ac", "\U0001f409"])
@pytest.mark.parametrize("length", [0, 500, 2000])
async def test_counts_what_names_take_in_memory(character: str, length: int) -> None:
    # CPython keeps all characters of a text as wide as the widest.
    keep = 2**18
    backend = MemoryBackend(keep)
    async with backend.running(_ignore):
        tracemalloc.start()
        try:
            for number in range(1000):
                name = "x" * length + f"{character}{number}"
                await backend.publish(name, Message(b"", b"%017d" % number), expire=10)
            held, _ = tracemalloc.get_traced_memory()
            backend._kept = _Kept(keep)
            held -= tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert keep / 4 < held <= keep


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("character", [b"a", "a", "\xe9", "\u20ac", "\U0001f409"])
@pytest.mark.parametrize("length", [0, 500, 2000])
async def test_counts_what_messages_take_in_memory(
    character: str | bytes, length: int, framed: bool
) -> None:
    keep = 2**18
    backend = MemoryBackend(keep)
    filling: str | bytes = b"x" * length if isinstance(character, bytes) else "x" * length
    async with backend.running(_ignore):
        tracemalloc.start()
        try:
            for number in range(750):
                message = Message(filling + character, b"%016d" % number)  # type: ignore[operator]
                assert not framed or message.frame
                await backend.publish(f"{number}", message, expire=10)
                del message
            held, _ = tracemalloc.get_traced_memory()
            backend._kept = _Kept(keep)
            held -= tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert keep / 4 < held <= keep
