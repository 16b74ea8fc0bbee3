"""Where the broker is to be found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import trio

from .address import Address

#: Host and port.
Place: TypeAlias = tuple[str, int]


class Locator(ABC):
    """Finds the broker, while `run` runs.

    Attributes:
        moves: whether it may name another place later; then a replica that is found there is no
            wrong configuration, but one that is not promoted yet.
    """

    moves: bool

    async def run(self) -> None:
        """Do what is to be done in the background, until cancelled."""
        await trio.lowlevel.checkpoint()

    @abstractmethod
    async def locate(self) -> Place:
        """Where the broker is now; waits for no longer than the timeout of the address.

        Raises:
            Disconnected: it is not known.
            BackendError: it cannot be known with this configuration.
        """

    @abstractmethod
    async def moved(self, here: Place) -> Place:
        """Wait until the broker is known to be elsewhere.

        Args:
            here: what `locate` returned; that the broker has left it may be known already.

        Returns:
            Where it is.
        """


class Fixed(Locator):
    """Names the place that the address names.

    Args:
        address: without Sentinel.
    """

    moves = False

    def __init__(self, address: Address) -> None:
        self._place = address.nodes[0]

    async def locate(self) -> Place:
        await trio.lowlevel.checkpoint()
        return self._place

    async def moved(self, here: Place) -> Place:
        await trio.sleep_forever()
        raise AssertionError("sleeping ends with an exception")
