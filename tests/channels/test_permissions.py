"""What a connection may do of which nothing but its target is known."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ws4redis import django
from trio_beat._channels.grammar import ChannelError, Target, parse_target
from trio_beat._channels.permissions import Channels, channel_key, permit

PREFIX = "/ws/"
NAMED = ["user", "group", "session"]
audiences = st.lists(st.sampled_from(["broadcast", *NAMED]), unique=True).map(tuple)


@pytest.mark.parametrize(
    ("target", "channels"),
    [
        (Target("news", (), (), echo=False), Channels((), (), echo=False)),
        (
            Target("news", ("broadcast",), (), echo=True),
            Channels(("broadcast:news",), (), echo=True),
        ),
        (
            Target("a:b", ("broadcast",), ("broadcast",), echo=False),
            Channels(("broadcast:a:b",), ("broadcast:a:b",), echo=False),
        ),
    ],
)
def test_all_may_broadcast(target: Target, channels: Channels) -> None:
    assert permit(target) == channels


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


@given(subscribe=audiences, publish=audiences, echo=st.booleans())
def test_audience_that_needs_an_identity_is_refused_by_name(
    subscribe: tuple[str, ...], publish: tuple[str, ...], echo: bool
) -> None:
    target = Target("news", subscribe, publish, echo)
    wanted = [
        *(f"subscribe-{audience}" for audience in subscribe if audience in NAMED),
        *(f"publish-{audience}" for audience in publish if audience in NAMED),
    ]
    if not wanted:
        assert permit(target).echo is echo
        return
    with pytest.raises(ChannelError) as caught:
        permit(target)
    assert caught.value.status == 403
    text = f"{wanted[0]!r} needs an identity, which this server cannot give"
    assert str(caught.value) == text


@pytest.mark.parametrize("audience", NAMED)
def test_facility_that_would_make_a_key_ambiguous_is_refused(audience: str) -> None:
    for target in (
        Target("admins:x", ("broadcast", audience), (), echo=False),
        Target("admins:x", (), (audience,), echo=False),
    ):
        with pytest.raises(ChannelError, match="facility 'admins:x' has a colon") as caught:
            permit(target)
        assert caught.value.status == 400


def test_different_spellings_of_a_facility_share_a_channel() -> None:
    asked = parse_target("/ws/%6Eews?subscribe-broadcast", PREFIX)
    assert permit(asked).subscribe == ("broadcast:news",)


def test_equal_targets_share_one_object() -> None:
    of = "/ws/shared?subscribe-broadcast&publish-broadcast"
    one, two = (permit(parse_target("".join(list(of)), PREFIX)) for _ in range(2))
    assert one is two
    assert one.subscribe[0] is one.publish[0]


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["a", "%F0%9F%90%89", "?subscribe-broadcast&"])
@pytest.mark.parametrize("length", [240, 8000])
def test_long_targets_are_not_remembered(piece: str, length: int) -> None:
    """A peer may send 8 KiB each time: a thousand of them would be some 30 MiB."""
    tracemalloc.start()
    try:
        for number in range(300 if length > 1000 else 1100):
            fill = piece * ((length - 40) // len(piece))
            permit(parse_target(f"/ws/{number}{fill}?subscribe-broadcast", PREFIX))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 2**20
