"""TLS handshakes of many pending sockets at a time."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import Counter

import pytest
import trio

from tests.server.test_pending import client_hello
from tests.support.harness import (
    tls_contexts,
)
from trio_beat._server.pending import PendingTLS
from trio_beat._transports.tls_session import Bios
from trio_beat._turns import Turns


async def test_few_handshakes_go_on_in_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes as long as dozens of messages, and clients that lost a server all come back."""
    passes, steps = 0, Counter[int]()

    class Counted(ssl.SSLObject):
        def do_handshake(self) -> None:
            steps[passes] += 1
            super().do_handshake()

    context, _ = tls_contexts()
    monkeypatch.setattr(context, "sslobject_class", Counted)
    hello, bios, turns = client_hello(), Bios(), Turns()
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(50):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            theirs.setblocking(False)
            ours.sendall(hello)
            sockets.append(PendingTLS(theirs, context, bios, turns))
        async with trio.open_nursery() as nursery:
            await nursery.start(turns.run)
            for pending in sockets:
                stack.callback(pending.abort)
                nursery.start_soon(pending.begin)
            for passes in range(100):  # noqa: B007 - the class above looks at it
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert sum(steps.values()) == 50
    assert 1 < max(steps.values()) <= 16
