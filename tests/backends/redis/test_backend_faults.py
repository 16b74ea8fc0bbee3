from __future__ import annotations

import logging
from collections import Counter, defaultdict
from itertools import count
from pathlib import Path

import pytest
import trio

from tests.support.broker import made_broker, open_broker
from tests.support.played_broker import hello
from tests.support.receivers import Recorder
from tests.support.redis_backend import last, lines, running
from trio_beat import BackendError, Message
from trio_beat.backends.redis import RedisBackend

pytestmark = pytest.mark.real


async def test_a_killed_broker_is_away_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_broker() as broker, running(broker) as (backend, told):
        await backend.subscribe(["a", "b"])
        broker.kill()
        await told.until(lambda: told.names() == ["lost", "away"])
        assert told.events[0] == ("lost", ["a", "b"])
        with trio.fail_after(4):  # less than the timeout of a call
            for call in (
                lambda: backend.publish("a", Message("x"), expire=0),
                lambda: backend.subscribe(["c"]),
                lambda: last(backend, "a"),
            ):
                with pytest.raises(BackendError):
                    await call()
            await backend.unsubscribe(["a"])
        await trio.sleep(0.5)
        await broker.start()
        await told.until(lambda: told.names() == ["lost", "away", "back"])
        assert await backend.subscribe(["a"]) == {}
        await backend.publish("a", Message("x"), expire=0, sender=1)
        assert told.delivered == [("x", 1)]
    away, still, back = lines(caplog)
    assert f"{broker.url}/0 is away: " in away
    assert "is still away: cannot connect" in still
    assert " is back after " in back


async def test_a_stopped_broker_is_away_until_it_answers() -> None:
    async with open_broker() as broker, running(broker, "?timeout=1") as (backend, told):
        await backend.subscribe(["a"])
        broker.stop()
        begin = trio.current_time()
        with pytest.raises(BackendError, match="has not answered for 1 s"):
            await backend.publish("a", Message("x"), expire=0)
        assert trio.current_time() - begin < 4  # and not the default's 5 s
        assert told.names() == ["lost", "away"]
        await trio.sleep(2)  # its kernel accepts connections
        assert told.names() == ["lost", "away"]
        broker.go_on()
        await told.until(lambda: told.names()[-1] == "back")
        await backend.subscribe(["a"])
        await backend.publish("a", Message("y"), expire=0, sender=1)
        assert told.delivered[-1] == ("y", 1)


async def test_being_killed_again_and_again_makes_no_pause_longer() -> None:
    async with open_broker() as broker, running(broker) as (backend, told):
        begin = trio.current_time()
        for number in range(1, 11):
            await backend.subscribe(["a"])
            assert await broker.kill_clients() == 1
            await told.until(lambda: told.names() == ["lost", "away", "back"] * number)  # noqa: B023
        assert trio.current_time() - begin < 4


async def test_what_overflows_at_the_broker_is_told_as_lost() -> None:
    config = ["client-output-buffer-limit pubsub 1mb 0 0"]
    async with open_broker(config=config) as broker:
        stuck = trio.Event()

        class Slow(Recorder):
            async def deliver(self, channel: str, message: Message, sender: object | None) -> None:
                await stuck.wait()
                await super().deliver(channel, message, sender)

        backend, told = RedisBackend(f"{broker.url}/0"), Slow()
        async with backend.running(told):
            await backend.subscribe(["a"])
            async with broker.client() as client:
                # More than the kernels hold. (Large ones are not copied, and hardly count.)
                for _ in range(10_000):
                    if not await client.ask("PUBLISH", "a", b"x" * 10_000):
                        break
                else:
                    raise AssertionError("nothing has overflown")
            stuck.set()
            await told.until(lambda: told.names() == ["lost", "away", "back"])


