"""Who a peer is: from `admit` to its connection, its channels, and its end."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.support.harness import idle
from tests.support.pairs import declined, hub_pairs
from trio_beat import (
    Connection,
    EndReason,
    HandshakeDeclined,
    Identity,
    Permissions,
    Refused,
    Request,
    channel_key,
    open_hub,
)
from trio_beat.testing import open_pair, open_pairs

BOB = Identity(user="bob", groups=["staff"], session="k3y", info={"age": 5})


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock goes with the virtual one."""
    monkeypatch.setattr(time, "time", lambda: 1e9 + trio.current_time())


async def as_bob(_: Request) -> Identity:
    return BOB


async def test_an_admit_that_is_no_async_function_is_told(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    given: Any = lambda request: Identity(user="s3cret")  # noqa: E731
    with pytest.raises(HandshakeDeclined) as caught:
        async with open_pair(idle, admit=given):
            pass
    assert caught.value.status == 500
    assert "admit() gave a Identity at once; it must be an async function" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_handler_finds_it(autojump_clock: MockClock) -> None:
    async with open_pair(idle, admit=as_bob) as peer:
        assert peer.connection.identity is BOB


async def test_a_peer_may_be_anonymous(autojump_clock: MockClock) -> None:
    async def admit(_: Request) -> None:
        pass

    async with open_pair(idle, admit=admit) as peer:
        assert peer.connection.identity is None


async def test_its_url_names_no_names(autojump_clock: MockClock) -> None:
    async with open_hub() as hub, open_pairs(hub=hub, admit=as_bob) as pairs:
        peer = await pairs.connect(
            "/ws/news?subscribe-user=eve&subscribe-group&subscribe-session&publish-user"
        )
        for audience, name in (("user", "bob"), ("group", "staff"), ("session", "k3y")):
            await hub.publish(channel_key(audience, "news", name), audience)
            assert await peer.receive() == audience
        await hub.publish(channel_key("user", "news", "eve"), "not for bob")
        await hub.publish(channel_key("broadcast", "news"), "for others")
        other = await pairs.connect("/ws/news?subscribe-user")
        assert await other.receive() == "user"  # the last message
        await peer.send("to myself")
        assert await other.receive() == "to myself"


@pytest.mark.parametrize("hub", [True, False])
@pytest.mark.usefixtures("wall")
async def test_it_expires(hub: bool, autojump_clock: MockClock) -> None:
    async def admit(_: Request) -> Identity:
        return Identity(user="bob", expires_at=time.time() + 30)

    async def handler(connection: Connection) -> None:
        await trio.sleep_forever()

    async with open_hub() as some_hub:
        served: dict[str, Any] = {"hub": some_hub} if hub else {"handler": handler}
        async with open_pairs(admit=admit, **served) as pairs:
            peer = await pairs.connect("/ws/news?subscribe-user")
            assert await peer.wait_closed() == (3000, "identity has expired")
            assert trio.current_time() == pytest.approx(30)
        assert pairs.server.statistics().ended[EndReason.EXPIRED] == 1


@pytest.mark.usefixtures("wall")
async def test_one_that_is_over_already_is_refused(autojump_clock: MockClock) -> None:
    async def admit(_: Request) -> Identity:
        return Identity(user="bob", expires_at=time.time())

    async with hub_pairs(admit=admit) as pairs:
        answer = await declined(pairs, "/ws/news?subscribe-user")
        assert answer.status == 401
        assert ("www-authenticate", 'Bearer error="invalid_token"') in answer.headers


@pytest.mark.usefixtures("wall")
async def test_one_that_ends_while_its_channels_are_decided_is_refused(
    autojump_clock: MockClock,
) -> None:
    async def admit(_: Request) -> Identity:
        return Identity(user="bob", expires_at=time.time() + 1)

    async def decide(*_: object) -> bool:
        await trio.sleep(2)
        return True

    async with hub_pairs(admit=admit, permissions=Permissions(decide=decide)) as pairs:
        assert (await declined(pairs, "/ws/news?subscribe-user")).status == 401


async def test_what_is_no_identity_is_500(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def admit(_: Request) -> Any:
        return {"user": "s3cret"}

    async with hub_pairs(admit=admit) as pairs:
        assert (await declined(pairs, "/ws/news?subscribe-user")).status == 500
    assert "admit returned an object of type dict; it must be an Identity" in caplog.text
    assert "s3cret" not in caplog.text


async def test_an_application_decides_at_the_handshake(autojump_clock: MockClock) -> None:
    asked = []

    async def decide(
        identity: Identity | None, action: str, channel: str, request: Request
    ) -> bool:
        asked.append((identity, action, channel, request.path))
        await trio.sleep(1)
        return channel.endswith(":news")

    async with hub_pairs(admit=as_bob, permissions=Permissions(decide=decide)) as pairs:
        peer = await pairs.connect("/ws/news?subscribe-user&publish-user")
        await peer.send("one")
        assert asked == [
            (BOB, "subscribe", "user:bob:news", "/ws/news"),
            (BOB, "publish", "user:bob:news", "/ws/news"),
        ]
        answer = await declined(pairs, "/ws/sport?subscribe-group")
        assert answer.status == 403
        assert answer.body == b"'subscribe-group' is not allowed\n"


async def test_an_application_that_decides_may_fail(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def decide(*_: object) -> bool:
        raise RuntimeError("broken")

    async with hub_pairs(permissions=Permissions(decide=decide)) as pairs:
        answer = await declined(pairs, "/ws/news?subscribe-broadcast&token=s3cret")
        assert answer.status == 500
    assert "decide failed" in caplog.text
    assert "s3cret" not in caplog.text


async def test_an_application_that_decides_for_too_long(autojump_clock: MockClock) -> None:
    async def decide(*_: object) -> bool:
        await trio.sleep_forever()
        return True

    async with hub_pairs(permissions=Permissions(decide=decide)) as pairs:
        assert (await declined(pairs, "/ws/news?subscribe-broadcast")).status == 408
        assert trio.current_time() == 10


REFUSALS = [
    (401, "who are you?", (3000, "who are you?")),
    (403, "é" * 100, (4003, "é" * 61)),
]


@pytest.mark.parametrize(("code", "text", "close"), REFUSALS)
async def test_a_refusal_may_be_a_close_code(
    code: int,
    text: str,
    close: tuple[int, str],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A page sees no status."""
    caplog.set_level(logging.INFO, "trio_beat")

    async def admit(_: Request) -> None:
        raise Refused(code, text)

    options: dict[str, Any] = {"admit": admit, "refuse_by": "close", "subprotocols": ["bearer"]}
    async with hub_pairs(**options) as pairs:
        peer = await pairs.connect("/ws/news", offered=["bearer", "abc"])
        assert await peer.wait_closed() == close
        counts = pairs.server.statistics()
        assert (counts.refused, counts.accepted) == ({code: 1}, 0)
    assert f"refused: {code} {text}" in caplog.text


@pytest.mark.parametrize(
    ("target", "code"),
    [("/elsewhere", 404), ("/ws/news?subscribe-all", 400), ("/ws/news?subscribe-broadcast", 503)],
)
async def test_other_refusals_stay_what_they_are(
    target: str, code: int, autojump_clock: MockClock
) -> None:
    async def admit(_: Request) -> None:
        raise Refused(503, "later")

    async with hub_pairs(admit=admit, refuse_by="close") as pairs:
        assert (await declined(pairs, target)).status == code


async def test_what_is_not_allowed_may_be_a_close_code(autojump_clock: MockClock) -> None:
    async with hub_pairs(refuse_by="close") as pairs:
        peer = await pairs.connect("/ws/news?subscribe-user")
        text = "'subscribe-user' is not allowed: this peer is no user"
        assert await peer.wait_closed() == (4003, text)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"refuse_by": "silence"}, ValueError, "refuse_by is 'silence'"),
        ({"permissions": "all"}, TypeError, "permissions is 'all'"),
    ],
)
async def test_arguments_are_checked(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        async with hub_pairs(**options):
            pass
