"""What can never work is refused where it is given, at both ends."""

from __future__ import annotations

import asyncio
import math
import os
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from websockets.frames import Opcode

from tests.support.fake_server import URL, FakeServer, fake_server
from tests.support.harness import idle, linked
from tests.support.hub import Listener
from tests.support.serving import serving
from trio_beat import Connection, Heartbeat, Limits, Message, connect, open_hub, reconnecting, serve
from trio_beat.backends.memory import MemoryBackend
from trio_beat.testing import cancelled_at, check_backend, open_pair, open_pairs
from trio_beat.trio_websocket import open_service

__all__ = ["fake_server"]  # a fixture

SURROGATE = "a\ud800"


async def nothing(*_: object) -> None:
    pass


WHOLE: list[Any] = [0, -1, 1.5, 2.0, "3", None, True, math.nan]
SECONDS: list[Any] = [-1, math.nan, "4", None, True, b"4", 1j]


class TestHeartbeat:
    @pytest.mark.parametrize("interval", [0, math.inf, *SECONDS])
    def test_interval(self, interval: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=r"^interval is .*; it must be a number"):
            Heartbeat(interval)

    @pytest.mark.parametrize("interval", [10**400, 1e308, 1e13])
    def test_interval_that_nothing_can_be_computed_from(self, interval: float) -> None:
        with pytest.raises(ValueError, match=r"^interval is .*; it must be .* no more than 1e\+12"):
            Heartbeat(interval)
        Heartbeat(1e12, misses=10**9)

    def test_misses_that_nothing_can_be_computed_from(self) -> None:
        with pytest.raises(ValueError, match=r"^misses is .*; it must be 1000000000 or less"):
            Heartbeat(misses=10**400)

    @pytest.mark.parametrize("misses", WHOLE)
    def test_misses(self, misses: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=r"^misses is .*; it must be"):
            Heartbeat(4, misses)

    @pytest.mark.parametrize("message", ["", b"bytes", 3, SURROGATE, "\udcff", ["x"]])
    def test_message(self, message: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=r"^message (is|has) "):
            Heartbeat(4, message=message)