async def test_what_was_confirmed_has_arrived_or_was_lost() -> None:
    """A broker is killed and restarted under load, three times."""
    async with (
        open_broker() as broker,
        running(broker) as (one, _),
        running(broker) as (two, told),
    ):
        #: By publisher and time between outages, while the channel was subscribed.
        confirmed: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
        subscribed, failed, over = 0, 0, False

        def losses() -> int:
            return told.names().count("lost")

        async def publish(number: int) -> None:
            nonlocal failed
            for turn in count():
                if over:
                    return
                heard = subscribed
                try:
                    text = f"{number}/{turn}"
                    await one.publish("news", Message(text), expire=turn % 2)
                except BackendError:
                    failed += 1
                    await trio.sleep(0.01)
                else:
                    if heard == losses() + 1:
                        confirmed[number, heard].append(text)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(publish, number)
            for outage in range(4):
                await told.until(lambda: told.names().count("back") == outage)  # noqa: B023
                assert await two.subscribe(["news"]) == {}
                subscribed += 1
                while not any(heard == subscribed for _, heard in confirmed):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                await trio.sleep(0.2)
                if outage < 3:
                    broker.kill()
                    await told.until(lambda: told.names()[-1:] == ["away"])
                    await broker.start()
            over = True
        # A message of another connection is behind all others.
        await broker.ask("PUBLISH", "news", "end")
        await told.until(lambda: told.delivered[-1] == ("end", None))
        assert told.names() == ["lost", "away", "back"] * 3
        assert failed >= 3
        counts = Counter(payload for payload, _ in told.delivered)
        assert set(counts.values()) == {1}
        assert {heard for _, heard in confirmed} == {1, 2, 3, 4}
        for (_, heard), texts in confirmed.items():
            # What did not come was lost with the connection: the last ones before its end.
            came = [text in counts for text in texts]
            assert came == sorted(came, reverse=True)
            assert all(came) or heard < 4


async def test_a_replica_cannot_be_used() -> None:
    async with (
        open_broker() as primary,
        open_broker(config=[f"replicaof 127.0.0.1 {primary.port}"]) as replica,
    ):
        with pytest.raises(BackendError, match="it is a replica"):
            async with running(replica):
                raise AssertionError


async def test_one_that_becomes_a_replica_is_left_at_the_next_message() -> None:
    async with (
        open_broker() as primary,
        open_broker() as broker,
        running(broker) as (backend, told),
    ):
        await broker.ask("REPLICAOF", "127.0.0.1", primary.port)
        with pytest.raises(BackendError, match="READONLY"):
            await backend.publish("news", Message("x"), expire=1)
        await told.until(lambda: told.names() == ["away"])


async def test_one_that_becomes_a_replica_is_left_though_nothing_is_kept() -> None:
    async with (
        open_broker() as primary,
        open_broker() as broker,
        running(broker, "?timeout=1") as (backend, told),
    ):
        await backend.subscribe(["news"])
        await broker.ask("REPLICAOF", "127.0.0.1", primary.port)
        await told.until(lambda: told.names() == ["lost", "away"])
        with pytest.raises(BackendError, match=r"replica|away|closed"):
            await backend.publish("news", Message("x"), expire=0)


async def test_unreachable_at_the_start_is_an_outage() -> None:
    with made_broker() as broker:
        async with running(broker) as (backend, told):
            assert told.names() == ["away"]
            with pytest.raises(BackendError, match="Connection refused"):
                await backend.publish("a", Message("x"), expire=0)
            await broker.start()
            await told.until(lambda: told.names() == ["away", "back"])
            await backend.publish("a", Message("x"), expire=0)


async def test_stopped_at_the_start_is_an_outage() -> None:
    async with open_broker() as broker:
        broker.stop()
        begin = trio.current_time()
        async with running(broker, "?timeout=0.5") as (_, told):
            assert trio.current_time() - begin < 4  # and not the default's 5 s
            assert told.names() == ["away"]
            broker.go_on()
            await told.until(lambda: told.names() == ["away", "back"])


async def test_a_wrong_configuration_at_the_start_is_an_error() -> None:
    async with open_broker(config=["requirepass s3cret"]) as broker:
        for url, text in (
            (f"redis://:wrong@127.0.0.1:{broker.port}", "the user name or the password"),
            (f"redis://127.0.0.1:{broker.port}", "asks for a password"),
            (f"redis://:s3cret@127.0.0.1:{broker.port}/99", "has no database 99"),
        ):
            told = Recorder()
            with pytest.raises(BackendError, match=text):
                async with RedisBackend(url).running(told):
                    raise AssertionError
            assert told.events == []


async def test_a_wrong_password_later_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    async def password() -> str:
        asked.append(1)
        return current

    async with open_broker(config=["requirepass one-s3cret"]) as broker:
        current = "one-s3cret"
        url = f"redis://127.0.0.1:{broker.port}"
        async with running(broker, backend=RedisBackend(url, password=password)) as (_, told):
            await broker.ask("CONFIG", "SET", "requirepass", "two-s3cret")
            await broker.kill_clients()
            await told.until(lambda: told.names() == ["away"])
            await trio.sleep(0.3)
            current = "two-s3cret"
            await told.until(lambda: told.names() == ["away", "back"])
            assert len(asked) > 2
    assert "the user name or the password" in " ".join(lines(caplog))
    assert "s3cret" not in caplog.text


