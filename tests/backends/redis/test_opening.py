from __future__ import annotations

import socket
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.support.broker import Broker, made_broker, open_broker
from tests.support.played_broker import BrokerEnd, error, hello, mapping, reply
from trio_beat import BackendError
from trio_beat.backends.redis.connection import Connection
from trio_beat.backends.redis.errors import Disconnected, Misconfigured, NotPrimary
from trio_beat.backends.redis.opening import Greeting, open_connection, shake_hands

PASSWORD = "s3cret%/pass word"


async def shaken(
    connection: Connection,
    *,
    username: str | None = None,
    password: str | None = PASSWORD,
    database: int | None = 0,
) -> Greeting:
    return await shake_hands(
        connection,
        username=username,
        password=password,
        client_name="tests",
        database=database,
    )


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Connection, BrokerEnd]]:
    ours, theirs = trio.testing.memory_stream_pair()
    async with Connection(ours, name="broker:6379", timeout=5).running() as connection:
        yield connection, BrokerEnd(theirs)


def assert_no_secret(exc: BaseException) -> None:
    text = "".join(traceback.format_exception(exc))
    seen: list[BaseException | None] = [exc]
    while (last := seen[-1]) is not None:
        text += str(last) + repr(last) + repr(vars(last))
        seen.append(last.__cause__ or last.__context__)
    assert "s3cret" not in text


async def answered(*parts: bytes, database: int | None = 0) -> Greeting | BackendError:
    """What comes of a handshake with certain answers."""
    async with opened() as (connection, broker), trio.open_nursery() as nursery:

        async def answer() -> None:
            await broker.command()
            await broker.send(*parts)
            await broker.stream.send_stream.aclose()

        nursery.start_soon(answer)
        try:
            return await shaken(connection, database=database)
        except BackendError as exc:
            assert_no_secret(exc)
            return exc
    raise AssertionError


async def test_everything_is_said_at_once() -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:
        nursery.start_soon(partial(shaken, connection, username="bob", database=3))
        await trio.testing.wait_all_tasks_blocked()
        name, *others = await broker.command()
        assert (name, others[:3]) == (b"HELLO", [b"3", b"AUTH", b"bob"])
        assert others[3:] == [PASSWORD.encode(), b"SETNAME", b"tests"]
        assert await broker.command() == [b"PING"]
        assert await broker.command() == [b"SELECT", b"3"]
        await broker.send(hello(), reply(b"PONG"), reply(b"OK"))


async def test_nothing_is_said_that_need_not_be() -> None:
    async with opened() as (connection, broker), trio.open_nursery() as nursery:

        async def shake() -> None:
            greeting = await shake_hands(
                connection, username=None, password=None, client_name=None, database=0
            )
            assert greeting == Greeting("redis", (7, 0, 15), "standalone", "master")

        nursery.start_soon(shake)
        assert await broker.command() == [b"HELLO", b"3"]
        assert await broker.command() == [b"PING"]
        await broker.send(hello("redis", "7.0.15"), reply(b"PONG"))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (error("WRONGPASS invalid username-password pair"), "user name or the password"),
        (error("NOAUTH HELLO must be called with the client"), "asks for a password"),
        (error("NOPROTO unsupported protocol version"), "Redis 6 or later"),
        (error("NOPERM this user has no permissions"), r"\+hello"),
        (error("DENIED Redis is running in protected mode"), "protected mode"),
        (
            error(f"ERR unknown command `HELLO`, with args beginning with: `3` `{PASSWORD}`"),
            "Redis 6 or later",
        ),
        (error(f"ERR unknown command 'HELLO' '{PASSWORD}'"), "Redis 6 or later"),
        (reply(b"OK"), "is no Redis or Valkey"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no Redis or Valkey"),
        (b"SSH-2.0-OpenSSH\r\n", "is no Redis or Valkey"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "speaks TLS"),
        (hello(mode=b"cluster") + reply(b"PONG"), "Cluster"),
        (hello(mode=b"sentinel") + reply(b"PONG"), "Sentinel"),
        (hello(role=b"replica") + reply(b"PONG"), "replica"),
        (hello(role=b"replica") + error("MASTERDOWN Link with MASTER is down"), "replica"),
    ],
)
async def test_what_will_not_change_is_told_apart(answer: bytes, text: str) -> None:
    exc = await answered(answer, reply(b"PONG"))
    assert isinstance(exc, Misconfigured)
    assert isinstance(exc, NotPrimary) is (text == "replica")
    with pytest.raises(Misconfigured, match=rf"^broker:6379 .*{text}"):
        raise exc


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([error("ERR max number of clients reached")], "max number of clients"),
        ([hello(), error("LOADING Redis is loading the dataset")], "LOADING"),
        ([hello(), error("MASTERDOWN Link with MASTER is down")], "MASTERDOWN"),
        ([hello(), error("BUSY Redis is busy running a script")], "BUSY"),
        ([], "closed the connection"),
        ([hello()], "closed the connection"),
        ([hello()[:10]], "closed the connection"),
    ],
)
async def test_what_may_change_is_told_apart(answers: list[bytes], text: str) -> None:
    exc = await answered(*answers)
    assert isinstance(exc, Disconnected)
    assert text in str(exc)


