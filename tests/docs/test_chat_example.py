"""The chat: whoever leaves for whatever reason, nobody stays in a room who is not there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import trio_beat
from tests.support.documents import examples
from tests.support.peer import dial
from trio_beat import Connection, ConnectionClosed, HandshakeRefused, Heartbeat, Server, connect

pytestmark = pytest.mark.real

#: Real peers answer within some beats, however busy the machine.
_PATIENT = Heartbeat(0.5, misses=4)


class Chat:
    """The example while it runs."""

    def __init__(self, server: Server, rooms_of: dict[str, set[str]]) -> None:
        self.server = server
        self.rooms_of = rooms_of

    def url(self, name: str) -> str:
        return f"ws://127.0.0.1:{self.server.port}/?name={name}"


@asynccontextmanager
async def _chat() -> AsyncIterator[Chat]:
    """Run the example, on a free port and with faster beats."""
    (text,) = examples("chat", "python")
    assert sum(bool(line.strip()) for line in text.splitlines()) == 40
    names: dict[str, Any] = {}
    for before, after in (
        ("trio_beat.serve(handler, 8000", "serve(handler, 0"),
        ("trio.run(", "("),
    ):
        assert text.count(before) == 1
        text = text.replace(before, after)
    exec(compile(text, "chat.rst", "exec"), names)

    async def run(*, task_status: trio.TaskStatus[Server]) -> None:
        names["serve"] = partial(trio_beat.serve, heartbeat=_PATIENT, task_status=task_status)
        await names["main"]()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(run)
            yield Chat(server, names["rooms_of"])
            server.drain()


async def _join(connection: Connection, name: str, here: list[str]) -> None:
    await connection.send('{"join": "tea"}')
    assert await _hear(connection) == {"room": "tea", "text": f"{name} is here", "here": here}


async def _hear(connection: Connection) -> dict[str, object]:
    told = json.loads(await connection.receive())
    assert isinstance(told, dict)
    return told


async def test_those_in_a_room_hear_one_another() -> None:
    async with (
        _chat() as chat,
        connect(chat.url("alice")) as alice,
        connect(chat.url("bob")) as bob,
    ):
        await _join(alice, "alice", ["alice"])
        await _join(bob, "bob", ["alice", "bob"])
        await bob.send('{"room": "tea", "say": "hello"}')
        await bob.send('{"room": "coffee", "say": "nobody hears this"}')
        assert await _hear(bob) == {
            "room": "tea",
            "text": "bob: hello",
            "here": ["alice", "bob"],
        }
        assert "error" in await _hear(bob)
        await bob.send('{"leave": "tea"}')
        told = [(await _hear(alice))["text"] for _ in range(3)]
        assert told == ["bob is here", "bob: hello", "bob has left"]
        assert chat.rooms_of == {"alice": {"tea"}, "bob": set()}
    assert chat.rooms_of == {}


async def _closes(stack: AsyncExitStack, chat: Chat) -> None:
    async with connect(chat.url("bob")) as bob:
        await _join(bob, "bob", ["alice", "bob"])


async def _crashes(stack: AsyncExitStack, chat: Chat) -> None:
    async with connect(chat.url("bob")) as bob:
        await _join(bob, "bob", ["alice", "bob"])
        await bob.send("no JSON")
        assert (await bob.wait_closed()).code == 1011


async def _falls_silent(stack: AsyncExitStack, chat: Chat) -> None:
    peer = await dial(chat.server.port, "/?name=bob")
    stack.push_async_callback(peer.aclose)
    await peer.send_text('{"join": "tea"}')
    assert "bob is here" in await peer.text()


async def _is_cut(stack: AsyncExitStack, chat: Chat) -> None:
    peer = await dial(chat.server.port, "/?name=bob")
    await peer.send_text('{"join": "tea"}')
    assert "bob is here" in await peer.text()
    await peer.reset()


@pytest.mark.parametrize(
    "leave", [_closes, _crashes, pytest.param(_falls_silent, marks=pytest.mark.slow), _is_cut]
)
async def test_nobody_stays_who_has_left(
    leave: Callable[[AsyncExitStack, Chat], Awaitable[None]],
) -> None:
    async with AsyncExitStack() as stack:
        chat = await stack.enter_async_context(_chat())
        alice = await stack.enter_async_context(connect(chat.url("alice")))
        await _join(alice, "alice", ["alice"])
        for _ in range(1 if leave is _falls_silent else 2):  # the name is free again
            await leave(stack, chat)
            assert (await _hear(alice))["here"] == ["alice", "bob"]
            assert await _hear(alice) == {"room": "tea", "text": "bob has left", "here": ["alice"]}
            assert chat.rooms_of == {"alice": {"tea"}}


async def test_a_server_that_drains_leaves_nobody_behind() -> None:
    async with _chat() as chat, connect(chat.url("alice")) as alice:
        await _join(alice, "alice", ["alice"])
        chat.server.drain()
        assert (await alice.wait_closed()).code == 1001
    assert chat.rooms_of == {}


async def test_a_name_that_is_taken_is_told_in_the_protocol() -> None:
    async with _chat() as chat, connect(chat.url("alice")) as alice:
        await _join(alice, "alice", ["alice"])
        async with connect(chat.url("alice")) as other:
            with pytest.raises(ConnectionClosed) as caught:
                await other.receive()
            assert caught.value.closed.code == 4009
        assert chat.rooms_of == {"alice": {"tea"}}
        await alice.send('{"join": "coffee"}')
        assert (await _hear(alice))["room"] == "coffee"


@pytest.mark.parametrize("name", ["", "a%20b", "a" * 21])
async def test_a_name_that_is_none_is_refused_before_the_handshake(name: str) -> None:
    async with _chat() as chat:
        with pytest.raises(HandshakeRefused, match="letters and digits"):
            async with connect(chat.url(name)):
                pytest.fail("it was admitted")
