"""The ASGI application that both Hypercorn and Uvicorn run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
import anyio.abc

from ._server import QUEUE_SIZE, Options, nap, part, report_end

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]


class Queue(Protocol):
    """What the application needs of asyncio's queue."""

    async def get(self) -> Event: ...

    def put_nowait(self, item: Event, /) -> None:
        """Raises `asyncio.QueueFull`."""


def application(options: Options, make_queue: Callable[[int], Queue]) -> App:
    """Make the application for a role."""
    subscribers: dict[Queue, anyio.abc.TaskGroup] = {}

    async def idle(scope: Event, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        while (await receive())["type"] == "websocket.receive":
            pass

    async def echo(scope: Event, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        while (event := await receive())["type"] == "websocket.receive":
            await send(answer(event))

    async def detect(scope: Event, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        try:
            while (event := await receive())["type"] == "websocket.receive":
                seconds = nap(event.get("text") or b"")
                await anyio.sleep(seconds)
        finally:
            report_end(target(scope))

    async def fanout(scope: Event, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        subscribes, publishes = part(target(scope))
        if not subscribes:
            await publish(receive, publishes, None)
            return
        queue = make_queue(QUEUE_SIZE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, queue, send)
            subscribers[queue] = tasks
            try:
                await publish(receive, publishes, queue)
            finally:
                del subscribers[queue]
            tasks.cancel_scope.cancel()

    async def publish(receive: Receive, publishes: bool, own: Queue | None) -> None:
        while (event := await receive())["type"] == "websocket.receive":
            if publishes:
                message = answer(event)
                for queue, tasks in subscribers.items():
                    if queue is not own:
                        try:
                            queue.put_nowait(message)
                        except asyncio.QueueFull:
                            tasks.cancel_scope.cancel()

    roles = {"idle": idle, "fanout": fanout, "echo": echo, "detect": detect}
    return roles[options.role]


async def accept(scope: Event, receive: Receive, send: Send) -> None:
    # To raise is how an application says that it does not know a protocol, such as "lifespan".
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})


async def write(queue: Queue, send: Send) -> None:
    with contextlib.suppress(OSError):  # the peer has left
        while True:
            await send(await queue.get())


def answer(event: Event) -> Event:
    return {"type": "websocket.send", "bytes": event.get("bytes"), "text": event.get("text")}


def target(scope: Event) -> str:
    query = scope["query_string"].decode()
    return f"{scope['path']}?{query}" if query else str(scope["path"])