@pytest.mark.parametrize("role", [b"master", b"replica"])
async def test_a_sentinel_need_be_no_primary(role: bytes) -> None:
    greeting = await answered(hello(mode=b"sentinel", role=role), reply(b"PONG"), database=None)
    assert isinstance(greeting, Greeting)
    assert greeting.mode == "sentinel"


async def test_ping_may_be_forbidden() -> None:
    assert isinstance(await answered(hello(), error("NOPERM no permissions")), Greeting)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (error("ERR DB index is out of range"), Misconfigured, "has no database 7"),
        (error("NOPERM no permissions"), Misconfigured, "may not SELECT"),
        (error("LOADING is loading"), Disconnected, "LOADING"),
    ],
)
async def test_the_database_may_be_refused(
    answer: bytes, kind: type[BackendError], text: str
) -> None:
    exc = await answered(hello(), reply(b"PONG"), answer, database=7)
    assert type(exc) is kind
    assert text in str(exc)


async def test_a_name_that_is_no_text_is_shown_all_the_same() -> None:
    fields = mapping(server=b"\xff\n", version=b"7.x.1", mode=b"standalone", role=b"master", more=1)
    greeting = await answered(fields, reply(b"PONG"))
    assert greeting == Greeting("\ufffd\\n", (7, 1), "standalone", "master")


# Over sockets.


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_nothing_is_there(unused_port: int) -> None:
    with pytest.raises(Disconnected, match=r"^cannot connect to 127.0.0.1:\d+: Connection refused"):
        async with open_connection("127.0.0.1", unused_port, context=None, timeout=5):
            raise AssertionError


@pytest.mark.real
async def test_a_name_that_is_unknown() -> None:
    with pytest.raises(Disconnected, match=r"^cannot connect to nothing.invalid:6379: "):
        async with open_connection("nothing.invalid", 6379, context=None, timeout=5):
            raise AssertionError


async def at(
    broker: Broker,
    *,
    context: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    username: str | None = None,
    password: str | None = None,
    database: int = 0,
) -> Greeting:
    async with open_connection(host, broker.port, context=context, timeout=5) as connection:
        return await shaken(connection, username=username, password=password, database=database)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_a_real_broker_is_greeted(kind: str) -> None:
    config = ["requirepass s3cret", "user bob on >s3cret2 ~* &* +@all", "databases 4"]
    async with open_broker("valkey" if kind == "valkey" else "redis", config=config) as broker:
        greeting = await at(broker, password="s3cret", database=3)
        assert (greeting.server, greeting.role) == (kind, "master")
        await at(broker, username="bob", password="s3cret2")
        for username, password in ((None, "wrong-s3cret"), ("bob", "s3cret"), ("eve", "s3cret")):
            with pytest.raises(Misconfigured, match="user name or the password") as caught:
                await at(broker, username=username, password=password)
            assert_no_secret(caught.value)
        with pytest.raises(Misconfigured, match="asks for a password"):
            await at(broker)
        with pytest.raises(Misconfigured, match="has no database 4"):
            await at(broker, password="s3cret", database=4)


