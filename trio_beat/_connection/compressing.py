"""Sends large messages compressed: in pieces, between which others get a turn.

1. What a connection sends meanwhile waits for it, in the order in which it was asked for.
2. A message that several connections send is compressed by one of them; the others wait.
"""

from __future__ import annotations

import trio

from .._protocol.deflate import Deflate
from .._protocol.messages import Message
from .beating import Engine


def takes_long(engine: Engine, deflate: Deflate, message: Message) -> bool:
    """Whether a message is to be sent by `send_in_order`."""
    return deflate.wants(message) or engine in engine.shared.orders


async def send_in_order(engine: Engine, deflate: Deflate, message: Message) -> None:
    """Compress a message and send it, behind those that are being compressed.

    Args:
        engine: the connection.
        deflate: how it compresses.
        message: what to send; may be a small one.

    Raises:
        ConnectionClosed: the connection has ended.
    """
    orders = engine.shared.orders
    order = orders.setdefault(engine, trio.StrictFIFOLock())
    try:
        async with order:
            await _prepare(engine, deflate, message)
            if engine.outbox is not None:
                await engine.emptied()
            engine.send_nowait(message)
    finally:
        if not order.locked():  # then none waits either
            orders.pop(engine, None)


async def _prepare(engine: Engine, deflate: Deflate, message: Message) -> None:
    under_way = engine.shared.under_way
    key = (id(message), deflate.key)
    while deflate.wants(message):
        engine.check_open()
        if (done := under_way.get(key)) is not None:
            await done.wait()
            continue
        under_way[key] = done = trio.Event()
        try:
            for _ in deflate.prepare(message):
                await trio.lowlevel.checkpoint()
                engine.check_open()
        finally:
            # One that waits goes on where this was cancelled.
            del under_way[key]
            done.set()
