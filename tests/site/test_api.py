"""The API: audiences, disconnecting, what a token may do and how much. Over ASGI, without a socket.

What is common to all that is served over HTTP is tested in `test_app`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests.support.hub import AskedBackend, Disconnect, Listener
from trio_beat import BackendError, Heartbeat, Hub, Message, open_hub
from trio_beat._site.api import API
from trio_beat._site.app import Site, make_app, make_internal_app
from trio_beat._site.tokens import Token, Tokens, digest
from trio_beat.backends import Backend

BEARER = {"Authorization": "Bearer s3cret"}
EVERYTHING = Token(name="x", digest=digest(b"s3cret"), disconnect=True)


@asynccontextmanager
async def serving(
    token: Token = EVERYTHING,
    *,
    backend: str | Backend = "memory://",
    requests: float = 0,
    size: float = 0,
    internal: bool = False,
    secured: bool = True,
) -> AsyncIterator[tuple[httpx.AsyncClient, Hub]]:
    """The API with one token, and a client that has it."""
    async with open_hub(backend) as hub:
        tokens = Tokens([token], requests=requests, size=size)
        site = Site(
            hub=hub,
            draining=bool,
            statistics=dict,
            heartbeat=Heartbeat(),
            path_prefix="/ws/",
            api=API(hub=hub, tokens=tokens, max_message_size=1000),
            internal=internal,
        )
        headers = BEARER if secured else {}
        app = httpx.ASGITransport(make_internal_app(site) if internal else make_app(site))
        async with httpx.AsyncClient(transport=app, base_url="http://x", headers=headers) as client:
            yield client, hub


class Body(httpx.AsyncByteStream):
    """A body in one piece; that of httpx is a generator, and complains where nobody ends it."""

    def __init__(self, text: str) -> None:
        self._left = [text.encode()] if text else []

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


async def post(
    client: httpx.AsyncClient, path: str, body: str, kind: str = "text/plain"
) -> httpx.Response:
    """Send a body that may not be read to its end."""
    headers = BEARER | {"Content-Type": kind}
    return await client.send(
        httpx.Request("POST", f"http://x{path}", headers=headers, stream=Body(body))
    )


class Orders:
    """Records the orders to disconnect that a hub hears."""

    def __init__(self) -> None:
        self.heard: list[Disconnect] = []

    def disconnect(self, disconnect: Disconnect) -> None:
        self.heard.append(disconnect)

    def missed(self) -> None:
        pass


ALL = ["broadcast:news", "user:bob:news", "user:eve:news", "group:staff:news", "session:k3y:news"]


@pytest.mark.parametrize(
    ("query", "reached"),
    [
        ("", ["broadcast:news"]),
        ("?", ["broadcast:news"]),
        ("?broadcast", ["broadcast:news"]),
        ("?broadcast=", ["broadcast:news"]),
        ("?user=bob", ["user:bob:news"]),
        ("?user=bob&user=eve", ["user:bob:news", "user:eve:news"]),
        ("?user=bob&user=bob", ["user:bob:news"]),
        ("?group=staff&session=k3y", ["group:staff:news", "session:k3y:news"]),
        (
            "?user=bob&group=staff&broadcast",
            ["broadcast:news", "user:bob:news", "group:staff:news"],
        ),
    ],
)
async def test_those_named_are_reached_and_no_others(query: str, reached: list[str]) -> None:
    async with serving() as (client, hub):
        listeners = {key: Listener() for key in ALL}
        for key, listener in listeners.items():
            await hub.subscribe(listener, [key])
        response = await client.post("/api/publish/news" + query, content="hello")
        assert (response.status_code, response.content) == (204, b"")
        assert [key for key in ALL if listeners[key].texts == ["hello"]] == reached
        assert [key for key in ALL if not listeners[key].texts] == [
            key for key in ALL if key not in reached
        ]


async def test_a_message_makes_its_frame_once_for_all_audiences() -> None:
    async with serving() as (client, hub):
        one = Listener()
        await hub.subscribe(one, ["user:bob:news", "group:staff:news"])
        await client.post("/api/publish/news?user=bob&group=staff", content="hello")
        assert one.texts == ["hello", "hello"]
        assert one.messages[0] is one.messages[1]


async def test_names_are_decoded_once() -> None:
    async with serving() as (client, hub):
        listener = Listener()
        await hub.subscribe(listener, ["user:a+b %41\u00fc:news"])
        await client.post("/api/publish/news?user=a%2Bb+%2541%C3%BC", content="x")
        assert listener.texts == ["x"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "news?users=bob",
            "unknown parameter 'users', allowed are broadcast, user, group, session",
        ),
        ("news?User=bob", "unknown parameter 'User'"),
        ("news?user", "the name of a user must not be empty"),
        ("news?user=", "the name of a user must not be empty"),
        ("news?session=", "the name of a session must not be empty"),
        ("news?user=a%3Ab", "the name of a user has a colon"),
        ("a:b?user=bob", "facility 'a:b' has a colon"),
        ("news?broadcast=no", "'broadcast' has a value"),
        ("news?user=%ff", "the query is not UTF-8"),
        ("?user=bob", "facility missing"),
        ("news?" + "&".join(f"user={number}" for number in range(101)), "101 audiences"),
    ],
)
async def test_bad_audience_is_explained_and_nothing_is_published(path: str, words: str) -> None:
    async with serving() as (client, hub):
        response = await client.post(f"/api/publish/{path}", content="x")
        assert response.status_code == 400
        assert words in response.text
        assert hub.statistics().published == 0


async def test_nobody_is_reached_where_one_may_not_be() -> None:
    token = Token(name="x", digest=digest(b"s3cret"), publish=("broadcast:*", "user:*:news"))
    async with serving(token) as (client, hub):
        for query in ("?session=k3y", "?user=bob&session=k3y", "?broadcast&group=staff"):
            response = await client.post("/api/publish/news" + query, content="x")
            assert response.status_code == 403
            assert "this token may not publish to '" in response.text
            assert "k3y" not in response.text
        assert (await client.post("/api/publish/sport?user=bob")).status_code == 403
        assert hub.statistics().published == 0
        assert (await client.post("/api/publish/news?user=bob&broadcast")).status_code == 204
        assert hub.statistics().published == 2


async def test_a_token_may_be_without_channels() -> None:
    token = Token(name="x", digest=digest(b"s3cret"), publish=(), disconnect=True)
    async with serving(token) as (client, _):
        assert (await client.post("/api/publish/news")).status_code == 403
        assert (await client.post("/api/disconnect?user=bob")).status_code == 204


class Choosy(AskedBackend):
    """Does not confirm what goes to groups."""

    async def publish(
        self, channel: str, message: Message, *, expire: float, sender: object | None = None
    ) -> None:
        if channel.startswith("group:"):
            await trio.lowlevel.checkpoint()
            raise BackendError("the broker is busy")
        await super().publish(channel, message, expire=expire, sender=sender)


async def test_what_is_not_confirmed_is_told() -> None:
    async with serving(backend=Choosy()) as (client, _):
        path = "/api/publish/news?user=bob&user=eve&group=staff"
        response = await client.post(path, content="x")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        expected = "the broker is busy (2 of 3 audiences have it), try again later\n"
        assert response.text == expected
        response = await client.post("/api/publish/news?group=staff", content="x")
        assert response.text == "the broker is busy, try again later\n"


@pytest.mark.parametrize(
    ("query", "form", "order"),
    [
        ("?user=bob", "", Disconnect("user", "bob", 4003, "disconnected", 0)),
        ("?session=k3y", "", Disconnect("session", "k3y", 4003, "disconnected", 0)),
        (
            "?user=bob&code=4001&reason=logged+out&block=60.5",
            "",
            Disconnect("user", "bob", 4001, "logged out", 60.5),
        ),
        ("", "session=k%203y&block=1", Disconnect("session", "k 3y", 4003, "disconnected", 1)),
        (
            "?code=1008",
            "user=b%C3%BCcher",
            Disconnect("user", "b\u00fccher", 1008, "disconnected", 0),
        ),
        ("?user=bob&reason=", "", Disconnect("user", "bob", 4003, "", 0)),
    ],
)
async def test_an_order_to_disconnect_is_heard(query: str, form: str, order: Disconnect) -> None:
    orders = Orders()
    async with serving() as (client, hub), trio.open_nursery() as nursery:
        await nursery.start(hub.control.listen, orders)
        await hub.control.wait_heard()
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        path = "/api/disconnect" + query
        response = await client.post(path, content=form or None, headers=headers)
        assert (response.status_code, response.content) == (204, b"")
        assert orders.heard == [order]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("query", "body", "status", "words"),
    [
        ("", "", 400, "exactly one of user and session is needed"),
        ("?user=bob&session=k3y", "", 400, "exactly one of user and session is needed"),
        ("?user=bob&user=eve", "", 400, "'user' is given twice"),
        ("?user=bob", "user=eve", 400, "'user' is given twice"),
        ("?user=", "", 400, "user is empty"),
        ("?user=" + "x" * 4097, "", 400, "at most 4,096 characters are allowed"),
        ("?group=staff", "", 400, "unknown parameter 'group', allowed are user, session, code, "),
        ("?user=bob&code=x", "", 400, "'code' is no number"),
        ("?user=bob&code=-1", "", 400, "'code' is no number"),
        ("?user=bob&code=999", "", 400, "close code 999 may not be sent"),
        ("?user=bob&block=nan", "", 400, "'block' is no number"),
        ("?user=bob&block=inf", "", 400, "'block' is no number"),
        ("?user=bob&block=-1", "", 400, "'block' is no number"),
        ("?user=bob&block=9999999999999", "", 400, "no more than 1e+12"),
        ("?user=bob&reason=" + "x" * 124, "", 400, "close reason takes 124 bytes"),
        ("?user=%ff", "", 400, "the query is not UTF-8"),
        ("", "user=%ff", 400, "the form is not UTF-8"),
        ("", '{"user": "bob"}', 415, "send parameters in the query, or as application/x-www-form"),
        ("", "user=" + "x" * 16_384, 413, "the body is over 16384 bytes"),
    ],
)
async def test_bad_order_is_explained(query: str, body: str, status: int, words: str) -> None:
    async with serving() as (client, _):
        kind = "application/json" if body.startswith("{") else "application/x-www-form-urlencoded"
        response = await post(client, "/api/disconnect" + query, body, kind)
        assert response.status_code == status
        assert words in response.text


async def test_a_token_may_not_disconnect_unless_it_says_so() -> None:
    async with serving(Token(name="x", digest=digest(b"s3cret"))) as (client, _):
        response = await client.post("/api/disconnect?user=bob")
        assert (response.status_code, response.text) == (403, "this token may not disconnect\n")
        response = await client.post("/api/publish/news?user=bob")
        assert response.status_code == 204


async def test_disconnecting_while_the_backend_is_away_is_503() -> None:
    backend = AskedBackend()
    async with serving(backend=backend) as (client, _):
        backend.go_away()
        response = await client.post("/api/disconnect?user=bob")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        assert "try again later" in response.text


@pytest.mark.parametrize("path", ["/api/disconnect?user=bob", "/api/publish/news?users=bob"])
async def test_without_a_token_nothing_else_is_told(path: str) -> None:
    async with serving(secured=False) as (client, _):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}):
            response = await client.post(path, headers=headers)
            assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert response.text == "the API needs the header Authorization: Bearer <token>\n"
        assert (await client.get(path)).status_code == 405


async def test_too_many_requests_are_429(autojump_clock: MockClock) -> None:
    async with serving(requests=2) as (client, _):

        async def statuses(paths: Iterable[str]) -> list[int]:
            return [(await client.post(path)).status_code for path in paths]

        # A burst of four, and one more that is on credit.
        assert await statuses(["/api/publish/a"] * 3 + ["/api/publish/a?user="]) == [204] * 3 + [
            400
        ]
        assert await statuses(["/api/disconnect?user=bob", "/api/publish/a"]) == [204, 429]
        response = await client.post("/api/disconnect?user=bob")
        assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
        assert (
            response.text == "requests or bytes of this token are over its rate, try again in 1 s\n"
        )
        await trio.sleep(1)
        assert await statuses(["/api/publish/a"]) == [204]
        # Each audience is one: from -1 + 4 to -7.
        await trio.sleep(2)
        assert await statuses(
            [
                "/api/publish/a?user=1&user=2&user=3",
                "/api/publish/a?" + "&".join(f"user={number}" for number in range(10)),
            ]
        ) == [204, 204]
        response = await client.post("/api/publish/a")
        assert response.status_code == 429
        waited = int(response.headers["Retry-After"])
        await trio.sleep(waited)
        assert await statuses(["/api/publish/a"]) == [204]


async def test_too_many_bytes_are_429(autojump_clock: MockClock) -> None:
    async with serving(size=100) as (client, _):
        publish = "/api/publish/a?user=1&user=2"
        assert (await client.post(publish, content="x" * 500)).status_code == 204
        response = await client.post("/api/publish/a", content="x")
        assert (response.status_code, response.headers["Retry-After"]) == (429, "8")
        await trio.sleep(8)
        # What is not published counts as well.
        response = await post(client, "/api/publish/a", "x" * 1001)
        assert response.status_code == 413
        response = await client.post("/api/publish/a")
        assert (response.status_code, response.headers["Retry-After"]) == (429, "11")


async def test_who_published_is_logged_and_no_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving() as (client, _):
        await client.post("/api/publish/a%E2%80%AEb?user=bob&user=eve&session=k3y", content="hi")
        await client.post("/api/disconnect?session=k3y&block=60")
        await client.post("/api/publish/a", headers={"Authorization": "Bearer wr0ng"})
    lines = [
        (record.levelname, record.getMessage())  # all of it: no query, no token
        for record in caplog.records
        if record.name.startswith("trio_beat")
    ]
    assert lines == [
        ("DEBUG", r"x published 2 bytes at 'a\u202eb' to user:2 session:1"),
        ("DEBUG", "x disconnected a session, code 4003, blocked for 60 s"),
    ]


async def test_answers_are_counted() -> None:
    async with serving() as (client, _):
        for path in ("publish/a", "publish/a", "disconnect?user=bob", "publish/a?x"):
            await client.post(f"/api/{path}")
        await client.post("/api/publish/a", headers={"Authorization": "Bearer wrong"})
        health = (await client.get("/healthz")).json()
        assert health["api"] == {"204": 3, "400": 1, "401": 1}


async def test_a_listener_of_its_own_has_health_and_the_api_and_no_page() -> None:
    async with serving(internal=True) as (client, _):
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).text == "ready\n"
        assert (await client.post("/api/publish/a")).status_code == 204
        answer = await client.get("/")
        assert answer.status_code == 404
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


async def test_then_the_public_one_has_pages_alone() -> None:
    async with open_hub() as hub:
        tokens = Tokens([EVERYTHING], requests=0, size=0)
        site = Site(
            hub=hub,
            draining=bool,
            statistics=dict,
            heartbeat=Heartbeat(),
            path_prefix="/ws/",
            api=API(hub=hub, tokens=tokens, max_message_size=1),
            internal=True,
        )
        app = httpx.ASGITransport(make_app(site))
        async with httpx.AsyncClient(transport=app, base_url="http://x", headers=BEARER) as client:
            for path in ("/healthz", "/readyz", "/api/publish/a", "/api/disconnect"):
                assert (await client.get(path)).status_code == 404
                assert (await client.post(path)).status_code == 404
            page = (await client.get("/")).text
            assert "/healthz" not in page
            assert "{{" not in page
