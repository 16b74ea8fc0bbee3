"""The access rights that the documentation gives are enough, and none is too much."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis

from tests.support.broker_port import port
from tests.support.documents import document, examples
from trio_beat import BackendError, Message, open_hub

__all__ = ["port"]  # a fixture

pytestmark = pytest.mark.real

_EXAMPLE, _ = examples("redis", "text")
_KEYS = ("broadcast:news", "broadcast:weather")
_COMMANDS = re.findall(r"\+(\w+)", _EXAMPLE)


class _Listener:
    def deliver_nowait(self, message: Message) -> None:
        pass

    def gap_nowait(self) -> None:
        pass


def _ask(broker: redis.Redis, *words: str) -> None:
    broker.execute_command(*words)  # type: ignore[no-untyped-call]


@pytest.fixture
def admin(port: int) -> Iterator[redis.Redis]:
    """The broker, with the user of the example and nothing in its log of refusals."""
    with redis.Redis(port=port) as broker:
        _ask(broker, *_EXAMPLE.split())
        _ask(broker, "ACL", "LOG", "RESET")
        yield broker
        _ask(broker, "ACL", "DELUSER", "trio-beat")


async def _use(port: int, prefix: str = "myapp") -> list[str]:
    """Do everything that a hub does; gives what was refused to it."""
    url = f"redis://trio-beat:s3cret@127.0.0.1:{port}/0?prefix={prefix}"
    refused = []
    for expire in (60, 0):
        async with open_hub(url, expire=expire) as hub:
            # Before it subscribes to the second it unsubscribes from the first.
            for key in _KEYS:
                try:
                    async with hub.subscribed(_Listener(), key):
                        pass
                except BackendError as exc:
                    refused.append(str(exc))
            try:
                await hub.publish(_KEYS[0], "hello")
            except BackendError as exc:
                refused.append(str(exc))
    return refused


def _log(admin: redis.Redis) -> set[str]:
    """What the broker refused to the user."""
    entries = admin.acl_log()
    return {str(entry["object"]).lower() for entry in entries if entry["username"] == "trio-beat"}


async def test_they_are_enough(port: int, admin: redis.Redis) -> None:
    assert "redis://trio-beat:s3cret@HOST:6379/0?prefix=myapp" in document("redis")
    assert await _use(port) == []
    assert _log(admin) == set()


@pytest.mark.parametrize("command", _COMMANDS)
async def test_each_command_is_needed(port: int, admin: redis.Redis, command: str) -> None:
    _ask(admin, "ACL", "SETUSER", "trio-beat", f"-{command}")
    await _use(port)
    assert _log(admin) == {command}


@pytest.mark.parametrize("missing", ["resetkeys", "resetchannels"])
async def test_keys_and_channels_have_rights_of_their_own(
    port: int, admin: redis.Redis, missing: str
) -> None:
    _ask(admin, "ACL", "SETUSER", "trio-beat", missing)
    refused = await _use(port)
    assert refused
    assert _log(admin) == {f"myapp:{key}" for key in _KEYS}


async def test_another_prefix_is_refused(port: int, admin: redis.Redis) -> None:
    assert len(await _use(port, prefix="yours")) == 6
    assert _log(admin) == {f"yours:{key}" for key in _KEYS}
