"""Where the primary is, as its Sentinels tell (https://redis.io/docs/latest/develop/reference/sentinel-clients).

1. Each Sentinel is listened to by a task of its own, for as long as it answers. It is asked when it
   has announced something, and every `POLL` seconds, since announcements can be lost.
2. Of several answers that of the newest configuration counts, by its epoch: the Sentinel that led a
   failover knows of it first, and others up to two seconds later. Nothing of former answers is
   remembered: an epoch may begin anew when Sentinels are set up again.
3. The old primary of a failover may live, and go on confirming what nobody hears. So `moved` tells
   as soon as one Sentinel says where the new one is, which is before the failover's end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import trio

from ..._exceptions import BackendError
from ..._plain import Plain
from .address import Address
from .connection import Connection
from .errors import Disconnected, Misconfigured, ReplyError
from .locating import Locator, Place
from .opening import open_connection, place, shake_hands
from .replies import Reply

#: Announced when the new primary is known, and when the failover has ended.
_ANNOUNCED: Final = (b"+promoted-slave", b"+switch-master")
#: Seconds between two questions.
POLL: Final = 1.0
#: Seconds for which the first answer waits for those of other Sentinels.
SETTLE: Final = 0.2
#: Seconds, at most, before a Sentinel that did not answer is tried again.
_PAUSE: Final = 1.0


class _Answer(NamedTuple):
    epoch: int
    place: Place


class Sentinels(Locator):
    """Finds a primary by its Sentinels.

    Args:
        address: says where they are, and how they call the primary.
    """

    moves = True

    def __init__(self, address: Address) -> None:
        assert address.service is not None
        self._address = address
        self._service = address.service
        #: Invariant: each has an answer, or a trouble, or has not been heard yet.
        self._answers: dict[Place, _Answer] = {}
        self._troubles: dict[Place, Disconnected | Misconfigured] = {}
        self._changed = trio.Event()

    async def run(self) -> None:
        """Listen to all Sentinels, until cancelled."""
        async with trio.open_nursery() as nursery:
            for node in self._address.nodes:
                nursery.start_soon(self._listen, node)

    async def locate(self) -> Place:
        with trio.move_on_after(self._address.timeout):
            while not self._answers and not self._all_failed():
                await self._changed.wait()
            with trio.move_on_after(SETTLE):
                while not self._all_heard():
                    await self._changed.wait()
        if (found := self._newest()) is not None:
            return found
        raise self._trouble()

    async def moved(self, here: Place) -> Place:
        while True:
            found = self._newest()
            if found is not None and found != here:
                return found
            await self._changed.wait()

    def _newest(self) -> Place | None:
        if not self._answers:
            return None
        return max(self._answers.values(), key=lambda answer: answer.epoch).place

    def _all_heard(self) -> bool:
        return len(self._answers) + len(self._troubles) == len(set(self._address.nodes))

    def _all_failed(self) -> bool:
        return len(self._troubles) == len(set(self._address.nodes))

    def _trouble(self) -> Disconnected | Misconfigured:
        texts = "; ".join(dict.fromkeys(str(error) for error in self._troubles.values()))
        limit = f"no Sentinel has answered within {self._address.timeout:g} s"
        text = f"no Sentinel tells where {self._service!r} is: {texts or limit}"
        if self._all_failed() and any(
            isinstance(error, Misconfigured) for error in self._troubles.values()
        ):
            return Misconfigured(text)
        return Disconnected(text)

    async def _listen(self, node: Place) -> None:
        while True:
            try:
                await self._ask_again_and_again(node)
            except (Disconnected, Misconfigured) as exc:
                self._heard(node, exc)
            except BackendError as exc:  # a file cannot be used, or the Sentinel refuses to tell
                self._heard(node, Misconfigured(f"{place(*node)}: {exc}"))
            await trio.sleep(_PAUSE * random.uniform(0.5, 1))  # noqa: S311 - nothing is secret

    async def _ask_again_and_again(self, node: Place) -> None:
        """Ask a Sentinel as long as it answers."""
        announced = trio.Event()

        def pushed(_: Sequence[Any]) -> None:
            announced.set()

        address = self._address
        password = address.read_sentinel_password()
        context = address.make_ssl_context()
        opened = open_connection(*node, context=context, timeout=address.timeout, pushed=pushed)
        async with Plain(opened) as connection:
            await shake_hands(
                connection,
                username=address.sentinel_username,
                password=password,
                client_name=address.client_name,
                database=None,
            )
            for error in (await connection.subscribe(_ANNOUNCED)).values():
                raise error
            while True:
                announced = trio.Event()
                self._heard(node, await self._ask(connection))
                with trio.move_on_after(POLL):
                    await announced.wait()

    async def _ask(self, connection: Connection) -> _Answer | Misconfigured:
        where, master = await connection.calls(
            [
                ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service),
                ("SENTINEL", "MASTER", self._service),
            ]
        )
        if where is None:
            return Misconfigured(f"{connection.name} knows no primary {self._service!r}")
        for reply in (where, master):
            if isinstance(reply, ReplyError):
                raise reply
        try:
            return _answer(where, master)
        except (KeyError, TypeError, ValueError) as exc:
            raise Misconfigured(f"{connection.name} does not answer as a Sentinel") from exc

    def _heard(self, node: Place, heard: _Answer | Disconnected | Misconfigured) -> None:
        self._answers.pop(node, None)
        self._troubles.pop(node, None)
        if isinstance(heard, _Answer):
            self._answers[node] = heard
        else:
            self._troubles[node] = heard
        self._changed.set()
        self._changed = trio.Event()


def _answer(where: Reply, master: Reply) -> _Answer:
    host, port = where
    return _Answer(int(master[b"config-epoch"]), (host.decode(), int(port)))
