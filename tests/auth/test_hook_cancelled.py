"""TLS, and a peer that leaves while the application is asked: nothing is left behind."""

from __future__ import annotations

import ssl

import pytest
import trio
import trustme
from trio.testing import MockClock

from tests.support.application import Stream, answer, nothing, playing, says
from trio_beat import Identity, Refused, Request
from trio_beat.auth import Hook
from trio_beat.testing.cancelling import cancelled_at

PEERS = Request.of("/", [("Host", "a"), ("Cookie", "sessionid=s3cret")], peer="192.0.2.1:4242")
BOB = says(answer(200, '{"user": "bob"}'))


class Contexts:
    """Of an application and its hook: both None where there is no TLS."""

    def __init__(self, *, secure: bool) -> None:
        self.server: ssl.SSLContext | None = None
        self.client: ssl.SSLContext | None = None
        if secure:
            authority = trustme.CA()
            self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            authority.issue_cert("127.0.0.1").configure_cert(self.server)
            self.client = ssl.create_default_context()
            authority.configure_trust(self.client)


@pytest.fixture(params=["tcp", "tls"])
def contexts(request: pytest.FixtureRequest) -> Contexts:
    return Contexts(secure=request.param == "tls")


async def pieces(stream: Stream) -> None:
    """An answer that comes in many pieces."""
    data = answer(200, '{"user": "bob"}')
    for number in range(0, len(data), 8):
        await stream.send_all(data[number : number + 8])
        await trio.sleep(0.001)


async def test_cancelled_at_any_await(contexts: Contexts) -> None:
    async with playing(pieces, contexts.server) as application:
        # One at a time: a turn that is not given back would be missed.
        asked = Hook(application.url, timeout=60, concurrency=1, ssl_context=contexts.client)
        with trio.fail_after(60):
            step = 0
            while await cancelled_at(step, lambda: asked(PEERS)):
                step += 1
            assert step > 5
            assert await asked(PEERS) == Identity(user="bob")
        await application.deserted()  # all sockets are closed


async def test_cancelled_before_it_has_a_turn(contexts: Contexts) -> None:
    async with playing(BOB, contexts.server) as application:
        asked = Hook(application.url, timeout=60, ssl_context=contexts.client)
        assert await cancelled_at(0, lambda: asked(PEERS))
        assert application.connections == 0


async def test_all_that_wait_are_cancelled(contexts: Contexts) -> None:
    async with playing(nothing, contexts.server) as application:
        asked = Hook(application.url, timeout=60, concurrency=5, ssl_context=contexts.client)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(asked, PEERS)
                await application.asked(5)
                nursery.cancel_scope.cancel()
            await application.deserted()
            assert application.connections == 5
            application.script = BOB
            assert await asked(PEERS) == Identity(user="bob")


async def test_tls() -> None:
    contexts = Contexts(secure=True)
    async with playing(BOB, contexts.server) as application:
        asked = Hook(application.url, timeout=60, ssl_context=contexts.client)
        assert await asked(PEERS) == Identity(user="bob")


async def test_a_certificate_that_is_not_trusted(caplog: pytest.LogCaptureFixture) -> None:
    async with playing(BOB, Contexts(secure=True).server) as application:
        asked = Hook(application.url, timeout=60)
        with pytest.raises(Refused) as caught:
            await asked(PEERS)
        assert caught.value.status == 503
        assert application.requests == []
        await application.deserted()
    assert "cannot be reached: unable to get local issuer certificate" in caplog.text


async def test_a_handshake_that_takes_too_long(patient_clock: MockClock) -> None:
    # It waits for a request without TLS, which does not come.
    async with playing(nothing) as application:
        asked = Hook(application.url.replace("http", "https"))
        with pytest.raises(Refused) as caught:
            await asked(PEERS)
        assert caught.value.status == 503
        assert trio.current_time() == pytest.approx(5)
        await application.deserted()