class TestServe:
    @pytest.mark.parametrize(
        "name", ["connections", "pending", "message_size", "unfinished", "inbound", "outbox"]
    )
    @pytest.mark.parametrize("value", WHOLE)
    def test_limits(self, name: str, value: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=rf"^{name} is .*; it must be"):
            Limits(**{name: value})

    @pytest.mark.parametrize("name", ["handshake_timeout", "message_timeout"])
    @pytest.mark.parametrize("value", [0, math.inf, *SECONDS])
    def test_timeouts(self, name: str, value: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=rf"^{name} is .*a number"):
            Limits(**{name: value})

    @pytest.mark.parametrize(
        "name", ["connections_per_address", "connections_per_user", "channels"]
    )
    @pytest.mark.parametrize("value", [-1, 1.5, "1", True])
    def test_limits_that_may_be_off(self, name: str, value: Any) -> None:
        off: dict[str, Any] = {name: 0}
        assert getattr(Limits(**off), name) == 0
        with pytest.raises((ValueError, TypeError), match=rf"^{name} is .*; it must be"):
            Limits(**{name: value})

    @pytest.mark.parametrize("name", ["handshake_rate", "message_rate", "byte_rate"])
    @pytest.mark.parametrize("value", [-1, 0.0001, 1e11, math.inf, math.nan, "1", True])
    def test_rates(self, name: str, value: Any) -> None:
        slowest: dict[str, Any] = {name: 0.001}
        assert getattr(Limits(**slowest), name) == 0.001
        with pytest.raises((ValueError, TypeError), match=rf"^{name} is .*; it must be"):
            Limits(**{name: value})

    @pytest.mark.parametrize("value", ["close", "", None, 1])
    def test_rate_policy(self, value: Any) -> None:
        with pytest.raises(ValueError, match=r"^rate_policy is .*; it must be 'disconnect' or"):
            Limits(rate_policy=value)

    @pytest.mark.parametrize("value", ["disconnect", "drop", None])
    def test_slow_policy(self, value: Any) -> None:
        with pytest.raises(TypeError, match=r"^slow_policy is .*; it must be a SlowPolicy"):
            Limits(slow_policy=value)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"subprotocols": "abc"}, "subprotocols is 'abc'; it must be a sequence"),
            ({"subprotocols": ["a b"]}, "'a b' is not a token"),
            ({"subprotocols": ["a", ""]}, "'' is not a token"),
            ({"subprotocols": ["caf\u00e9"]}, "is not a token"),
            ({"subprotocols": [b"chat"]}, "subprotocol is b'chat'; it must be a text"),
            ({"path_prefix": "ws"}, "must begin and end with a slash"),
            ({"path_prefix": ""}, "must begin and end with a slash"),
            ({"path_prefix": None}, "path_prefix is None; it must be a text"),
            ({"path_prefix": b"/ws/"}, "it must be a text"),
            ({"path_prefix": "/w s/"}, "path_prefix is '/w s/'; it may have"),
            ({"path_prefix": "/ws?/"}, "it may have letters"),
            ({"path_prefix": "/ws#/"}, "it may have letters"),
            ({"path_prefix": "/%77s/"}, "it may have letters"),
            ({"path_prefix": "/w\r\n/"}, "it may have letters"),
            ({"path_prefix": "/b\u00fccher/"}, "it may have letters"),
            ({"grace": -1}, "grace is -1; it must be a number of seconds, 0 or more"),
            ({"grace": math.nan}, "grace is nan; it must"),
            ({"grace": math.inf}, "grace is inf; it must"),
            ({"grace": "10"}, "grace is '10'; it must be a number of seconds"),
            ({"heartbeat": 4}, "heartbeat is 4; it must be a Heartbeat"),
            ({"heartbeat": None}, "heartbeat is None; it must be a Heartbeat"),
            ({"limits": {"outbox": 3}}, "it must be a Limits"),
            ({"hub": "memory://", "handler": None}, "hub is 'memory://'; it must be a Hub"),
            ({"grace": 10**400}, "and no more than 1e+12"),
            ({"port": 65536}, "port is 65536; it must be 65535 or less"),
            ({"port": -1}, "port is -1; it must be 0 or more"),
            ({"port": "8000"}, "port is '8000'; it must be a whole number"),
            ({"port": None}, "there is nowhere to listen: a port, uds or sockets are needed"),
            ({"host": 3}, "host is 3; it must be a text"),
            ({"host": b"::"}, "host is b'::'; it must be a text"),
            ({"host": ["::1", None]}, "host is None; it must be a text"),
            ({"host": []}, "host is []; it must be a text, one or more"),
            ({"handler": "echo"}, "handler is 'echo'; it must be an async function"),
            ({"app": "site:app"}, "app is 'site:app'; it must be an ASGI application"),
            ({"ssl_context": "chain.pem"}, "it must be an ssl.SSLContext"),
            ({"ssl_context": ssl.create_default_context()}, "ssl_context is a client's"),
            ({"port": 70000}, "port is 70000; it must be 65535 or less"),
            ({"port": "80"}, "port is '80'; it must be a whole number"),
            ({"port": True}, "port is True; it must be a whole number"),
            ({"host": []}, "one or more, or None"),
            ({"host": ["127.0.0.1", None]}, "host is None; it must be a text"),
            ({"host": b"::1"}, "it must be a text"),
        ],
    )
    async def test_arguments(self, options: dict[str, Any], text: str) -> None:
        with pytest.raises((ValueError, TypeError)) as caught:
            await serve(**{"handler": nothing, "port": 0, **options})
        assert text in str(caught.value)

    @pytest.mark.parametrize(
        ("context", "text"),
        [
            (ssl.create_default_context(), "ssl_context is a client's"),
            (None, "ssl_context is None; it must be an ssl.SSLContext"),
            ("chain.pem", "it must be an ssl.SSLContext"),
            (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), "does not speak TLS"),
        ],
    )
    async def test_another_certificate(self, context: Any, text: str) -> None:
        async with serving(nothing) as server:
            with pytest.raises((ValueError, TypeError)) as caught:
                server.replace_ssl_context(context)
            assert text in str(caught.value)


class Deaf:
    """A subscriber that does not care."""

    def deliver_nowait(self, message: Message) -> None:
        pass

    def gap_nowait(self) -> None:
        pass


