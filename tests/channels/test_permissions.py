"""What a connection may do of which nothing but its target is known."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_the_key_of_a_channel_is_its_audience_and_facility() -> None:
    assert channel_key("broadcast", "news") == "broadcast:news"


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
