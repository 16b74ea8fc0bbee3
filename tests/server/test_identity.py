"""Who a peer is: from `admit` to its connection, its channels, and its end."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Close

from tests.support.peer import HANDSHAKE, dial
from tests.support.serving import ask, deserted, serving, status
from trio_beat import (
    Connection,
    EndReason,
    Identity,
    Permissions,
    Refused,
    Request,
    channel_key,
    open_hub,
)

BOB = Identity(user="bob", groups=["staff"], session="k3y", info={"age": 5})


def request(target: str) -> bytes:
    return HANDSHAKE.format(target=target, headers="").encode()


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock goes with the virtual one."""
    monkeypatch.setattr(time, "time", lambda: 1e9 + trio.current_time())


async def as_bob(_: Request) -> Identity:
    return BOB


async def test_a_handler_finds_it(patient_clock: MockClock) -> None:
    found = []

    async def handler(connection: Connection) -> None:
        found.append(connection.identity)

    async with serving(handler, admit=as_bob) as server:
        await (await dial(server.port, "/x")).aclose()
        await deserted(server)
    assert found == [BOB]
    assert found[0] is BOB


async def test_a_peer_may_be_anonymous(patient_clock: MockClock) -> None:
    found: list[Identity | None] = []

    async def handler(connection: Connection) -> None:
        found.append(connection.identity)

    async def admit(_: Request) -> None:
        pass

    async with serving(handler, admit=admit) as server:
        await (await dial(server.port, "/x")).aclose()
        await deserted(server)
    assert found == [None]


async def test_its_url_names_no_names(patient_clock: MockClock) -> None:
    async with open_hub() as hub, serving(hub=hub, admit=as_bob) as server:
        peer = await dial(
            server.port,
            "/ws/news?subscribe-user=eve&subscribe-group&subscribe-session&publish-user",
        )
        for audience, name in (("user", "bob"), ("group", "staff"), ("session", "k3y")):
            await hub.publish(channel_key(audience, "news", name), audience)
            assert await peer.text() == audience
        await hub.publish(channel_key("user", "news", "eve"), "not for bob")
        await hub.publish(channel_key("broadcast", "news"), "for others")
        other = await dial(server.port, "/ws/news?subscribe-user")
        assert await other.text() == "user"  # the last message
        await peer.send_text("to myself")
        assert await other.text() == "to myself"
        await peer.aclose()
        await other.aclose()
        await deserted(server)


@pytest.mark.parametrize("hub", [True, False])
@pytest.mark.usefixtures("wall")
async def test_it_expires(hub: bool, patient_clock: MockClock) -> None:
    async def admit(_: Request) -> Identity:
        return Identity(user="bob", expires_at=time.time() + 30)

    async def handler(connection: Connection) -> None:
        await trio.sleep_forever()

    async with serving(None if hub else handler, admit=admit) as server:
        begun = trio.current_time()
        peer = await dial(server.port, "/ws/news?subscribe-user")
        assert await peer.closed() == Close(3000, "identity has expired")
        assert trio.current_time() - begun == pytest.approx(30, abs=0.1)
        await peer.aclose()
        await deserted(server)
        assert server.statistics().ended[EndReason.EXPIRED] == 1


@pytest.mark.usefixtures("wall")
async def test_one_that_is_over_already_is_refused(patient_clock: MockClock) -> None:
    async def admit(_: Request) -> Identity:
        return Identity(user="bob", expires_at=time.time())

    async with serving(admit=admit) as server:
        answer = await ask(server.port, request("/ws/news?subscribe-user"))
        assert status(answer) == 401
        assert b'WWW-Authenticate: Bearer error="invalid_token"' in answer


@pytest.mark.usefixtures("wall")
async def test_one_that_ends_while_its_channels_are_decided_is_refused(
    patient_clock: MockClock,
) -> None:
    async def admit(_: Request) -> Identity:
        return Identity(user="bob", expires_at=time.time() + 1)

    async def decide(*_: object) -> bool:
        await trio.sleep(2)
        return True

    async with serving(admit=admit, permissions=Permissions(decide=decide)) as server:
        assert status(await ask(server.port, request("/ws/news?subscribe-user"))) == 401


