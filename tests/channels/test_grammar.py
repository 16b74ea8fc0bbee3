"""The grammar of a connection's URL."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from urllib.parse import quote, unquote, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ws4redis import django
from trio_beat._channels.grammar import (
    ChannelError,
    Target,
    below,
    parse_facility,
    parse_target,
)

PREFIX = "/ws/"
VERBS = ("subscribe-", "publish-")

facilities = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)
values = st.sampled_from(["", "=", "=1", "=a=b"])
AUDIENCES = ("broadcast", "user", "group", "session")
PARAMETERS = (*(verb + audience for verb in VERBS for audience in AUDIENCES), "echo")
#: Ways to write a letter of a parameter's name.
WAYS: tuple[Callable[[str], str], ...] = (str, str.upper, lambda it: f"%{ord(it):02x}")
around = st.sampled_from(["", "+", "%20", "%09"])


def read(name: str) -> str:
    """A parameter's name as Django and django-websocket-redis read it."""
    return unquote_plus(name).strip().lower()


@st.composite
def spelt(draw: st.DrawFn, names: st.SearchStrategy[str]) -> str:
    """One of some names, in any way to write it."""
    letters = [draw(st.sampled_from(WAYS))(letter) for letter in draw(names)]
    return draw(around) + "".join(letters) + draw(around)


known = spelt(st.sampled_from(PARAMETERS))
unknown = st.text(st.sampled_from("abcehoprsu-%2B.")).filter(
    lambda name: read(name) != "echo" and not read(name).startswith(VERBS)
) | st.sampled_from(["echoes", "no-echo", "subscribe", "subscribe_broadcast", "e+cho"])
misspelt = spelt(
    st.tuples(
        st.sampled_from(VERBS),
        st.sampled_from(["", "broadcasts", "broad cast", "-broadcast", "users", "echo"]),
    ).map("".join)
)


def target(facility: str, *parameters: str) -> str:
    return PREFIX + quote(facility, safe="") + "?" + "&".join(parameters)


def refused(of: str) -> ChannelError:
    with pytest.raises(ChannelError) as caught:
        parse_target(of, PREFIX)
    return caught.value


def test_url_of_the_design() -> None:
    assert parse_target("/ws/news?subscribe-broadcast&publish-broadcast&echo", PREFIX) == Target(
        "news", ("broadcast",), ("broadcast",), echo=True
    )


def test_names_of_parameters_have_any_case_and_any_value() -> None:
    assert parse_target(
        "/ws/news?Subscribe-Broadcast=no&PUBLISH-BROADCAST=0&Echo=&subscribe-broadcast", PREFIX
    ) == Target("news", ("broadcast",), ("broadcast",), echo=True)


@pytest.mark.parametrize("of", ["/ws/news", "/ws/news?", "/ws/news?&&", "/ws/news?=1"])
def test_nothing_is_asked_for_by_default(of: str) -> None:
    assert parse_target(of, PREFIX) == Target("news", (), (), echo=False)


@given(
    facility=facilities,
    parameters=st.lists(st.tuples(known | unknown, values).map("".join)),
)
def test_known_parameters_count_once_in_any_order_and_unknown_ones_are_ignored(
    facility: str, parameters: list[str]
) -> None:
    names = {read(parameter.partition("=")[0]) for parameter in parameters}
    asked = parse_target(target(facility, *parameters), PREFIX)
    for verb, audiences in zip(VERBS, (asked.subscribe, asked.publish), strict=True):
        assert len(audiences) == len(set(audiences))
        assert {verb + audience for audience in audiences} == {
            name for name in names if name.startswith(verb)
        }
    assert asked.facility == facility
    assert asked.echo is ("echo" in names)


@given(
    before=st.lists(known | unknown), wrong=misspelt, value=values, behind=st.lists(known | unknown)
)
def test_misspelt_audience_is_named_with_what_is_allowed(
    before: list[str], wrong: str, value: str, behind: list[str]
) -> None:
    refusal = refused(target("news", *before, wrong + value, *behind))
    verb = next(verb for verb in VERBS if read(wrong).startswith(verb))
    allowed = ", ".join(f"{verb}{audience}" for audience in AUDIENCES)
    assert refusal.status == 400
    assert str(refusal) == f"unknown parameter {wrong!r}, allowed are {allowed}"


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


def test_audiences_keep_their_order() -> None:
    asked = parse_target("/ws/news?publish-user&subscribe-session&subscribe-broadcast", PREFIX)
    assert asked == Target("news", ("session", "broadcast"), ("user",), echo=False)


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


@pytest.mark.real
async def test_ws4redis_reads_the_same_of_a_url() -> None:
    async with django() as project:
        for query in (
            "",
            "subscribe-broadcast&publish-user&echo",
            "Subscribe-Broadcast=no&PUBLISH-session=0&Echo=",
            "publish-group=1&publish-group=2&subscribe-user&subscribe-group&subscribe-session",
            "%73ubscribe%2Dbroadcast&+publish-broadcast%20&e%63ho%09=%3D",
            "subscribe&publish&echoes&-echo&ech%6f%6f&&=&subscribe_broadcast",
            "echo;subscribe-broadcast=1&e+cho",
        ):
            url = f"/ws/news?{query}"
            channels, echo = await project.parameters(url)
            asked = parse_target(url, PREFIX)
            ours = {"subscribe-" + audience for audience in asked.subscribe}
            ours |= {"publish-" + audience for audience in asked.publish}
            assert (ours, asked.echo) == (channels, echo)
