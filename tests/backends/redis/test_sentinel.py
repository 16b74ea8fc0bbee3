from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import trio_beat
from tests.support.broker import made_broker, open_broker
from tests.support.receivers import Recorder
from tests.support.sentinel import open_sentinels
from trio_beat import BackendError, Message
from trio_beat.backends.redis import RedisBackend
from trio_beat.backends.redis.address import Address
from trio_beat.backends.redis.errors import Disconnected, Misconfigured
from trio_beat.backends.redis.sentinel import Sentinels

pytestmark = [pytest.mark.real, pytest.mark.slow]

#: Seconds in which a failover of the tests is over by far.
LONG = 20.0


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Sentinels]:
    """What listens to the Sentinels of a URL."""
    sentinels = Sentinels(Address.from_text(url))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sentinels.run)
        yield sentinels
        nursery.cancel_scope.cancel()


async def test_finds_the_primary_and_hears_of_failovers() -> None:
    async with open_sentinels() as real, listening(real.url) as sentinels:
        one = await real.primary()
        [two] = [server for server in real.servers if server is not one]
        assert await sentinels.locate() == (one.host, one.port)
        with trio.move_on_after(1.5):  # longer than from one question to the next
            raise AssertionError(await sentinels.moved((one.host, one.port)))
        with trio.fail_after(LONG):
            assert await real.failover() is one
            assert await sentinels.moved((one.host, one.port)) == (two.host, two.port)
        assert await sentinels.locate() == (two.host, two.port)
        # Who was elsewhere all the time hears of it at once.
        assert await sentinels.moved((one.host, one.port)) == (two.host, two.port)


async def test_a_failover_with_the_old_primary_alive_is_heard_before_it_is_demoted() -> None:
    told = Recorder()
    async with open_sentinels() as real:
        backend = RedisBackend(real.url)
        async with backend.running(told):
            await backend.subscribe(["news"])
            old = await real.failover()
            await told.until(lambda: told.names() == ["lost", "away", "back"], LONG)
            new = await real.promoted(old)
            await backend.subscribe(["news"])
            await backend.publish("news", Message("x"), expire=10)
            assert await new.ask("GET", "news") == b"x"
            assert await old.clients("trio-beat") == []


async def test_a_failover_after_the_primary_was_killed() -> None:
    told = Recorder()
    async with open_sentinels() as real:
        backend = RedisBackend(real.url)
        async with backend.running(told):
            await backend.subscribe(["news"])
            old = await real.kill_primary()
            await told.until(lambda: told.names() == ["lost", "away"])
            with pytest.raises(BackendError):
                await backend.publish("news", Message("x"), expire=10)
            await told.until(lambda: told.names() == ["lost", "away", "back"], LONG)
            new = await real.promoted(old)
            await backend.publish("news", Message("y"), expire=10)
            assert await new.ask("GET", "news") == b"y"


async def test_sentinels_that_do_not_answer_are_passed_over() -> None:
    async with open_sentinels() as real:
        primary = await real.primary()
        real.sentinels[0].kill()
        real.sentinels[1].stop()
        async with listening(f"{real.url}?timeout=2") as sentinels:
            assert await sentinels.locate() == (primary.host, primary.port)


async def test_a_primary_that_the_sentinels_do_not_know() -> None:
    async with open_sentinels() as real:
        url = real.url.replace("/primary/", "/another/")
        async with listening(url) as sentinels:
            with pytest.raises(Misconfigured, match="knows no primary 'another'"):
                await sentinels.locate()
        with pytest.raises(BackendError, match="knows no primary 'another'"):
            async with RedisBackend(url).running(Recorder()):
                raise AssertionError


async def test_no_sentinel_at_all() -> None:
    with made_broker() as nothing:
        url = f"redis+sentinel://{nothing.host}:{nothing.port}/primary"
        async with listening(url) as sentinels:
            with pytest.raises(Disconnected, match="no Sentinel tells where 'primary' is"):
                await sentinels.locate()
        told = Recorder()
        async with RedisBackend(url).running(told):
            assert told.names() == ["away"]


async def test_a_broker_in_place_of_a_sentinel() -> None:
    async with open_broker() as broker:
        url = f"redis+sentinel://{broker.host}:{broker.port}/primary"
        async with listening(url) as sentinels:
            with pytest.raises(Misconfigured, match="SENTINEL"):
                await sentinels.locate()


async def test_a_sentinel_that_asks_for_a_password(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    async with open_sentinels(sentinel_config=["requirepass s3cret"]) as real:
        async with listening(real.url) as sentinels:
            with pytest.raises(Misconfigured, match="asks for a password"):
                await sentinels.locate()
        primary = real.servers[0]
        async with listening(f"{real.url}?sentinel_password_file={secret}") as sentinels:
            assert await sentinels.locate() == (primary.host, primary.port)


async def test_a_user_with_the_rights_that_the_documentation_names(tmp_path: Path) -> None:
    text = Path(trio_beat.__file__).with_name("docs").joinpath("redis.rst").read_text("utf-8")
    [line] = re.findall(r"ACL SETUSER (watcher .*\n.*)", text)
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    async with open_sentinels(sentinel_config=[f"user {' '.join(line.split())}"]) as real:
        query = f"?sentinel_username=watcher&sentinel_password_file={secret}"
        primary = real.servers[0]
        async with listening(real.url + query) as sentinels:
            assert await sentinels.locate() == (primary.host, primary.port)
            with trio.fail_after(LONG):
                await real.failover()
                await sentinels.moved((primary.host, primary.port))
