"""Keys of channels: those of ws4redis, and never one that could be read in two ways."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ws4redis import django
from trio_beat._channels.grammar import ChannelError
from trio_beat._channels.keys import Patterns, channel_key, matches

NAMED = ["user", "group", "session"]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("broadcast", "news"), "broadcast:news"),
        (("broadcast", "a:b"), "broadcast:a:b"),
        (("user", "news", "john"), "user:john:news"),
        (("group", "a b/\u00e9", "all of us"), "group:all of us:a b/\u00e9"),
        (("session", "news", "tfo4xm2u"), "session:tfo4xm2u:news"),
    ],
)
def test_the_key_of_a_channel_is_that_of_ws4redis(arguments: tuple[str, ...], key: str) -> None:
    assert channel_key(*arguments) == key


@pytest.mark.real
async def test_ws4redis_writes_the_same_keys() -> None:
    async with django() as project:
        for facility in ("news", "a b/\u00e9{0}"):
            theirs = await project.keys(
                facility, broadcast=True, users=["john"], groups=["all of us"], sessions=["tfo4x"]
            )
            named = [("user", "john"), ("group", "all of us"), ("session", "tfo4x")]
            ours = [channel_key(audience, facility, name) for audience, name in named]
            assert theirs == sorted([channel_key("broadcast", facility), *ours])


@given(
    audience=st.sampled_from(NAMED),
    parts=st.lists(st.text("ab", min_size=1), min_size=2, max_size=5),
)
def test_key_that_could_be_read_in_two_ways_is_not_made(audience: str, parts: list[str]) -> None:
    """ws4redis publishes to keys of any text, and peers choose their facility."""
    readings = [(":".join(parts[:at]), ":".join(parts[at:])) for at in range(1, len(parts))]
    if len(readings) == 1:
        assert channel_key(audience, parts[1], parts[0]) == ":".join([audience, *parts])
        return
    for name, facility in readings:
        with pytest.raises(ChannelError, match="has a colon") as caught:
            channel_key(audience, facility, name)
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("group", "admins:x", "staff"), "facility 'admins:x' has a colon: "),
        (("group", "x", "staff:admins"), "the name of a group has a colon: "),
        (("session", "x", "s3:cret"), "the name of a session has a colon: only facilities of "),
        (("user", "x", ""), "the name of a user must not be empty"),
        (("session", "", "tfo4xm2u"), "a facility must not be empty"),
        (("broadcast", ""), "a facility must not be empty"),
        (("broadcast", "x", "john"), "audience 'broadcast' has no name"),
        (("user", "x"), "audience 'user' needs a name"),
        (("users", "x", "john"), "no audience 'users', there are broadcast, user, group, session"),
    ],
)
def test_key_that_cannot_be_made_is_refused(arguments: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        channel_key(*arguments)


@pytest.mark.parametrize(
    ("pattern", "key", "matching"),
    [
        ("broadcast:news", "broadcast:news", True),
        ("broadcast:news", "broadcast:new", False),
        ("broadcast:*", "broadcast:news", True),
        ("broadcast:*", "broadcast:", True),
        ("broadcast:*", "broadcast:a:b", False),
        ("broadcast:*:*", "broadcast:a:b", True),
        ("*", "broadcast:news", False),
        ("*:*", "broadcast:news", True),
        ("user:*:news", "user:bob:news", True),
        ("user:*:news", "user:bob:sport", False),
        ("broadcast:a*c", "broadcast:abc", True),
        ("broadcast:a*c", "broadcast:ac", True),
        ("broadcast:ab*bc", "broadcast:abc", False),
        ("broadcast:*b*", "broadcast:abc", True),
        ("broadcast:**", "broadcast:abc", True),
        ("broadcast:*ab*ab*", "broadcast:abab", True),
        ("broadcast:*ab*ab*", "broadcast:aba", False),
        ("broadcast:n?ws", "broadcast:news", False),
        ("broadcast:[n]ews", "broadcast:news", False),
        ("Broadcast:news", "broadcast:news", False),
        ("", "", True),
    ],
)
def test_a_star_matches_what_has_no_colon(pattern: str, key: str, matching: bool) -> None:
    assert matches(pattern, key) is matching


@given(st.text("ab*:"), st.text("ab:"))
def test_patterns_match_as_an_expression_would(pattern: str, key: str) -> None:
    expression = "[^:]*".join(re.escape(piece) for piece in pattern.split("*"))
    assert matches(pattern, key) is (re.fullmatch(expression, key) is not None)


@given(st.lists(st.text("ab*:"), max_size=4), st.text("ab*:"))
def test_any_of_several_patterns_will_do(patterns: list[str], key: str) -> None:
    assert Patterns(patterns).match(key) is any(matches(pattern, key) for pattern in patterns)


def test_no_key_makes_matching_slow() -> None:
    """An expression that goes back would take longer than the universe is old."""
    assert not matches("broadcast:" + "*a" * 40 + "b", "broadcast:" + "a" * 8000)


def test_a_pattern_for_each_of_many_keys_makes_matching_no_slower() -> None:
    """A comparison of each with each would take an hour."""
    keys = [f"group:g{number}:x" for number in range(100_000)]
    patterns = Patterns(keys)
    assert all(map(patterns.match, keys))
