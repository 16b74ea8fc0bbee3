"""What a hub's users see when it ends, and what its context raises."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

from tests.support.hub import AskedBackend, Listener
from tests.support.peer import HANDSHAKE
from tests.support.serving import deserted, serving, status
from trio_beat import BackendError, Hub, HubClosed, Message, open_hub
from trio_beat.backends import Receiver
from trio_beat.backends.memory import MemoryBackend

BOTH = "/ws/news?subscribe-broadcast&publish-broadcast"


class Tasks(MemoryBackend):
    """A backend with tasks of its own, as one has that speaks to a broker.

    Args:
        tasks: what they do.
    """

    def __init__(self, *tasks: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._tasks = tasks or (trio.sleep_forever,)

    @asynccontextmanager
    async def running(self, receiver: Receiver) -> AsyncIterator[None]:
        async with super().running(receiver), trio.open_nursery() as nursery:
            for task in self._tasks:
                nursery.start_soon(task)
            yield
            nursery.cancel_scope.cancel()


class Crash(Exception):  # noqa: N818 - a backend's
    pass


async def crash(after: float = 1.0) -> None:
    await trio.sleep(after)
    raise Crash


async def _leave(scope: trio.CancelScope) -> None:
    pass


async def _cancel(scope: trio.CancelScope) -> None:
    scope.cancel()
    await trio.lowlevel.checkpoint()


async def _raise(scope: trio.CancelScope) -> None:
    raise ZeroDivisionError


ENDS = [_leave, _cancel, _raise]
CALLS = {
    "+news": lambda hub: hub.subscribe(Listener(), ["other", "news"]),
    "?news": lambda hub: hub.subscribe(Listener(), ["news"]),
    "!news": lambda hub: hub.publish("news", "x"),
}


class TestWhoWaits:
    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize("what", CALLS)
    async def test_is_told_that_the_hub_has_ended(
        self,
        autojump_clock: trio.testing.MockClock,
        what: str,
        end: Callable[[trio.CancelScope], Awaitable[None]],
    ) -> None:
        backend = AskedBackend()
        backend.gates[what] = trio.Event()
        told = 0

        async def call(hub: Hub) -> None:
            nonlocal told
            with pytest.raises(HubClosed, match="the hub has ended"):
                await CALLS[what](hub)
            told += 1

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                try:
                    with trio.CancelScope() as scope:
                        async with open_hub(backend) as hub:
                            for _ in range(3):
                                nursery.start_soon(call, hub)
                            await trio.testing.wait_all_tasks_blocked()
                            await end(scope)
                except ZeroDivisionError:
                    pass
        assert told == 3
        assert hub.statistics()[:4] == (0, 0, 3 * (what == "!news"), 0)

    async def test_in_a_context_leaves_it(self, autojump_clock: trio.testing.MockClock) -> None:
        backend = AskedBackend()
        async with trio.open_nursery() as nursery:
            async with open_hub(backend) as hub:
                done = trio.Event()

                async def subscribed() -> None:
                    async with hub.subscribed(Listener(), "news"):
                        await done.wait()

                nursery.start_soon(subscribed)
                await trio.testing.wait_all_tasks_blocked()
            done.set()

    async def test_when_the_backend_crashes_is_told_too(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        class Failing(MemoryBackend):
            async def subscribe(self, channels: Collection[str]) -> Mapping[str, BackendError]:
                await trio.sleep(1)
                raise Crash

        async with trio.open_nursery() as nursery:
            with pytest.raises(Crash):
                async with open_hub(Failing()) as hub:
                    nursery.start_soon(_closed, partial(hub.subscribe, Listener(), ["news"]))
                    await trio.sleep_forever()


async def _closed(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(HubClosed):
        await call()


class TestWhoComesLater:
    async def test_is_told_that_the_hub_has_ended(self) -> None:
        async with open_hub() as hub:
            listener = Listener()
            await hub.subscribe(listener, ["news"])
        for _ in range(2):
            for call in (
                partial(hub.subscribe, listener, ["news"]),
                partial(hub.subscribe, listener, []),
                partial(hub.publish, "news", "x"),
                hub.subscribed(listener, "news").__aenter__,
            ):
                with pytest.raises(HubClosed, match="the hub has ended"):
                    await call()
        hub.unsubscribe(listener, ["news"])
        assert hub.statistics()[:4] == (0, 0, 0, 0)

    async def test_or_came_earlier(self) -> None:
        hub = Hub(MemoryBackend(), 0)
        for call in (
            partial(hub.subscribe, Listener(), ["news"]),
            partial(hub.publish, "news", "x"),
        ):
            with pytest.raises(HubClosed, match="the hub is not running yet"):
                await call()
        hub.unsubscribe(Listener(), ["news"])

    async def test_is_told_by_the_backend_as_well(self) -> None:
        backend = MemoryBackend()
        told: dict[str, Message | None] = {}
        for _ in range(2):
            for call in (
                partial(backend.publish, "news", Message("x"), expire=0),
                partial(backend.subscribe, ["news"]),
                partial(backend.last, ["news"], told.__setitem__),
            ):
                with pytest.raises(BackendError, match="the backend is not running"):
                    await call()
            await backend.unsubscribe(["news"])
            async with open_hub(backend):
                pass

    async def test_to_a_server_is_refused_with_503(
        self, patient_clock: trio.testing.MockClock
    ) -> None:
        async with open_hub() as hub:
            pass
        async with serving(hub=hub) as server:
            async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
                await stream.send_all(HANDSHAKE.format(target=BOTH, headers="").encode())
                answer = bytes(await stream.receive_some())
            assert status(answer) == 503
            assert b"backend is away, try again later" in answer
            await deserted(server)
            assert server.statistics().refused == {503: 1}


BACKENDS = [MemoryBackend, Tasks]


class TestContext:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize(
        "error",
        [ZeroDivisionError("mine"), ExceptionGroup("mine", [KeyError()]), KeyboardInterrupt()],
        ids=lambda error: type(error).__name__,
    )
    async def test_raises_what_its_block_raised(
        self, backend: type[MemoryBackend], error: BaseException
    ) -> None:
        with pytest.raises(type(error)) as caught:
            async with open_hub(backend()):
                raise error
        assert caught.value is error
        assert error.__cause__ is error.__context__ is None

    async def test_keeps_the_cause_of_what_its_block_raised(self) -> None:
        with pytest.raises(ZeroDivisionError) as caught:
            async with open_hub(Tasks()):
                raise ZeroDivisionError from KeyError()
        assert type(caught.value.__cause__) is KeyError

    async def test_raises_plainly_what_the_backend_raised(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        with pytest.raises(Crash):
            async with open_hub(Tasks(crash)):
                await trio.sleep_forever()
        assert trio.current_time() == 1

    async def test_raises_a_group_where_there_is_more_than_one(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        with pytest.RaisesGroup(Crash, ZeroDivisionError, flatten_subgroups=True):
            async with open_hub(Tasks(crash)):
                try:
                    await trio.sleep_forever()
                finally:
                    raise ZeroDivisionError

    async def test_that_is_cancelled_is_cancelled(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        with trio.move_on_after(1) as scope:
            with pytest.raises(trio.Cancelled):
                async with open_hub(Tasks(trio.sleep_forever, trio.sleep_forever)):
                    await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught

    async def test_that_is_cancelled_loses_nothing_that_it_raises(
        self, autojump_clock: trio.testing.MockClock
    ) -> None:
        with trio.move_on_after(1):
            with pytest.raises(ZeroDivisionError):
                async with open_hub(Tasks(trio.sleep_forever, trio.sleep_forever)):
                    try:
                        await trio.sleep_forever()
                    finally:
                        raise ZeroDivisionError

    async def test_raises_plainly_where_the_backend_cannot_start(self) -> None:
        class Dead(MemoryBackend):
            @asynccontextmanager
            async def running(self, receiver: Receiver) -> AsyncIterator[None]:
                async with trio.open_nursery():
                    raise BackendError("no broker")
                yield

        with pytest.raises(BackendError, match="no broker"):
            async with open_hub(Dead()):
                raise AssertionError

    def test_is_interrupted_at_the_keyboard_plainly(self) -> None:
        async def main() -> None:
            async with open_hub(Tasks()):
                signal.raise_signal(signal.SIGINT)
                await trio.sleep_forever()

        with pytest.raises(KeyboardInterrupt):
            trio.run(main)

    def test_can_be_interrupted_at_the_keyboard_at_any_time(self) -> None:
        """Whatever the interrupt meets, the nurseries inside are left in order."""
        for delay in range(1, 40):

            class Interrupting(trio.abc.Instrument):
                left = delay

                def before_task_step(self, task: trio.lowlevel.Task) -> None:
                    self.left -= 1
                    if self.left == 0:
                        signal.raise_signal(signal.SIGINT)

            async def main() -> None:
                async with open_hub(Tasks()) as hub:
                    async with hub.subscribed(Listener(), "news"):
                        await hub.publish("news", "x")

            with suppress(KeyboardInterrupt):
                trio.run(main, instruments=[Interrupting()])
