from __future__ import annotations

import tracemalloc

import pytest
import trio
import trio.testing

from tests.support.backends import bytes_of
from tests.support.deflating import make_deflate, some_json
from tests.support.receivers import Recorder
from trio_beat import BackendError, Message
from trio_beat.backends import backend_from_url
from trio_beat.backends.memory import OVERHEAD, MemoryBackend, _Kept
from trio_beat.testing import check_backend


async def _last(backend: MemoryBackend, *channels: str) -> dict[str, str | bytes]:
    """The payloads of last messages, of channels that have one."""
    found: dict[str, str | bytes] = {}

    def told(channel: str, message: Message | None) -> None:
        if message is not None:
            found[channel] = message.payload

    assert await backend.last(channels, told) == {}
    return found


async def _kept(backend: MemoryBackend, *channels: str) -> list[str]:
    return list(await _last(backend, *channels))


#: What a message of nine bytes takes, in a channel of a short name.
SIZE = OVERHEAD + 1 + bytes_of(Message(b"123456789"))


async def test_keeps_the_contract(autojump_clock: trio.testing.MockClock) -> None:
    await check_backend(MemoryBackend)


async def test_expires_at_the_very_second(autojump_clock: trio.testing.MockClock) -> None:
    backend = MemoryBackend()
    async with backend.running(Recorder()):
        await backend.publish("news", Message(b"x"), expire=10)
        await trio.sleep(9.5)
        assert await _last(backend, "news") == {"news": b"x"}
        await trio.sleep(0.5)
        assert await _last(backend, "news") == {}


async def test_keeps_as_many_bytes_as_it_may() -> None:
    # Names count as well: an empty message of a long name takes memory too.
    backend = MemoryBackend(keep=2 * SIZE)
    async with backend.running(Recorder()):
        await backend.publish("a", Message(b"123456789"), expire=10)
        await backend.publish("b", Message(b"123456789"), expire=10)
        assert await _kept(backend, "a", "b") == ["a", "b"]
        await backend.publish("c", Message(b""), expire=10)
        assert await _kept(backend, "a", "b", "c") == ["b", "c"]
        await backend.publish("d" * 10, Message(b"123456789"), expire=10)
        assert await _kept(backend, "b", "c", "d" * 10) == ["c", "d" * 10]


async def test_the_message_that_was_set_longest_ago_goes_first() -> None:
    backend = MemoryBackend(keep=3 * SIZE)
    async with backend.running(Recorder()):
        for channel in ("a", "b", "c", "a"):
            await backend.publish(channel, Message(b"123456789"), expire=10)
        await backend.publish("d", Message(b"123456789"), expire=10)
        assert await _kept(backend, "a", "b", "c", "d") == ["a", "c", "d"]


async def test_a_replaced_message_gives_its_bytes_back() -> None:
    backend = MemoryBackend(keep=2 * SIZE)
    async with backend.running(Recorder()):
        await backend.publish("a", Message(b""), expire=10)
        for _ in range(10):
            await backend.publish("b", Message(b"123456789"), expire=10)
        assert await _kept(backend, "a", "b") == ["a", "b"]


async def test_an_expired_message_gives_its_bytes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    backend = MemoryBackend(keep=2 * SIZE)
    async with backend.running(Recorder()):
        await backend.publish("a", Message(b"123456789"), expire=10)
        await backend.publish("b", Message(b"123456789"), expire=1)
        await trio.sleep(1)
        assert await _kept(backend, "b") == []
        await backend.publish("c", Message(b"123456789"), expire=10)
        assert await _kept(backend, "a", "b", "c") == ["a", "c"]


async def test_a_message_that_is_larger_than_all_is_delivered_but_not_kept() -> None:
    told = Recorder()
    backend = MemoryBackend(keep=8)
    async with backend.running(told):
        await backend.subscribe(["a"])
        await backend.publish("a", Message(b"123456789"), expire=10)
        assert told.delivered == [(b"123456789", None)]
        assert await _kept(backend, "a") == []


async def test_remembers_nothing_of_unused_channels() -> None:
    backend = MemoryBackend()
    async with backend.running(Recorder()):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                await backend.subscribe([f"{number}"])
                for message in (Message(b"x"), Message(b"y")):
                    await backend.publish(f"{number}", message, expire=0)
                    with trio.CancelScope() as scope:
                        scope.cancel()
                        await backend.publish(f"{number}", message, expire=0)
                    nursery.start_soon(_publish, backend, f"{number}")
        for number in range(10):
            await backend.unsubscribe([f"{number}"])
            assert await _kept(backend, f"{number}") == []
        assert not backend._publishing
        assert not backend._subscribed
        assert not backend._kept._messages


