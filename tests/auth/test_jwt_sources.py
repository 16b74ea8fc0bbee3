"""Where tokens come from: a header, a subprotocol, the query, a cookie; the first counts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tokens import SECRET, bearing, refusal, requesting, token
from trio_beat import Request
from trio_beat.auth import JWT


async def test_there_may_be_none() -> None:
    jwt = JWT(SECRET, query="token", cookie="token")
    assert await jwt(requesting()) is None
    assert await jwt(requesting(("Cookie", "other=1"), query="other=1")) is None


async def test_each_may_have_it() -> None:
    jwt = JWT(SECRET, query="token", cookie="token")
    given = token()
    for request in (
        bearing(given),
        requesting(("Authorization", f"bearer  {given}")),
        requesting(("Sec-WebSocket-Protocol", f"bearer, {given}")),
        requesting(("Sec-WebSocket-Protocol", f"chat, bearer, {given}, x")),
        requesting(query=f"subscribe-user&token={given}"),
        requesting(("Cookie", f"a=b; token={given}")),
    ):
        identity = await jwt(request)
        assert identity is not None
        assert identity.user == "bob"


async def test_two_of_them_are_off() -> None:
    jwt = JWT(SECRET)
    given = token()
    assert await jwt(requesting(("Cookie", f"token={given}"), query=f"token={given}")) is None


async def test_the_first_counts_right_or_wrong() -> None:
    jwt = JWT(SECRET, query="token", cookie="token")
    good, bad = token(), token(b"x" * 32)
    kinds: list[tuple[str, Any]] = [
        ("header", lambda it: ("Authorization", f"Bearer {it}")),
        ("header", lambda it: ("Sec-WebSocket-Protocol", f"bearer, {it}")),
        ("query", lambda it: f"token={it}"),
        ("header", lambda it: ("Cookie", f"token={it}")),
    ]
    for index, (kind, make) in enumerate(kinds):
        for later_kind, make_later in kinds[index + 1 :]:
            parts = [(kind, make(bad)), (later_kind, make_later(good))]
            headers = [part for name, part in parts if name == "header"]
            query = "".join(part for name, part in parts if name == "query")
            text = await refusal(jwt, requesting(*headers, query=query))
            assert text == "the token's signature is wrong"
            parts = [(kind, make(good)), (later_kind, make_later(bad))]
            headers = [part for name, part in parts if name == "header"]
            query = "".join(part for name, part in parts if name == "query")
            assert await jwt(requesting(*headers, query=query)) is not None


@pytest.mark.parametrize(
    "request_",
    [
        requesting(("Authorization", "Basic Ym9iOnMzY3JldA==")),
        requesting(("Authorization", "s3cret")),
        requesting(("Authorization", "Bearer a.b.c"), ("Authorization", "Bearer a.b.c")),
        requesting(("Sec-WebSocket-Protocol", "bearer")),
        requesting(query="token=s3cret&token=s3cret"),
    ],
)
async def test_one_that_cannot_be_read_is_refused(request_: Request) -> None:
    text = await refusal(JWT(SECRET, query="token", cookie="token"), request_)
    assert "s3cret" not in text


@pytest.mark.parametrize(
    "request_",
    [
        bearing(""),
        requesting(query="token="),
        requesting(query="token"),
        requesting(("Cookie", "token=")),
    ],
)
async def test_an_empty_one_is_refused(request_: Request) -> None:
    text = await refusal(JWT(SECRET, query="token", cookie="token"), request_)
    assert text.startswith("this is no token: ")
