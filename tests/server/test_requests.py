"""What a handler finds of the request that it serves."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.support.harness import tls_contexts
from tests.support.peer import dial
from tests.support.serving import deserted, serving
from trio_beat import Connection, Request, connect


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_a_handler_finds_its_request(
    secure: bool, patient_clock: trio.testing.MockClock
) -> None:
    requests: list[Request | None] = []

    async def handler(connection: Connection) -> None:
        requests.append(connection.request)
        assert connection.request is requests[-1]
        await connection.send(connection.peer)

    for_server, for_client = tls_contexts() if secure else (None, None)
    async with serving(handler, ssl_context=for_server) as server:
        peer = await dial(
            server.port,
            "/ws/news?token=x",
            headers="Cookie: a=1; b=2\r\nX-A: 1\r\nx-a: 2\r\nSec-WebSocket-Protocol: b, c\r\n",
            ssl_context=for_client,
        )
        address = await peer.text()
        await peer.aclose()
        await deserted(server)
    [request] = requests
    assert request is not None
    assert request.target == "/ws/news?token=x"
    assert request.cookies == {"a": "1", "b": "2"}
    assert request.headers.get_all("X-A") == ("1", "2")
    assert request.headers["Upgrade"] == "websocket"
    assert request.subprotocols == ("b", "c")
    assert request.peer == address
    assert request.secure is secure


async def test_a_client_has_no_request(patient_clock: trio.testing.MockClock) -> None:
    async with serving() as server:
        async with connect(f"ws://127.0.0.1:{server.port}/ws/news") as connection:
            assert connection.request is None
        await deserted(server)