class TestOpenHub:
    async def test_context_is_entered_once(self) -> None:
        context = open_hub()
        async with context:
            with pytest.raises(RuntimeError, match="was entered before; make another one"):
                await context.__aenter__()
        with pytest.raises(RuntimeError, match="was entered before; make another one"):
            await context.__aenter__()


class TestChannels:
    async def test_one_text_is_not_several(self) -> None:
        async with open_hub() as hub:
            for undo in (False, True):
                with pytest.raises(TypeError, match="channels is 'news'; it must be several texts"):
                    if undo:
                        hub.unsubscribe(Deaf(), "news")
                    else:
                        await hub.subscribe(Deaf(), "news")


class TestReplaceContext:
    @pytest.mark.parametrize(
        ("context", "text"),
        [
            (None, "ssl_context is None; it must be an ssl.SSLContext"),
            ("chain.pem", "ssl_context is 'chain.pem'; it must be an ssl.SSLContext"),
            (ssl.create_default_context(), "ssl_context is a client's"),
        ],
    )
    async def test_argument(self, context: Any, text: str) -> None:
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        async with serving(nothing, ssl_context=own) as server:
            with pytest.raises((ValueError, TypeError), match=text):
                server.replace_ssl_context(context)


class TestConnect:
    @pytest.mark.parametrize("context", [connect, reconnecting])
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"heartbeat": 5}, "heartbeat is 5; it must be a Heartbeat"),
            ({"heartbeat": None}, "heartbeat is None; it must be a Heartbeat"),
            *(({"connect_timeout": v}, "connect_timeout is ") for v in [0, *SECONDS]),
            *(({"message_size": v}, "message_size is ") for v in WHOLE),
            *(({"inbound": v}, "inbound is ") for v in WHOLE),
            *(({"outbox": v}, "outbox is ") for v in WHOLE),
            ({"url": b"ws://localhost/"}, "url is a bytes; it must be a text"),
            ({"url": None}, "url is a NoneType; it must be a text"),
            ({"url": "ws://localhost/" + SURROGATE}, "is not the URL of a WebSocket"),
            ({"subprotocols": [3]}, "subprotocol 1 is not a token"),
            ({"headers": {"A": 3}}, "the value of header 'A' must be a text"),
            ({"headers": {b"A": "x"}}, "header is b'A'; it must be a text"),
            ({"headers": {"A": SURROGATE}}, "cannot be sent"),
            ({"connect_timeout": 10**400}, "and no more than 1e+12"),
            ({"url": "ws://a\0b/"}, "must be percent-encoded"),
            ({"url": "ws://a b/"}, "must be percent-encoded"),
            ({"ssl_context": True}, "it must be an ssl.SSLContext"),
        ],
    )
    def test_arguments(
        self, context: type[connect] | type[reconnecting], options: dict[str, Any], text: str
    ) -> None:
        with pytest.raises((ValueError, TypeError)) as caught:
            context(**{"url": URL, **options})
        assert text in str(caught.value)

    def test_no_limit_is_allowed(self) -> None:
        connect(URL, connect_timeout=math.inf)


class TestHub:
    @pytest.mark.parametrize("expire", SECONDS)
    def test_expire(self, expire: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=r"^expire is .*; it must be a number"):
            open_hub(expire=expire)

    @pytest.mark.parametrize("backend", [None, 3, b"memory://", object])
    def test_backend(self, backend: Any) -> None:
        with pytest.raises(TypeError, match=r"^backend is .*; it must be a URL, or a Backend"):
            open_hub(backend)

    @pytest.mark.parametrize("key", ["", SURROGATE, b"news", None, 3])
    async def test_keys(self, key: Any) -> None:
        async with open_hub() as hub:
            listener = Listener()
            calls: list[Callable[[], Awaitable[object]]] = [
                partial(hub.publish, key, "x"),
                partial(hub.subscribe, listener, ["news", key]),
                hub.subscribed(listener, "news", key).__aenter__,
            ]
            for call in calls:
                with pytest.raises((ValueError, TypeError), match=r"^channel (is|has)"):
                    await call()
            await trio.testing.wait_all_tasks_blocked()
            assert hub.statistics() == (0, 0, 0, 0, True, 0, 0)

    @pytest.mark.parametrize("message", [SURROGATE, None, 3, {}, ["x"]])
    async def test_messages(self, message: Any) -> None:
        async with open_hub() as hub:
            with pytest.raises((ValueError, TypeError), match=r"^message (is|has) "):
                await hub.publish("news", message)
            assert hub.statistics().published == 0


