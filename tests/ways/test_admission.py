"""Who is let in, whichever way a connection comes."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock
from websockets.frames import Close

from tests.support.living import (
    SOON,
    Kept,
    echo,
    gone,
    hub_served,
    read,
)
from tests.support.peer import Declined
from tests.support.ways import Way
from trio_beat import (
    Connection,
    Identity,
    Limits,
    Refused,
    Request,
    open_hub,
)


class TestAdmission:
    async def test_the_application_sees_the_request(self, way: Way, clock: MockClock) -> None:
        requests: list[Request] = []

        async def admit(request: Request) -> Identity:
            requests.append(request)
            return Identity(user="bob")

        async def tell(connection: Connection) -> None:
            identity, request = connection.identity, connection.request
            assert identity is not None
            assert request is not None
            await connection.send(f"{identity.user} {request.target} {connection.path}")

        async with way.serving(tell, admit=admit) as place:
            peer = await place.dial("/chat/a%20b?x=%2F&y", "Cookie: a=1\r\nX-Some: thing\r\n")
            assert await read(peer) == "bob /chat/a%20b?x=%2F&y /chat/a%20b?x=%2F&y"
            (request,) = requests
            assert request.headers["X-Some"] == "thing"
            assert request.cookies == {"a": "1"}
            await peer.aclose()

    @pytest.mark.parametrize("status", [401, 403, 429, 503])
    async def test_the_application_refuses(self, way: Way, clock: MockClock, status: int) -> None:
        async def admit(request: Request) -> Identity:
            raise Refused(status, "not you", {"Retry-After": "7"})

        async with way.serving(echo, admit=admit) as place:
            with pytest.raises(Declined) as caught:
                await place.dial()
            assert caught.value.status == status
            assert b"not you" in caught.value.answer
            assert b"retry-after: 7" in caught.value.answer.lower()
            assert place.statistics().refused == {status: 1}
            assert place.statistics().connections == 0

    async def test_no_such_channel(self, way: Way, clock: MockClock) -> None:
        async with hub_served(way) as (place, _):
            for target, status in [
                ("/ws/news?subscribe-nobody", 400),
                ("/ws/news?subscribe-user", 403),
            ]:
                with pytest.raises(Declined) as caught:
                    await place.dial(target)
                assert caught.value.status == status

    async def test_a_foreign_page(self, way: Way, clock: MockClock) -> None:
        async with way.serving(echo) as place:
            with pytest.raises(Declined) as caught:
                await place.dial(headers="Origin: https://elsewhere.example\r\n")
            assert caught.value.status == 403

    async def test_no_room(self, way: Way, clock: MockClock) -> None:
        async with way.serving(echo, limits=Limits(connections=1)) as place:
            peer = await place.dial()
            with pytest.raises(Declined) as caught:
                await place.dial()
            assert caught.value.status == 503
            await peer.aclose()
            await gone(place)
            await (await place.dial()).aclose()

    async def test_a_subprotocol(self, way: Way, clock: MockClock) -> None:
        async def tell(connection: Connection) -> None:
            await connection.send(str(connection.subprotocol))

        async with way.serving(tell, subprotocols=["two", "one"]) as place:
            peer = await place.dial(headers="Sec-WebSocket-Protocol: one, two\r\n")
            assert b"sec-websocket-protocol: two" in peer.head.lower()
            assert await read(peer) == "two"
            await peer.aclose()

    async def test_an_identity_expires(self, way: Way, clock: MockClock) -> None:
        async def renew(connection: Connection) -> None:
            connection.renew(Identity(user="bob", expires_at=time.time() - 1))
            await trio.sleep_forever()

        async with way.serving(renew) as place:
            peer = await place.dial()
            with trio.fail_after(SOON):
                closed = await peer.closed()
            assert closed is not None
            assert closed.code == 3000
            await peer.aclose()

    async def test_a_user_is_disconnected(self, way: Way, clock: MockClock) -> None:
        async def admit(request: Request) -> Identity:
            return Identity(user="bob")

        async with open_hub() as hub, way.serving(Kept(), hub=hub, admit=admit) as place:
            peer = await place.dial()
            await hub.disconnect(user="bob", code=4003, reason="out")
            with trio.fail_after(SOON):
                assert await peer.closed() == Close(4003, "out")
            await peer.aclose()
