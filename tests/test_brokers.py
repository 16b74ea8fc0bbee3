"""The brokers that tests start: see `tests.support.broker` and `tests.support.sentinel`."""

from __future__ import annotations

import os
import socket
import ssl

import pytest
import trio
from trio.testing import MockClock

from tests.support.broker import HOST, Broker, Kind, StartError, open_broker, reserved_port
from tests.support.resp import ReplyError, decode, encode, open_client
from tests.support.sentinel import open_sentinels

pytestmark = pytest.mark.real


def is_there(pid: int) -> bool:
    """Whether there is such a process, be it one that has ended and is not reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("kind", "tls"), [("valkey", False), ("redis", False), ("redis", True)])
async def test_a_broker_answers_and_ends(kind: Kind, tls: bool) -> None:
    async with open_broker(kind, tls=tls) as broker:
        assert await broker.ask("SET", "a", b"\r\n\xff") == b"OK"
        assert await broker.ask("GET", "a") == b"\r\n\xff"
        assert await broker.ask("MGET", "a", "b") == [b"\r\n\xff", None]
        with pytest.raises(ReplyError, match="WRONGTYPE"):
            await broker.ask("SADD", "a", 1)
        assert broker.url == f"{kind}{'s' if tls else ''}://127.0.0.1:{broker.port}"
    assert not is_there(broker.pid)


async def test_it_forgets_when_it_is_killed_and_keeps_its_port() -> None:
    async with open_broker() as broker:
        await broker.ask("SET", "a", "b")
        first, port = broker.pid, broker.port
        broker.kill()
        assert not is_there(first)
        with pytest.raises(OSError, match="all attempts to connect"):
            await broker.ask("PING")
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((HOST, port))
        await broker.restart()
        assert (broker.pid != first, broker.port) == (True, port)
        assert await broker.ask("GET", "a") is None


async def test_a_stopped_broker_accepts_and_is_silent_until_it_goes_on() -> None:
    async with open_broker() as broker:
        broker.stop()
        with trio.move_on_after(0.1) as waiting:
            async with open_client(broker.host, broker.port, None) as client:
                await client.ask("PING")
        assert waiting.cancelled_caught
        broker.go_on()
        assert await broker.ask("PING") == b"PONG"


async def test_a_stopped_broker_ends_with_its_context() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_broker() as broker:
            broker.stop()
            raise ZeroDivisionError
    assert not is_there(broker.pid)


async def test_clients_are_listed_and_killed_by_name() -> None:
    async with open_broker() as broker:
        async with (
            open_client(broker.host, broker.port, None) as one,
            open_client(broker.host, broker.port, None) as two,
        ):
            await one.ask("CLIENT", "SETNAME", "one")
            await two.ask("CLIENT", "SETNAME", "two")
            assert {it["name"] for it in await broker.clients()} == {"one", "two"}
            assert await broker.kill_clients("one") == 1
            with pytest.raises(ConnectionError):
                await one.ask("PING")
            assert await two.ask("PING") == b"PONG"
            assert [it["name"] for it in await broker.clients()] == ["two"]


async def test_the_default_user_may_be_off() -> None:
    config = ["user default off", "user bob on >s3cret ~* +@all", "maxclients 20"]
    async with open_broker(config=config) as broker:
        async with open_client(broker.host, broker.port, None) as client:
            with pytest.raises(ReplyError, match="NOAUTH"):
                await client.ask("PING")
            assert await client.ask("AUTH", "bob", "s3cret") == b"OK"
        assert await broker.ask("CONFIG", "GET", "maxclients") == [b"maxclients", b"20"]


async def test_tls_asks_for_a_certificate_and_is_for_its_address() -> None:
    async with open_broker("redis", tls=True) as broker:
        assert broker.certificates is not None
        stranger = ssl.create_default_context(cafile=broker.certificates.ca)
        with pytest.raises(ConnectionError):
            async with open_client(broker.host, broker.port, stranger) as client:
                await client.ask("PING")
        known = broker.certificates.client_context()
        with pytest.raises(ConnectionError) as caught:
            async with open_client("localhost", broker.port, known) as client:
                await client.ask("PING")
        broken = caught.value.__cause__
        assert broken is not None
        assert isinstance(broken.__cause__, ssl.SSLCertVerificationError)


async def test_a_broker_that_does_not_start_says_why() -> None:
    with pytest.raises(StartError, match="does not answer"):
        async with open_broker(config=["no-such-option 1"]):
            pytest.fail("it started")


async def test_a_virtual_clock_does_not_hurry_it(autojump_clock: MockClock) -> None:
    async with open_broker() as broker:
        await broker.restart()
        assert await broker.ask("PING") == b"PONG"


def test_a_reserved_port_is_for_one() -> None:
    with reserved_port() as port:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind((HOST, port))
        with socket.create_server((HOST, port)) as listener:  # it sets SO_REUSEADDR
            assert listener.getsockname()[1] == port


async def test_one_broker_is_shared(valkey: Broker, prefix: str) -> None:
    assert await valkey.ask("SET", f"{prefix}:a", "b") == b"OK"


def test_replies_are_decoded_byte_by_byte() -> None:
    data = b"*4\r\n:-1\r\n$4\r\na\r\nb\r\n*2\r\n+OK\r\n$-1\r\n*-1\r\n"
    for size in range(len(data)):
        with pytest.raises(IndexError):
            decode(data[:size])
    assert decode(data + b"+more") == ([-1, b"a\r\nb", [b"OK", None], None], len(data))
    assert decode(encode("GET", b"\xff", 1)) == ([b"GET", b"\xff", b"1"], 27)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_sentinels_fail_over_while_the_old_primary_lives(kind: Kind) -> None:
    async with open_sentinels("news", kind) as sentinels:
        first, second = sentinels.servers
        assert await sentinels.primary() is first
        assert sentinels.url.startswith(f"{kind}+sentinel://127.0.0.1:")
        assert sentinels.url.endswith(f":{sentinels.sentinels[2].port}/news/0")
        await first.ask("SET", "a", "b")
        assert await sentinels.failover() is first
        assert (await first.ask("ROLE"))[0] == b"master"
        assert await sentinels.promoted(first) is second
        assert await second.ask("GET", "a") == b"b"
        await sentinels.settle()
        assert (await first.ask("ROLE"))[0] == b"slave"
        processes = [*sentinels.servers, *sentinels.sentinels]
    assert [is_there(process.pid) for process in processes] == [False] * 5


@pytest.mark.slow
async def test_sentinels_fail_over_when_the_primary_is_killed() -> None:
    async with open_sentinels() as sentinels:
        first, second = sentinels.servers
        assert await sentinels.kill_primary() is first
        assert await sentinels.promoted(first) is second
        assert await sentinels.primary() is second
        await first.restart()
        await sentinels.settle()
        assert (await first.ask("ROLE"))[0] == b"slave"
