"""A hub against a model of it, whatever is done in whatever order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.hub import AskedBackend, Listener
from trio_beat import BackendError, BackendLost, open_hub

CHANNELS = ("a", "b", "c")
WHO = 4

who = st.integers(0, WHO - 1)
channel = st.sampled_from(CHANNELS)
step = st.one_of(
    st.tuples(st.just("join"), who, channel),
    st.tuples(st.just("join twice"), who, channel),
    st.tuples(st.just("leave"), who, channel),
    st.tuples(st.just("publish"), who, channel),
    st.tuples(st.just("broker"), st.just(0), channel),
    st.tuples(st.just("outage"), st.just(0), channel),
    st.tuples(st.just("lose"), st.just(0), channel),
    st.tuples(st.just("refuse"), st.just(0), channel),
)


class Model:
    """What a hub has to do, step by step."""

    def __init__(self) -> None:
        #: Each as often as it has subscribed.
        self.joined: dict[str, Counter[int]] = {channel: Counter() for channel in CHANNELS}
        self.last: dict[str, str] = {}
        self.heard: list[list[str]] = [[] for _ in range(WHO)]
        #: The broker fails; it is away; what it refuses to subscribe.
        self.failing = self.away = False
        self.refused: set[str] = set()
        #: Those that were heard, and are refused since they were lost.
        self.silent: set[str] = set()
        #: Those of them that somebody asked for while the broker was away.
        self.asked: set[str] = set()
        #: How often each was told that its messages may be lost.
        self.gaps: Counter[int] = Counter()

    def join(self, who: int, channel: str) -> bool:
        if self.away:
            self.asked |= {channel} & self.silent
        if self.failing or self.away:
            return False
        heard = self.joined[channel] and channel not in self.silent
        if channel in self.refused and not heard:
            return False
        self.silent.discard(channel)
        self.joined[channel][who] += 1
        if channel in self.last and self.joined[channel][who] == 1:
            self.heard[who].append(self.last[channel])
        return True

    def lose(self, channel: str) -> None:
        """Subscribe a channel again; where that is refused, its subscribers are told."""
        if channel in self.silent or not self.joined[channel]:
            if channel in self.asked and not (self.failing or channel in self.refused):
                self.silent.discard(channel)
            self.asked.discard(channel)
            return
        if self.failing or channel in self.refused:
            self.gaps.update(self.joined[channel].keys())
            self.silent.add(channel)

    def leave(self, who: int, channel: str) -> None:
        self.joined[channel] -= Counter([who])
        if not self.joined[channel]:
            self.silent.discard(channel)
            self.asked.discard(channel)

    def publish(self, who: int, channel: str, text: str) -> None:
        if not (self.failing or self.away):
            self.last[channel] = text
            if channel in self.silent:
                return
            for other in self.joined[channel].keys() - {who}:
                self.heard[other].append(text)


async def _play(steps: list[tuple[str, int, str]]) -> None:
    backend, model = AskedBackend(), Model()
    listeners = [Listener() for _ in range(WHO)]
    lost = BackendLost.KEEP
    async with open_hub(backend, backend_lost=lost, backend_grace=0) as hub:
        for number, (what, who, channel) in enumerate(steps):
            listener = listeners[who]
            if what in ("join", "join twice"):
                channels = [channel] * (1 + (what == "join twice"))
                joined = await _succeeds(partial(hub.subscribe, listener, channels))
                assert [joined] * len(channels) == [model.join(who, name) for name in channels]
            elif what == "leave":
                hub.unsubscribe(listener, [channel])
                model.leave(who, channel)
            elif what == "publish":
                publish = partial(hub.publish, channel, f"{number}", sender=listener)
                assert await _succeeds(publish) == (not (model.failing or model.away))
                model.publish(who, channel, f"{number}")
            elif what == "broker":
                backend.failing = model.failing = not model.failing
            elif what == "outage" and not model.away:
                backend.go_away()
                model.away = True
            elif what == "outage":
                backend.come_back()
                model.away = False
                for name in CHANNELS:
                    model.lose(name)
            elif what == "lose" and channel in backend.subscribed:
                backend.lose(channel)
                model.lose(channel)
            elif what == "refuse":
                backend.refused ^= {channel}
                model.refused ^= {channel}
            # Gaps are told one after the other, and not to those that leave before.
            await trio.sleep(1)
            listened = [subscribers for subscribers in model.joined.values() if subscribers]
            assert hub.statistics()[:2] == (len(listened), sum(map(len, listened)))
            heard = {name for name in CHANNELS if model.joined[name]} - model.silent
            assert backend.subscribed == (set() if model.away else heard)
        await trio.sleep(1)
    assert [listener.texts for listener in listeners] == model.heard
    told = [len(listener.gaps) for listener in listeners]
    assert [bool(number) for number in told] == [bool(model.gaps[who]) for who in range(WHO)]
    assert all(number <= model.gaps[who] for who, number in enumerate(told))


async def _succeeds(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        await call()
    except BackendError:
        return False
    return True


@settings(deadline=None)
@given(st.lists(step, max_size=40))
def test_one_thing_after_the_other(steps: list[tuple[str, int, str]]) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(_play, steps, clock=clock)


async def _play_at_once(steps: list[tuple[str, int, str]]) -> None:
    """Nothing waits for what was begun before it; what must hold in the end is less."""
    backend = AskedBackend()
    listeners = [Listener() for _ in range(WHO)]
    joined: Counter[tuple[int, str]] = Counter()
    sent: dict[str, int] = {}
    async with open_hub(backend) as hub:
        async with trio.open_nursery() as nursery:
            for number, (what, who, channel) in enumerate(steps):
                if what in ("join", "join twice"):
                    channels = [channel] * (1 + (what == "join twice"))
                    joined[who, channel] += len(channels)
                    await hub.subscribe(listeners[who], channels)
                elif what == "leave":
                    joined -= Counter([(who, channel)])
                    hub.unsubscribe(listeners[who], [channel])
                elif what == "publish":
                    sent[f"{channel}{number}"] = who
                    message = f"{channel}{number}"
                    publish = partial(hub.publish, channel, message, sender=listeners[who])
                    nursery.start_soon(publish)
        await trio.testing.wait_all_tasks_blocked()
        assert hub.statistics().subscriptions == len(joined)
        assert backend.subscribed == {channel for _, channel in joined}
        asked = {name: [ask for ask in backend.asked if ask[1:] == name] for name in CHANNELS}
        for name, asks in asked.items():
            in_turns = [ask[0] for ask in asks if ask[0] in "+-"]
            assert in_turns == ["+-"[index % 2] for index in range(len(in_turns))], name
        for name in CHANNELS:
            await hub.publish(name, f"{name}end")
    for index, listener in enumerate(listeners):
        ends = {text[0] for text in listener.texts if text.endswith("end")}
        assert ends == {channel for who, channel in joined if who == index}
        assert set(listener.texts) <= {*sent, *(f"{name}end" for name in CHANNELS)}


@settings(deadline=None)
@given(st.lists(step, max_size=40))
def test_all_at_once(steps: list[tuple[str, int, str]]) -> None:
    trio.run(_play_at_once, steps)
