"""The grammar of a connection's URL."""

from __future__ import annotations

import tracemalloc
import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_beat._channels.grammar import (
    ChannelError,
    Channels,
    _parse_shared,
    below,
    parse_facility,
    parse_target,
)

PREFIX = "/ws/"
VERBS = ("subscribe-", "publish-")

facilities = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)
values = st.sampled_from(["", "=", "=1", "=a=b"])
known = st.sampled_from(["subscribe-broadcast", "publish-broadcast", "echo"])
unknown = st.text(st.sampled_from("abcehoprsu-%2B.")).filter(
    lambda name: name != "echo" and not name.startswith(VERBS)
) | st.sampled_from(["echoes", "no-echo", "Echo", "subscribe", "Publish-broadcast"])
#: Misspelt audiences, also by the case of a letter or a percent sign.
misspelt = st.tuples(
    st.sampled_from(VERBS),
    st.sampled_from(["", "broadcasts", "Broadcast", "broadcas%74", "-broadcast", "users", "echo"]),
).map("".join)
identities = st.tuples(st.sampled_from(VERBS), st.sampled_from(["user", "group", "session"])).map(
    "".join
)


def target(facility: str, *parameters: str) -> str:
    return PREFIX + quote(facility, safe="") + "?" + "&".join(parameters)


def refused(of: str) -> ChannelError:
    with pytest.raises(ChannelError) as caught:
        parse_target(of, PREFIX)
    return caught.value


def test_url_of_the_design() -> None:
    assert parse_target("/ws/news?subscribe-broadcast&publish-broadcast&echo", PREFIX) == Channels(
        "news", ("broadcast:news",), ("broadcast:news",), echo=True
    )


@pytest.mark.parametrize("of", ["/ws/news", "/ws/news?", "/ws/news?&&", "/ws/news?=1"])
def test_nothing_is_asked_for_by_default(of: str) -> None:
    assert parse_target(of, PREFIX) == Channels("news", (), (), echo=False)


@given(
    facility=facilities,
    parameters=st.lists(st.tuples(known | unknown, values).map("".join)),
)
def test_known_parameters_count_once_in_any_order_and_unknown_ones_are_ignored(
    facility: str, parameters: list[str]
) -> None:
    names = {parameter.partition("=")[0] for parameter in parameters}
    channel = (f"broadcast:{facility}",)
    assert parse_target(target(facility, *parameters), PREFIX) == Channels(
        facility,
        channel if "subscribe-broadcast" in names else (),
        channel if "publish-broadcast" in names else (),
        echo="echo" in names,
    )


@given(
    before=st.lists(known | unknown), wrong=misspelt, value=values, behind=st.lists(known | unknown)
)
def test_misspelt_audience_is_named_with_what_is_allowed(
    before: list[str], wrong: str, value: str, behind: list[str]
) -> None:
    refusal = refused(target("news", *before, wrong + value, *behind))
    verb = next(verb for verb in VERBS if wrong.startswith(verb))
    allowed = ", ".join(
        f"{verb}{audience}" for audience in ("broadcast", "user", "group", "session")
    )
    assert refusal.status == 400
    assert str(refusal) == f"unknown parameter {wrong!r}, allowed are {allowed}"


@given(before=st.lists(known | unknown), wanted=identities, value=values)
def test_audience_that_needs_an_identity_is_refused_by_name(
    before: list[str], wanted: str, value: str
) -> None:
    refusal = refused(target("news", *before, wanted + value))
    assert refusal.status == 403
    assert repr(wanted) in str(refusal)


@given(facility=facilities)
def test_facility_is_decoded_from_percents(facility: str) -> None:
    assert parse_facility(quote(facility, safe="")) == facility