async def _publish(backend: MemoryBackend, channel: str) -> None:
    await backend.publish(channel, Message(b"z"), expire=0)


async def test_channels_do_not_wait_for_each_other() -> None:
    stuck = trio.Event()

    class Stuck(Recorder):
        async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
            if channel == "slow":
                await stuck.wait()

    backend = MemoryBackend()
    async with backend.running(Stuck()), trio.open_nursery() as nursery:
        await backend.subscribe(["slow", "fast"])
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
    async with backend.running(Recorder()):
        most = keep - OVERHEAD - len("ab") - bytes_of(Message(b""))
        most -= Message(bytes(most)).size - len(Message(b"").frame) - most  # a longer head
        await backend.publish("ab", Message(bytes(most)), expire=10)
        assert await _kept(backend, "ab") == ["ab"]
        await backend.publish("ab", Message(bytes(most + 1)), expire=10)
        assert await _kept(backend, "ab") == []


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
    assert url.partition("?")[0] in str(caught.value)  # the query may hold secrets
    assert wrong in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("character", ["a", "\xe9", "\u20ac", "\U0001f409"])
@pytest.mark.parametrize("length", [0, 500, 2000])
async def test_counts_what_names_take_in_memory(character: str, length: int) -> None:
    # CPython keeps all characters of a text as wide as the widest.
    keep = 2**18
    backend = MemoryBackend(keep)
    async with backend.running(Recorder()):
        tracemalloc.start()
        try:
            for number in range(1000):
                name = "x" * length + f"{character}{number}"
                await backend.publish(name, Message(b"%017d" % number), expire=10)
            held, _ = tracemalloc.get_traced_memory()
            backend._kept = _Kept(keep)
            held -= tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert keep / 4 < held <= keep


def _filled(character: str | bytes, number: int, length: int) -> str | bytes:
    if isinstance(character, bytes):
        return b"x" * length + b"%016d" % number + character
    return "x" * length + f"{number:016}" + character


@pytest.mark.parametrize("framed", [False, True])
@pytest.mark.parametrize("character", [b"a", "a", "\xe9", "\u20ac", "\U0001f409"])
@pytest.mark.parametrize("length", [0, 500, 2000])
async def test_counts_what_messages_take_in_memory(
    character: str | bytes, length: int, framed: bool
) -> None:
    keep = 2**18
    backend = MemoryBackend(keep)
    async with backend.running(Recorder()):
        tracemalloc.start()
        try:
            for number in range(750):
                message = Message(_filled(character, number, length))
                assert not framed or message.frame
                await backend.publish(f"{number}", message, expire=10)
                del message
            held, _ = tracemalloc.get_traced_memory()
            backend._kept = _Kept(keep)
            held -= tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert keep / 4 < held <= keep


class _Compressing(Recorder):
    """Compresses what is delivered, as connections do."""

    def __init__(self) -> None:
        super().__init__()
        self.deflates = [make_deflate(window_bits=bits) for bits in (12, 15)]

    async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
        for deflate in self.deflates:
            deflate.of(message)


async def test_counts_what_messages_are_compressed_to() -> None:
    keep = 2**18
    backend = MemoryBackend(keep)
    async with backend.running(_Compressing()):
        channels = [f"{number}" for number in range(750)]
        await backend.subscribe(channels)
        tracemalloc.start()
        try:
            for number in range(750):
                message = Message(f"{number}" + some_json(2000))
                await backend.publish(channels[number], message, expire=10)
                del message
            held, _ = tracemalloc.get_traced_memory()
            backend._kept = _Kept(keep)
            held -= tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert keep / 4 < held <= keep


async def test_a_message_that_was_replaced_meanwhile_counts_no_more() -> None:
    backend = MemoryBackend()
    async with backend.running(_Compressing()):
        await backend.subscribe(["a"])
        await backend.publish("a", Message(some_json(1000)), expire=0)
        assert await _kept(backend, "a") == []
        await backend.publish("a", Message(some_json(1000)), expire=10)
        assert await _kept(backend, "a") == ["a"]
