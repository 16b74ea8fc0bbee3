"""The channels of a hub, kept in step with its backend.

1. A channel is held once for each subscription, beginning with those that still wait for it. The
   backend is asked to subscribe to the channels that are held, and to unsubscribe from those that
   are not, by one task alone (`Registry.run`) and many at a time.
2. A channel that the backend loses is asked for again. Those that were subscribed to it before are
   told of the gap (`gaps`): when it is heard again, or when the backend is away for longer than the
   grace time.
3. While the backend is away, what is tried leaves nothing behind: a channel that is held no more
   is forgotten at once, where the backend does not know it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import trio

from .._exceptions import BackendError
from .._text import public_channel
from ..backends import Backend
from .availability import Availability
from .gaps import Gaps
from .subscriptions import Channel


class Registry:
    """The channels of a hub.

    Args:
        backend: that delivers them.
        availability: whether it can be used.
        gaps: tells subscribers of gaps.
    """

    def __init__(self, backend: Backend, availability: Availability, gaps: Gaps) -> None:
        self._backend = backend
        self._availability = availability
        self._gaps = gaps
        self._channels: dict[str, Channel] = {}
        #: Those that the backend must be asked about.
        self._out_of_step: dict[str, None] = {}
        self._changed = trio.Event()
        #: Those that the backend is being asked to subscribe, or soon; not those lost meanwhile.
        self._subscribing: set[str] = set()

    def get(self, key: str) -> Channel | None:
        """A channel that is held."""
        return self._channels.get(key)

    def count(self) -> tuple[int, int]:
        """How many channels there are, and how many subscribers all of them have."""
        return len(self._channels), sum(len(it.subscribers) for it in self._channels.values())

    def clear(self) -> None:
        """Forget all."""
        self._channels.clear()

    def hold(self, key: str, times: int) -> Channel:
        """Hold a channel so many times more; returns it."""
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel()
            self._ask(key)
        elif channel.error is not None:  # it is held by those that heard it before
            channel.error = None
            self._ask(key)
        channel.holders += times
        return channel

    def release(self, key: str, channel: Channel) -> None:
        """Hold a channel once less."""
        channel.holders -= 1
        if channel.holders or self._channels.get(key) is not channel:
            return
        if channel.subscribed or key in self._subscribing:
            self._ask(key)
        else:  # the backend knows nothing of it, and may not be there to be asked
            del self._channels[key]
            self._out_of_step.pop(key, None)

    async def hear(self, key: str, channel: Channel) -> None:
        """Wait until the backend delivers a channel that is held.

        Raises:
            BackendError: it refuses to, or is away for longer than the grace time.
        """
        while not channel.subscribed:
            if channel.error is not None:
                shown = public_channel(key)
                raise BackendError(f"cannot subscribe to {shown!r}") from channel.error
            if self._availability.error is not None:
                await self._availability.wait()
            else:
                await channel.change()

    def lose(self, keys: Collection[str]) -> None:
        """The backend delivers channels no more, and messages of them may have been lost."""
        for key in keys:
            self._subscribing.discard(key)
            channel = self._channels.get(key)
            if channel is None or not channel.subscribed:
                continue
            channel.lose()
            if channel.holders:
                self._ask(key)
            else:
                del self._channels[key]

    def give_up(self) -> None:
        """The backend is away for longer than the grace time."""
        for channel in self._channels.values():
            channel.wake()
            if not channel.subscribed:
                self._gaps.tell(channel)

    def _ask(self, key: str) -> None:
        self._out_of_step[key] = None
        self._changed.set()

    async def run(self) -> None:
        """Keep in step, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self._availability.returned()
            wanted, gone = [], []
            asked, self._out_of_step = self._out_of_step, {}
            for key in asked:
                channel = self._channels.get(key)
                if channel is None:
                    continue
                if not channel.holders:
                    del self._channels[key]
                    if channel.subscribed:
                        gone.append(key)
                elif not channel.subscribed:
                    wanted.append(key)
            # Before the wait: one that is let go during it must be unsubscribed again.
            self._subscribing.update(wanted)
            if gone:
                await self._backend.unsubscribe(gone)
            if wanted:
                await self._subscribe(wanted)

    async def _subscribe(self, wanted: Collection[str]) -> None:
        outages = self._availability.outages
        refused: Mapping[str, BackendError] = {}
        try:
            refused = await self._backend.subscribe(wanted)
        except BackendError as exc:
            if self._availability.outages == outages and self._availability.error is None:
                # Without the traceback, which holds this frame, and that what it refuses.
                refused = dict.fromkeys(wanted, exc.with_traceback(None))
            else:
                self._subscribing.clear()
        for key in wanted:
            channel = self._channels.get(key)
            if channel is None:
                continue
            if key in refused:
                self._refused(key, channel, refused[key])
            elif key not in self._subscribing:  # it was lost meanwhile
                self._ask(key)
            else:
                self._heard(key, channel)
        self._subscribing.clear()

    def _refused(self, key: str, channel: Channel, error: BackendError) -> None:
        channel.error = error
        channel.wake()
        # Those that heard it before would hear nothing for ever.
        self._gaps.tell(channel, refused=True)
        if not channel.holders:
            del self._channels[key]

    def _heard(self, key: str, channel: Channel) -> None:
        channel.subscribed = True
        channel.error = None
        channel.wake()
        self._gaps.tell(channel)
        if not channel.holders:  # all have left meanwhile
            self._ask(key)
