"""Where the broker is to be found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from .address import Address


class Place(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int


class Locator(ABC):
    """Finds the broker. It is used by one task, within `running`.

    Attributes:
        moves: whether it may name another place later; then a replica that is found there is no
            wrong configuration, but one that is not promoted yet.
    """

    moves: bool

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do what is done in the background while the context lasts."""
        yield

    @abstractmethod
    async def locate(self) -> Place:
        """Where the broker is now. Cancelled when it takes too long.

        Raises:
            Disconnected: it is not known.
            BackendError: it cannot be known with this configuration.
        """

    @abstractmethod
    async def wait_moved(self, place: Place) -> str:
        """Wait until the broker is no more where `locate` has said.

        Args:
            place: what `locate` returned last; that the broker has left it may be known already.

        Returns:
            What has happened, for people.
        """


class Fixed(Locator):
    """Names the place that the address names.

    Args:
        address: without Sentinel.
    """

    moves = False

    def __init__(self, address: Address) -> None:
        self._place = Place(*address.nodes[0])

    async def locate(self) -> Place:
        return self._place

    async def wait_moved(self, place: Place) -> str:
        await trio.sleep_forever()
