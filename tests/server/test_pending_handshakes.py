"""TLS handshakes of many pending sockets at a time."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import Counter

import pytest
import trio

from tests.server.test_pending import client_hello
from tests.support.harness import pending_tls, tls_contexts
from tests.support.turns import giving_turns


async def test_few_handshakes_go_on_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes as long as dozens of messages, and clients that lost a server all come back."""
    passes, steps = 0, Counter[int]()

    class Counted(ssl.SSLObject):
        def do_handshake(self) -> None:
            steps[passes] += 1
            super().do_handshake()

    context, _ = tls_contexts()
    monkeypatch.setattr(context, "sslobject_class", Counted)
    hello = client_hello()
    async with contextlib.AsyncExitStack() as stack:
        turns = await stack.enter_async_context(giving_turns())
        sockets = []
        for _ in range(50):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            theirs.setblocking(False)
            ours.sendall(hello)
            sockets.append(theirs)
        async with trio.open_nursery() as nursery:
            for pending in pending_tls(sockets, context, turns):
                stack.callback(pending.abort)
                nursery.start_soon(pending.begin)
            for passes in range(100):  # noqa: B007 - the class above looks at it
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert sum(steps.values()) == 50
    assert 1 < max(steps.values()) <= 16