async def test_the_password_may_stand_in_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("one\n")
    async with open_broker(config=["requirepass one"]) as broker:
        async with running(broker, f"?password_file={path}") as (_, told):
            await broker.ask("CONFIG", "SET", "requirepass", "two")
            path.write_text("two\n")
            await broker.kill_clients()
            await told.until(lambda: told.names() == ["away", "back"])


class Vault(Exception):  # noqa: N818 - what a secret store raises
    pass


async def test_what_the_function_for_the_password_raises_is_an_outage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers: list[object] = [Vault("s3cret"), 5]

    async def password() -> str:
        answer = answers.pop(0) if answers else "s3cret"
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    async with open_broker(config=["requirepass s3cret"]) as broker:
        backend = RedisBackend(broker.url, password=password)
        async with running(broker, backend=backend) as (_, told):
            await told.until(lambda: told.names() == ["away", "back"])
            assert told.events[0] == ("away", "the password is not known: Vault")
    text = " ".join(lines(caplog))
    assert "it returned int, expected a text" in text
    assert "s3cret" not in caplog.text


async def test_many_large_last_messages_do_not_cut_off_the_hub() -> None:
    """A broker counts replies to a subscriber like messages: 32 MB may wait."""
    async with open_broker("redis") as broker, running(broker) as (backend, told):
        await broker.ask("SET", "a", b"x" * 100_000)
        await backend.subscribe(["a"])
        heard = 0

        def count(_: str, message: Message | None) -> None:
            nonlocal heard
            heard += message is not None

        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(backend.last, ["a"], count)
        assert heard == 1000
        assert told.names() == []


@pytest.mark.parametrize("size", [2**15, 2**15 + 1, 2**24])
async def test_a_large_last_message_is_told(size: int) -> None:
    async with open_broker("redis") as broker, running(broker) as (backend, told):
        await broker.ask("SET", "a", b"x" * size)
        await backend.subscribe(["a", "b"])
        assert await last(backend, "a", "b") == {"a": "x" * size, "b": None}
        assert told.names() == []


async def test_what_is_too_large_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with open_broker("redis") as broker, running(broker) as (backend, told):
        a = "session:s3cret:a"
        await broker.ask("SET", a, b"x" * (2**24 + 1))
        await backend.subscribe([a, "b"])
        assert await last(backend, a, "b") == {a: None, "b": None}
        with pytest.raises(BackendError, match="has 16777217 bytes; 16777216 are allowed"):
            await backend.publish("b", Message("x" * (2**24 + 1)), expire=1)
        await backend.publish("b", Message("y"), expire=1)
        assert await last(backend, a, "b") == {a: None, "b": "y"}
        assert told.names() == []
    (line,) = lines(caplog)
    assert "the key of channel 'session:...:a' at " in line
    assert line.endswith("is no last message: it is larger than 16777216 bytes")


@pytest.mark.parametrize("password", ["s3cret\udc80", "\ud800"])
async def test_a_password_that_is_not_utf_8_is_not_shown(password: str) -> None:
    async def asked() -> str:
        return password

    with pytest.raises(ValueError, match=r"^password is not UTF-8$"):
        RedisBackend("redis://h", password=password)
    async with open_broker() as broker:
        backend = RedisBackend(f"{broker.url}/0", password=asked)
        async with running(broker, backend=backend) as (_, told):
            assert [event[0] for event in told.events] == ["away"]
            assert "the password is not known: it is not UTF-8" in str(told.events)


async def test_one_that_leaves_right_behind_its_greeting_is_not_back() -> None:
    greeted = 0

    async def greet(stream: trio.SocketStream) -> None:
        nonlocal greeted
        await stream.receive_some()
        await stream.send_all(hello() + b"+PONG\r\n")
        greeted += 1

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, greet, 0)
        port = listeners[0].socket.getsockname()[1]
        told = Recorder()
        async with RedisBackend(f"redis://127.0.0.1:{port}").running(told):
            with trio.fail_after(20):
                while greeted < 12:  # noqa: ASYNC110 - it has no event
                    await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    # One that was there for a moment is lost again; none is there without end.
    names = told.names()
    assert names.count("away") >= names.count("back")
    assert names[-1:] == ["away"]