async def test_what_is_no_identity_is_500(
    patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def admit(_: Request) -> Any:
        return {"user": "s3cret"}

    async with serving(admit=admit) as server:
        answer = await ask(server.port, request("/ws/news?subscribe-user"))
    assert status(answer) == 500
    assert "admit returned an object of type dict; it must be an Identity" in caplog.text
    assert "s3cret" not in caplog.text


async def test_an_application_decides_at_the_handshake(patient_clock: MockClock) -> None:
    asked = []

    async def decide(
        identity: Identity | None, action: str, channel: str, request: Request
    ) -> bool:
        asked.append((identity, action, channel, request.path))
        await trio.sleep(1)
        return channel.endswith(":news")

    options: dict[str, Any] = {"admit": as_bob, "permissions": Permissions(decide=decide)}
    async with serving(**options) as server:
        peer = await dial(server.port, "/ws/news?subscribe-user&publish-user")
        await peer.send_text("one")
        await peer.aclose()
        assert asked == [
            (BOB, "subscribe", "user:bob:news", "/ws/news"),
            (BOB, "publish", "user:bob:news", "/ws/news"),
        ]
        answer = await ask(server.port, request("/ws/sport?subscribe-group"))
        assert status(answer) == 403
        assert answer.endswith(b"\r\n\r\n'subscribe-group' is not allowed\n")
        await deserted(server)


async def test_an_application_that_decides_may_fail(
    patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def decide(*_: object) -> bool:
        raise RuntimeError("broken")

    async with serving(permissions=Permissions(decide=decide)) as server:
        answer = await ask(server.port, request("/ws/news?subscribe-broadcast&token=s3cret"))
    assert status(answer) == 500
    assert "decide failed" in caplog.text
    assert "s3cret" not in caplog.text


async def test_an_application_that_decides_for_too_long(patient_clock: MockClock) -> None:
    async def decide(*_: object) -> bool:
        await trio.sleep_forever()
        return True

    async with serving(permissions=Permissions(decide=decide)) as server:
        assert status(await ask(server.port, request("/ws/news?subscribe-broadcast"))) == 408


REFUSALS = [
    (401, "who are you?", Close(3000, "who are you?")),
    (403, "é" * 100, Close(4003, "é" * 61)),
]


@pytest.mark.parametrize(("code", "text", "close"), REFUSALS)
async def test_a_refusal_may_be_a_close_code(
    code: int,
    text: str,
    close: Close,
    patient_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A page sees no status."""
    caplog.set_level(logging.INFO, "trio_beat")

    async def admit(_: Request) -> None:
        raise Refused(code, text)

    options: dict[str, Any] = {"admit": admit, "refuse_by": "close", "subprotocols": ["bearer"]}
    async with serving(**options) as server:
        headers = "Sec-WebSocket-Protocol: bearer, abc\r\n"
        peer = await dial(server.port, "/ws/news", headers=headers)
        assert await peer.closed() == close
        await peer.aclose()
        await deserted(server)
        counts = server.statistics()
        assert (counts.refused, counts.accepted) == ({code: 1}, 0)
    assert f"refused: {code} {text}" in caplog.text


@pytest.mark.parametrize(
    ("target", "code"),
    [("/elsewhere", 404), ("/ws/news?subscribe-all", 400), ("/ws/news?subscribe-broadcast", 503)],
)
async def test_other_refusals_stay_what_they_are(
    target: str, code: int, patient_clock: MockClock
) -> None:
    async def admit(_: Request) -> None:
        raise Refused(503, "later")

    async with serving(admit=admit, refuse_by="close") as server:
        assert status(await ask(server.port, request(target))) == code


async def test_what_is_not_allowed_may_be_a_close_code(patient_clock: MockClock) -> None:
    async with serving(refuse_by="close") as server:
        peer = await dial(server.port, "/ws/news?subscribe-user")
        text = "'subscribe-user' is not allowed: this peer is no user"
        assert await peer.closed() == Close(4003, text)
        await peer.aclose()


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
    with pytest.raises(BaseExceptionGroup) as caught:
        async with serving(**options):
            pass
    assert caught.group_contains(error, match=text)
