"""The backend in the documentation keeps the contract, and is found."""

from __future__ import annotations

import sys
import tomllib
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from urllib.parse import urlsplit

import pytest
import trio.testing

from tests.support.documents import document, examples
from trio_beat import Message, backends, open_hub


class _Subscriber:
    def __init__(self) -> None:
        self.received: list[Message] = []

    def deliver_nowait(self, message: Message) -> None:
        self.received.append(message)

    def gap_nowait(self) -> None:
        raise AssertionError("nothing is lost")


@pytest.fixture
def my_package() -> Iterator[types.ModuleType]:
    """The module that the documents call ``my_package``."""
    module = types.ModuleType("my_package")
    exec(examples("backends", "python")[0], module.__dict__)
    sys.modules["my_package"] = module
    yield module
    del sys.modules["my_package"]


async def test_the_backend_keeps_the_contract(
    my_package: types.ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    names: dict[str, object] = {}
    exec(examples("backends", "python")[1], names)
    test = names["test_it_keeps_the_contract"]
    assert callable(test)
    await test(autojump_clock)


async def test_the_backend_is_found_by_its_url(my_package: types.ModuleType) -> None:
    (example,) = examples("backends", "toml")
    project = tomllib.loads(example)["project"]
    ((name, value),) = project["entry-points"][backends.GROUP].items()
    point = EntryPoint(name, value, backends.GROUP)
    assert point.load() is my_package.BusBackend
    url = "bus://news"
    assert f'open_hub("{url}")' in document("backends")
    one, two = (open_hub(point.load().from_url(urlsplit(url))) for _ in range(2))
    subscriber = _Subscriber()
    async with one as publishing, two as subscribing:
        async with subscribing.subscribed(subscriber, "room:7"):
            await publishing.publish("room:7", "hello")
    assert [message.payload for message in subscriber.received] == ["hello"]
