from __future__ import annotations

import trio
import trio.testing
from trio.testing import MockClock

from trio_beat import BackendError
from trio_beat._channels.availability import Availability


async def waited(availability: Availability) -> float | None:
    """Seconds that were waited for the backend; None: in vain."""
    begun = trio.current_time()
    try:
        await availability.wait()
    except BackendError:
        return None
    return trio.current_time() - begun


async def test_each_outage_has_a_grace_time_of_its_own(autojump_clock: MockClock) -> None:
    availability, expired = Availability(10), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(availability.run, lambda: expired.append(trio.current_time()))
        assert await waited(availability) == 0
        for _ in range(3):
            availability.away(BackendError("no server"))
            nursery.start_soon(_back_after, 9, availability)
            assert await waited(availability) == 9
        assert expired == []
        availability.away(BackendError("no server"))
        begun = trio.current_time()
        assert await waited(availability) is None
        assert expired == [begun + 10]
        assert await waited(availability) is None
        assert trio.current_time() == begun + 10
        with trio.move_on_after(100) as scope:
            await availability.returned()
        assert scope.cancelled_caught
        availability.back()
        await availability.returned()
        assert await waited(availability) == 0
        assert availability.outages == 4
        nursery.cancel_scope.cancel()


async def _back_after(seconds: float, availability: Availability) -> None:
    await trio.sleep(seconds)
    availability.back()


async def test_away_again_at_once(autojump_clock: MockClock) -> None:
    availability, expired = Availability(10), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(availability.run, lambda: expired.append(trio.current_time()))
        availability.away(BackendError("no server"))
        begun = trio.current_time()
        await trio.sleep(8)
        availability.back()
        availability.away(BackendError("no server, again"))
        # Who waits does so for the outage that there is.
        assert await waited(availability) is None
        assert expired == [begun + 18]
        nursery.cancel_scope.cancel()


async def test_no_grace(autojump_clock: MockClock) -> None:
    availability, expired = Availability(0), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(availability.run, lambda: expired.append(trio.current_time()))
        availability.away(BackendError("no server"))
        begun = trio.current_time()
        assert await waited(availability) is None
        assert expired == [begun]
        nursery.cancel_scope.cancel()