@pytest.mark.real
async def test_a_real_replica_is_none() -> None:
    async with open_broker() as primary:
        config = [f"replicaof 127.0.0.1 {primary.port}"]
        async with open_broker(config=config) as replica:
            with pytest.raises(NotPrimary):
                await at(replica)


@pytest.mark.real
async def test_a_real_cluster_is_refused() -> None:
    async with open_broker(config=["cluster-enabled yes"]) as broker:
        with pytest.raises(Misconfigured, match="Cluster"):
            await at(broker)


@pytest.mark.real
async def test_a_real_sentinel_is_no_broker() -> None:
    with made_broker(sentinel=True) as sentinel:
        await sentinel.start()
        with pytest.raises(Misconfigured, match="Sentinel"):
            await at(sentinel)


@pytest.mark.real
async def test_too_many_clients_are_no_misconfiguration() -> None:
    async with open_broker(config=["maxclients 1"]) as broker:
        async with open_connection("127.0.0.1", broker.port, context=None, timeout=5) as first:
            await shaken(first, password=None)
            with pytest.raises(Disconnected, match="max number of clients"):
                await at(broker)


@pytest.mark.real
async def test_tls() -> None:
    async with open_broker("redis", tls=True) as broker:
        certificates = broker.certificates
        assert certificates is not None
        context = certificates.client_context()
        await at(broker, context=context)
        for wrong, host, text in (
            (context, "localhost", "is not trusted"),
            (ssl.create_default_context(), "127.0.0.1", "is not trusted"),
            (_without_certificate(certificates.ca), "127.0.0.1", "does not accept this client"),
        ):
            with pytest.raises(Misconfigured, match=text):
                await at(broker, context=wrong, host=host)
        # It resets the connection and says nothing.
        with pytest.raises(Disconnected, match="perhaps it speaks TLS"):
            await at(broker)


def _without_certificate(ca: object) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


@pytest.mark.real
async def test_tls_where_none_is_spoken() -> None:
    # It waits for the end of a line, like one that is silent.
    async with open_broker() as broker:
        with pytest.raises(Disconnected, match="perhaps it does not speak TLS"):
            async with open_connection(
                "127.0.0.1", broker.port, context=ssl.create_default_context(), timeout=0.5
            ):
                raise AssertionError

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"-ERR unknown command\r\n")
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(served, answer)
        with pytest.raises(Misconfigured, match="does not speak TLS"):
            async with open_connection(
                "127.0.0.1", port, context=ssl.create_default_context(), timeout=5
            ):
                raise AssertionError
        nursery.cancel_scope.cancel()


async def served(
    serve: Callable[[trio.SocketStream], object], task_status: trio.TaskStatus[int]
) -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listener.socket.getsockname()[1])
    async with listener:
        while True:
            stream = await listener.accept()
            async with stream:
                await serve(stream)  # type: ignore[misc]


@pytest.mark.real
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_silence_at_the_beginning_is_bounded(secure: bool) -> None:
    async def say_nothing(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    context = ssl.create_default_context() if secure else None
    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(served, say_nothing)
        with (
            pytest.raises(Disconnected, match=r"(no answer|not answered).* 0.2 s"),
            trio.fail_after(5),
        ):
            async with open_connection(
                "127.0.0.1", port, context=context, timeout=0.2
            ) as connection:
                await shaken(connection)
        nursery.cancel_scope.cancel()


@pytest.mark.real
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_one_that_closes_at_once_may_change(secure: bool) -> None:
    async def close(_: trio.SocketStream) -> None:
        await trio.lowlevel.checkpoint()

    context = ssl.create_default_context() if secure else None
    async with trio.open_nursery() as nursery:
        port: int = await nursery.start(served, close)
        with pytest.raises(Disconnected), trio.fail_after(5):
            async with open_connection("127.0.0.1", port, context=context, timeout=5) as connection:
                await shaken(connection)
        nursery.cancel_scope.cancel()