async def _send_what_cannot_be_sent(connection: Connection) -> None:
    wrong: list[Any] = [SURROGATE, None, 3, {}, ["x"]]
    for message in wrong:
        for call in (connection.send, connection.send_nowait):
            with pytest.raises((ValueError, TypeError), match=r"^message (is|has) "):
                await trio.lowlevel.checkpoint()
                if (waiting := call(message)) is not None:
                    await waiting
    for code, reason in [("1000", ""), (1000.0, ""), (True, ""), (1000, SURROGATE), (1000, b"")]:
        with pytest.raises((ValueError, TypeError), match=r"^close (code|reason) (is|has) "):
            await connection.aclose(code, reason)  # type: ignore[arg-type]
    assert connection.closed is None
    await connection.send("this can")


class TestMessage:
    """It raises where it is sent, nothing is written, and the connection stays open."""

    async def test_of_a_handler(self, autojump_clock: trio.testing.MockClock) -> None:
        async with linked(idle) as link:
            await _send_what_cannot_be_sent(link.connection)
            assert await link.peer.text() == "this can"

    async def test_of_a_client(
        self, fake_server: FakeServer, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
    ) -> None:
        got = []

        async def play() -> None:
            peer = await fake_server.accept()
            while (frame := await peer.frame()) is not None and frame.opcode is not Opcode.CLOSE:
                got.append(bytes(frame.data))
            await peer.send_close()
            await peer.aclose()

        nursery.start_soon(play)
        async with connect(URL) as connection:
            await _send_what_cannot_be_sent(connection)
        assert got == [b"this can"]


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([b"--heartbeat-message=\xff"], "--heartbeat-message: '\\udcff'"),
        ([b"--path-prefix=/\xff/"], "--path-prefix: '/\\udcff/'"),
        ([b"--path-prefix=/a b/"], "--path-prefix: '/a b/' may have letters"),
        (
            [b"listen", b"ws://localhost/", b"--heartbeat-message=\xff"],
            "heartbeat-message is not UTF-8",
        ),
        ([b"listen", b"ws://localhost/\xff"], "url is not UTF-8"),
        ([b"listen", b"ws://localhost/", b"--header", b"A: \xff"], "header is not UTF-8"),
        ([b"listen", b"ws://localhost/", b"--interval", b"nan"], "interval is nan"),
        ([b"publish", b"ws://localhost/?publish-x", b"\xff"], "message is not UTF-8"),
        ([b"publish", b"http://localhost/", b"\xff"], "message is not UTF-8"),
    ],
)
def test_the_command_says_it_in_one_line(arguments: list[bytes], text: str) -> None:
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"trio_beat", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert text in done.stderr
    assert done.stderr.count("\n") == 1


class TestAsyncio:
    @pytest.mark.parametrize(
        "context",
        [
            lambda: connect("ws://127.0.0.1:1/"),
            lambda: reconnecting("ws://127.0.0.1:1/"),
            open_hub,
            lambda: open_pair(nothing),
            lambda: open_pairs(nothing),
            lambda: open_service(nothing),
        ],
        ids=["connect", "reconnecting", "open_hub", "open_pair", "open_pairs", "open_service"],
    )
    def test_context(self, context: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        async def enter() -> None:
            async with context():
                raise AssertionError

        with pytest.raises(
            RuntimeError, match=r"^trio_beat runs under Trio, and not under asyncio"
        ):
            asyncio.run(enter())

    @pytest.mark.parametrize(
        "call",
        [
            lambda: serve(nothing, 0),
            lambda: check_backend(MemoryBackend),
            lambda: cancelled_at(1, trio.sleep_forever),
        ],
        ids=["serve", "check_backend", "cancelled_at"],
    )
    def test_call(self, call: Callable[[], Coroutine[object, object, object]]) -> None:
        with pytest.raises(
            RuntimeError, match=r"^trio_beat runs under Trio, and not under asyncio"
        ):
            asyncio.run(call())