@pytest.mark.parametrize(
    ("quoted", "facility"),
    [
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("caf%C3%A9", "caf\u00e9"),
        ("a%2Fb", "a/b"),
        ("a/b", "a/b"),
        ("a%3Fb", "a?b"),
        ("100%", "100%"),
        ("%25zz", "%zz"),
        ("%2525", "%25"),
    ],
)
def test_percents_are_decoded_once_and_nothing_else_is(quoted: str, facility: str) -> None:
    assert parse_target(f"/ws/{quoted}", PREFIX).facility == facility


def test_different_spellings_of_a_facility_share_a_channel() -> None:
    assert parse_target("/ws/%6Eews?subscribe-broadcast", PREFIX).subscribe == ("broadcast:news",)


@pytest.mark.parametrize("of", ["/ws/", "/ws/?subscribe-broadcast"])
def test_facility_must_be_there(of: str) -> None:
    refusal = refused(of)
    assert refusal.status == 400
    assert "facility missing" in str(refusal)


@given(
    st.sampled_from([chr(n) for n in range(256) if unicodedata.category(chr(n)) == "Cc"]),
    st.text("ab"),
    st.text("ab"),
)
def test_facility_must_not_have_control_characters(control: str, before: str, behind: str) -> None:
    facility = before + control + behind
    refusal = refused(target(facility))
    assert refusal.status == 400
    assert str(refusal) == f"facility {facility!r} has control characters"


@pytest.mark.parametrize("quoted", ["%FF", "a%C3", "%ED%A0%80", "%C0%AF"])
def test_facility_must_be_utf8(quoted: str) -> None:
    refusal = refused(f"/ws/{quoted}")
    assert refusal.status == 400
    assert str(refusal) == f"facility {quoted!r} is not UTF-8"


@pytest.mark.parametrize("of", ["/", "", "*", "/ws", "/wss/news", "/chat?subscribe-broadcast"])
def test_path_must_begin_with_the_prefix(of: str) -> None:
    refusal = refused(of)
    assert refusal.status == 404
    assert "/ws/<facility>" in str(refusal)


@pytest.mark.parametrize(
    ("path", "rest"),
    [
        ("/ws/news", "news"),
        ("/w%73/news", "news"),
        ("/w%73%2fnews", "news"),
        ("%2F%77%73%2Fa%2Fb", "a%2Fb"),
        ("/ws/%6Eews", "%6Eews"),
        ("/w%2573/news", None),
        ("//ws/news", None),
        ("/WS/news", None),
        ("/ws", None),
        ("/w", None),
        ("", None),
    ],
)
def test_prefix_is_compared_decoded_once(path: str, rest: str | None) -> None:
    assert below(path, PREFIX) == rest
    if rest is not None:
        assert parse_target(path, PREFIX).facility == unquote(rest)


def test_prefix_may_have_any_characters() -> None:
    assert below("/caf%c3%A9.%2b/x", "/caf\u00e9.+/") == "x"
    assert below("/caf%c3%A9,+/x", "/caf\u00e9.+/") is None


def test_prefix_is_taken_off_once() -> None:
    assert parse_target("/ws//ws/news", PREFIX).facility == "/ws/news"


def test_equal_targets_share_one_object() -> None:
    of = "/ws/shared?subscribe-broadcast"
    assert parse_target(of, PREFIX) is parse_target("".join(list(of)), PREFIX)


@pytest.mark.parametrize("piece", ["a", "%F0%9F%90%89", "?subscribe-broadcast&"])
@pytest.mark.parametrize("length", [240, 8000])
def test_long_targets_are_not_remembered(piece: str, length: int) -> None:
    """A peer may send 8 KiB each time: a thousand of them would be some 30 MiB."""
    _parse_shared.cache_clear()
    tracemalloc.start()
    try:
        for number in range(300 if length > 1000 else 1100):
            fill = piece * ((length - 40) // len(piece))
            parse_target(f"/ws/{number}{fill}?subscribe-broadcast", PREFIX)
        held, _ = tracemalloc.get_traced_memory()
        _parse_shared.cache_clear()
        held -= tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 2 * 2**20
