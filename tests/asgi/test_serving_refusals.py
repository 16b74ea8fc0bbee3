"""Refusals of an ASGI application."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.support.asgi import Played, answer, playing, websocket_scope
from tests.support.harness import echo
from trio_beat import (
    HubClosed,
    Identity,
    Permissions,
    Refused,
    Request,
    open_hub,
)
from trio_beat.asgi import application


class TestRefusals:
    @pytest.mark.parametrize("extension", [True, False])
    async def test_are_answered(self, extension: bool, autojump_clock: MockClock) -> None:
        app = application(open_hub(), allowed_origins=["https://example.com"])
        scope = websocket_scope(headers=[(b"host", b"a"), (b"origin", b"https://evil.example")])
        if not extension:
            scope["extensions"] = None
        async with app.lifespan():
            sent = await answer(app, scope, "websocket.connect")
            assert app.statistics().refused == {403: 1}
        if extension:
            start, body = sent
            assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
            assert (b"content-type", b"text/plain; charset=utf-8") in start["headers"]
            assert body["body"].startswith(b"Origin https://evil.example is not allowed")
        else:
            assert [event["type"] for event in sent] == ["websocket.close"]

    async def test_over_http2_have_no_connection_header(self, autojump_clock: MockClock) -> None:
        app = application(open_hub())
        async with app.lifespan():
            start, _ = await answer(
                app, websocket_scope("/nowhere", http_version="2"), "websocket.connect"
            )
        assert start["status"] == 404
        assert b"connection" not in dict(start["headers"])

    async def test_admit_refuses_by_the_scope(self, autojump_clock: MockClock) -> None:
        async def admit(request: Request) -> Identity:
            assert request.scope is not None
            raise Refused(401, request.scope["path"])

        app = application(open_hub(), admit=admit, permissions=Permissions())
        async with app.lifespan():
            start, body = await answer(app, websocket_scope("/ws/x"), "websocket.connect")
        assert (start["status"], body["body"]) == (401, b"/ws/x\n")

    @pytest.mark.parametrize(("status", "code"), [(401, 3000), (403, 4003)])
    async def test_by_close(self, status: int, code: int, autojump_clock: MockClock) -> None:
        async def admit(request: Request) -> Identity:
            raise Refused(status, "not you")

        app = application(open_hub(), admit=admit, refuse_by="close", subprotocols=["spoken"])
        played = Played(http_version="2", subprotocols=["spoken"])
        async with app.lifespan(), playing(app, played):
            closed = {"type": "websocket.close", "code": code, "reason": "not you"}
            assert await played.next() == closed
            with trio.fail_after(1):
                for _ in range(100):
                    await played.says("late")  # is received and dropped
            assert not played.returned.is_set()
            await played.leaves(code)
            await played.returned.wait()
            assert app.statistics().refused == {status: 1}
            assert app.statistics().accepted == 0

    async def test_by_close_are_those_of_401_and_403(self, autojump_clock: MockClock) -> None:
        app = application(open_hub(), refuse_by="close")
        async with app.lifespan():
            start, _ = await answer(app, websocket_scope("/nowhere"), "websocket.connect")
            assert start["status"] == 404

    async def test_without_a_lifespan_are_500(
        self, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        app = application(open_hub())
        for _ in range(2):
            start, body = await answer(app, websocket_scope(), "websocket.connect")
            assert start["status"] == 500
            assert b"lifespan is not open" in body["body"]
        assert len(caplog.records) == 1
        with pytest.raises(HubClosed, match="lifespan is not open"):
            _ = app.hub
        with pytest.raises(RuntimeError, match="lifespan is not open"):
            app.statistics()

    async def test_of_a_peer_that_has_left_is_no_answer(self, autojump_clock: MockClock) -> None:
        assert await answer(application(echo), websocket_scope(), "websocket.disconnect") == []

    @pytest.mark.parametrize("version", ["1.1", "2"])
    async def test_of_http_is_426(self, version: str) -> None:
        scope = {"type": "http", "http_version": version}
        start, body = await answer(application(echo), scope)
        assert (start["type"], start["status"]) == ("http.response.start", 426)
        assert ((b"upgrade", b"websocket") in start["headers"]) == (version == "1.1")
        assert b"WebSocket" in body["body"]

    async def test_of_an_unknown_scope_is_an_error(self) -> None:
        with pytest.raises(RuntimeError, match="'other' is not served"):
            await answer(application(echo), {"type": "other"})
