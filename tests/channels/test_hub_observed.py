"""What an observer sees of a hub equals what the hub counts."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from tests.support.hub import reached
from tests.support.observing import Broken, Tally, failed_calls
from trio_beat import Observer, open_hub
from trio_beat.testing import open_pairs

TARGET = "/ws/news?subscribe-broadcast&publish-broadcast&echo"


@pytest.mark.parametrize("observer", [None, Tally(), Broken()], ids=["none", "tally", "broken"])
async def test_an_observer_hears_what_the_hub_counts(
    observer: Observer | None, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_hub(observer=observer) as hub, open_pairs(hub=hub) as pairs:
        peers = [await pairs.connect(TARGET) for _ in range(3)]
        await peers[0].send("hello")
        for peer in peers:
            assert await peer.receive() == "hello"
        assert await reached(hub, "broadcast:other", b"x") == 0
        assert await reached(hub, "broadcast:news", "last") == 3
        for peer in peers:
            assert await peer.receive() == "last"
        assert hub.statistics()[2:4] == (3, 6)
    assert failed_calls(caplog.records) == (
        {"published", "delivered"} if isinstance(observer, Broken) else set()
    )
    if isinstance(observer, Tally):
        assert observer.publications == {"broadcast:news": 2, "broadcast:other": 1}
        assert observer.deliveries == {"broadcast:news": 6}


@pytest.mark.parametrize("message", ["\ud800", None, 3, {}, ["x"]])
async def test_a_message_that_cannot_be_published_is_not_told(message: Any) -> None:
    tally = Tally()
    async with open_hub(observer=tally) as hub:
        with pytest.raises((ValueError, TypeError), match=r"^message (is|has) "):
            await hub.publish("news", message)
        assert hub.statistics().published == 0
    assert tally.publications == {}


def test_what_is_no_observer_is_rejected() -> None:
    with pytest.raises(TypeError, match=r"^observer is 3; it must be an Observer, or None$"):
        open_hub(observer=3)  # type: ignore[arg-type]
