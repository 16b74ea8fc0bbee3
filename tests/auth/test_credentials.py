from __future__ import annotations

import pytest

from trio_beat import Refused, Request
from trio_beat.auth.credentials import offered_token


def offering(*values: str) -> Request:
    headers = [("Sec-WebSocket-Protocol", value) for value in values]
    return Request.of("/", headers, peer="192.0.2.1:4242")


@pytest.mark.parametrize(
    ("values", "token"),
    [
        ((), None),
        (("chat",), None),
        (("bearer, abc.def",), "abc.def"),
        (("bearer,abc, chat",), "abc"),
        (("chat, bearer, abc",), "abc"),
        (("bearer", "abc"), "abc"),
        (("Bearer, abc",), None),  # names are compared as they are
    ],
)
def test_the_token_stands_behind_the_subprotocol(
    values: tuple[str, ...], token: str | None
) -> None:
    assert offered_token(offering(*values)) == token


def test_a_bearer_without_a_token_is_refused() -> None:
    with pytest.raises(Refused, match="without a token") as caught:
        offered_token(offering("chat, bearer"))
    assert caught.value.status == 401
    assert caught.value.headers == (("WWW-Authenticate", 'Bearer error="invalid_request"'),)
