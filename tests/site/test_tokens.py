"""Tokens of the API, without HTTP."""

from __future__ import annotations

import pytest

from trio_beat._site.tokens import Allowance, Token, Tokens, check_sendable, digest

ONE = Token(name="one", digest=digest(b"the first of these tokens"))
TWO = Token(name="two", digest=digest(b"the second of these tokens"))


def test_each_is_found_and_no_other() -> None:
    tokens = Tokens([ONE, TWO], requests=0, size=0)
    assert tokens.find(b"the first of these tokens") is ONE
    assert tokens.find(b"the second of these tokens") is TWO
    for wrong in (b"", b"the first of these token", b"one", ONE.digest, ONE.digest.hex().encode()):
        assert tokens.find(wrong) is None


def test_all_are_compared_whichever_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(kept: bytes, offered: bytes) -> bool:
        compared.append(kept)
        return kept == offered

    tokens = Tokens([ONE, TWO], requests=0, size=0)
    monkeypatch.setattr("hmac.compare_digest", compare)
    for offered in (b"the first of these tokens", b"the second of these tokens", b"none"):
        tokens.find(offered)
    assert compared == [ONE.digest, TWO.digest] * 3


def test_no_token_is_shown() -> None:
    assert repr(ONE) == "Token(name='one', publish=None, disconnect=False)"


@pytest.mark.parametrize(
    ("patterns", "key", "allowed"),
    [
        (None, "user:bob:news", True),
        ((), "broadcast:news", False),
        (("broadcast:*",), "broadcast:news", True),
        (("broadcast:*",), "user:bob:news", False),
        (("broadcast:*",), "broadcast:a:b", False),
        (("broadcast:x", "user:*:orders"), "user:bob:orders", True),
    ],
)
def test_patterns_say_where_to(patterns: tuple[str, ...] | None, key: str, allowed: bool) -> None:
    assert Token(name="x", digest=b"", publish=patterns).may_publish(key) is allowed


@pytest.mark.parametrize(
    ("token", "why"),
    [
        ("short", "has 5 characters; it must have 16 or more"),
        ("a token with spaces in it", "characters that no header may have"),
        ("an-umlaut-\u00fc-is-none-of-these", "characters that no header may have"),
        ("", "characters that no header may have"),
    ],
)
def test_what_cannot_be_sent_or_is_soon_guessed_is_refused(token: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_sendable(token)


def test_a_rate_may_be_overdrawn_once_and_is_paid_back() -> None:
    allowance = Allowance(2, 10)
    assert allowance.wait(0) == 0
    allowance.take(0, requests=3, size=50)  # 20 may come at once
    assert allowance.wait(0) == 3
    assert allowance.wait(2) == 1
    assert allowance.wait(3) == 0
    allowance.take(3, requests=6)  # 4 may
    assert allowance.wait(3) == 1


def test_no_rate_is_no_limit() -> None:
    allowance = Allowance(0, 0)
    allowance.take(0, requests=10**9, size=10**12)
    assert allowance.wait(0) == 0


def test_a_rate_below_one_lets_one_through() -> None:
    allowance = Allowance(0.1, 0)
    allowance.take(0, requests=1)
    assert allowance.wait(0) == 0
    allowance.take(0, requests=1)
    assert allowance.wait(0) == 10


def test_replacing_them_gives_nobody_more() -> None:
    tokens = Tokens([ONE, TWO], requests=1, size=0)
    tokens.allowance(ONE).take(0, requests=5)
    again = Token(name="one", digest=digest(b"a newer one of that bearer"))
    tokens.replace([again])
    assert tokens.find(b"the first of these tokens") is None
    assert tokens.find(b"the second of these tokens") is None
    assert tokens.find(b"a newer one of that bearer") is again
    assert tokens.allowance(again).wait(0) == 3
    # One that was taken away while its request was read.
    assert tokens.allowance(TWO).wait(0) == 0
