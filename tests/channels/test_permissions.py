"""What a connection may do: by its target, its identity, and the application's decision."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_beat import Identity, Permissions, Refused, Request
from trio_beat._channels.grammar import ChannelError, Target, parse_target
from trio_beat._channels.permissions import Channels, Permit, TooManyChannelsError

PREFIX = "/ws/"
NAMED = ["user", "group", "session"]
BOB = Identity(user="bob", groups=["staff", "ops"], session="k3y")
REQUEST = Request.of("/ws/news", [], peer="192.0.2.1:5")
audiences = st.lists(st.sampled_from(["broadcast", *NAMED]), unique=True).map(tuple)
EVERYTHING = Target(
    "news", ("broadcast", "user", "group", "session"), ("broadcast", "user"), echo=True
)


def permit(target: Target, identity: Identity | None = None, **options: Any) -> Channels:
    return Permit(Permissions(**options)).permit_nowait(target, identity)


def target(query: str, facility: str = "news") -> Target:
    return parse_target(f"/ws/{facility}?{query}", PREFIX)


@pytest.mark.parametrize(
    ("asked", "channels"),
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
def test_all_may_broadcast(asked: Target, channels: Channels) -> None:
    assert permit(asked) == permit(asked, BOB) == channels


def test_a_peer_has_the_channels_of_its_own_names() -> None:
    own = ("user:bob:news", "group:staff:news", "group:ops:news", "session:k3y:news")
    assert permit(EVERYTHING, BOB) == Channels(
        ("broadcast:news", *own), ("broadcast:news", "user:bob:news"), echo=True
    )


def test_a_session_needs_no_user() -> None:
    visitor = Identity(session="k3y")
    assert permit(target("subscribe-session"), visitor).subscribe == ("session:k3y:news",)
    with pytest.raises(
        ChannelError, match=r"^'subscribe-user' is not allowed: this peer is no user$"
    ):
        permit(target("subscribe-user"), visitor)


def test_a_user_without_groups_hears_none() -> None:
    """A page asks for the groups of all its users alike."""
    assert permit(target("subscribe-group"), Identity(user="bob")).subscribe == ()
    with pytest.raises(
        ChannelError, match="'subscribe-group' is not allowed: this peer is no user"
    ):
        permit(target("subscribe-group"), Identity(session="k3y"))


def test_a_group_that_is_named_twice_is_published_to_once() -> None:
    twice = Identity(user="bob", groups=["staff", "staff"])
    assert permit(target("publish-group"), twice).publish == ("group:staff:news",)


@given(subscribe=audiences, publish=audiences, echo=st.booleans())
def test_what_needs_an_identity_is_refused_by_the_name_of_the_audience(
    subscribe: tuple[str, ...], publish: tuple[str, ...], echo: bool
) -> None:
    asked = Target("news", subscribe, publish, echo)
    wanted = [
        *(f"subscribe-{audience}" for audience in subscribe if audience in NAMED),
        *(f"publish-{audience}" for audience in publish if audience in NAMED),
    ]
    if not wanted:
        assert permit(asked).echo is echo
        return
    with pytest.raises(ChannelError, match=f"^'{wanted[0]}' is not allowed: ") as caught:
        permit(asked)
    assert caught.value.status == 403
    dropped = permit(asked, denied="drop")
    assert {*dropped.subscribe, *dropped.publish} <= {"broadcast:news"}
    assert bool(dropped.subscribe) is ("broadcast" in subscribe)


def test_what_is_not_allowed_may_be_dropped() -> None:
    """As ws4redis does it: its anonymous visitors get in."""
    assert permit(EVERYTHING, denied="drop") == Channels(
        ("broadcast:news",), ("broadcast:news",), echo=True
    )


@pytest.mark.parametrize("identity", [None, BOB])
@pytest.mark.parametrize("allow", [(), ("subscribe-broadcast",), ("publish-broadcast",)])
def test_what_all_may_do_can_be_less(allow: tuple[str, ...], identity: Identity | None) -> None:
    for action in ("subscribe", "publish"):
        query = f"{action}-broadcast"
        if query in allow:
            assert permit(target(query), identity, allow=allow) != Channels((), (), echo=False)
        else:
            with pytest.raises(ChannelError, match=f"^'{query}' is not allowed$") as caught:
                permit(target(query), identity, allow=allow)
            assert caught.value.status == 403


def test_patterns_take_the_place_of_the_default() -> None:
    listener = Identity(user="bob", subscribe=["broadcast:news", "user:bob:*"], publish=[])
    assert permit(target("subscribe-broadcast&subscribe-user"), listener).subscribe == (
        "broadcast:news",
        "user:bob:news",
    )
    for query, facility in (
        ("subscribe-broadcast", "sport"),
        ("publish-broadcast", "news"),
        ("publish-user", "news"),
    ):
        with pytest.raises(ChannelError, match=f"^'{query}' is not allowed$"):
            permit(target(query, facility), listener)
    # Also where not everybody may: who gave the identity knows better.
    assert permit(target("subscribe-broadcast"), listener, allow=()).subscribe
    # One that is left out stays the default.
    writer = Identity(user="bob", publish=["broadcast:sport"])
    assert permit(target("subscribe-broadcast"), writer).subscribe == ("broadcast:news",)


@pytest.mark.parametrize("audience", NAMED)
def test_facility_that_would_make_a_key_ambiguous_is_refused(audience: str) -> None:
    for asked in (
        Target("admins:x", ("broadcast", audience), (), echo=False),
        Target("admins:x", (), (audience,), echo=False),
    ):
        with pytest.raises(ChannelError, match="facility 'admins:x' has a colon") as caught:
            permit(asked, BOB)
        assert caught.value.status == 400
        # For a visitor it would be left out for want of a name.
        assert permit(asked, BOB, denied="drop") == permit(asked, None, denied="drop")


@pytest.mark.parametrize("audience", NAMED)
def test_a_name_with_a_colon_has_no_channel(audience: str) -> None:
    identity = Identity(user="a:b", groups=["a:b"], session="a:b")
    asked = target(f"subscribe-{audience}")
    with pytest.raises(ChannelError, match="has a colon") as caught:
        permit(asked, identity)
    assert caught.value.status == 403
    assert "a:b" not in str(caught.value)
    assert permit(asked, identity, denied="drop").subscribe == ()


def test_different_spellings_of_a_facility_share_a_channel() -> None:
    asked = parse_target("/ws/%6Eews?subscribe-broadcast", PREFIX)
    assert permit(asked).subscribe == ("broadcast:news",)


def test_equal_targets_share_one_object() -> None:
    judge = Permit(Permissions())
    of = "/ws/shared?subscribe-broadcast&publish-broadcast"
    identities = [None, BOB, Identity(user="eve")]
    one, two, three = (
        judge.permit_nowait(parse_target("".join(list(of)), PREFIX), identity)
        for identity in identities
    )
    assert one is two is three
    assert one.subscribe[0] is one.publish[0]


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["a", "%F0%9F%90%89", "?subscribe-broadcast&"])
@pytest.mark.parametrize("length", [240, 8000])
def test_long_targets_are_not_remembered(piece: str, length: int) -> None:
    """A peer may send 8 KiB each time: a thousand of them would be some 30 MiB."""
    judge = Permit(Permissions())
    tracemalloc.start()
    try:
        for number in range(300 if length > 1000 else 1100):
            fill = piece * ((length - 40) // len(piece))
            asked = parse_target(f"/ws/{number}{fill}?subscribe-broadcast", PREFIX)
            judge.permit_nowait(asked, None)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 2**20


@pytest.mark.parametrize("waiting", [False, True])
async def test_an_application_decides_about_each_channel_once(waiting: bool) -> None:
    asked: list[tuple[object, ...]] = []

    def decide(identity: Identity | None, action: str, channel: str, request: Request) -> Any:
        asked.append((identity, action, channel, request))
        allowed = channel != "group:ops:news"
        if not waiting:
            return allowed

        async def later() -> bool:
            await trio.lowlevel.checkpoint()
            return allowed

        return later()

    judge = Permit(Permissions(decide=decide, denied="drop", allow=()))
    channels = await judge.permit(EVERYTHING, BOB, REQUEST)
    assert judge.waits
    subscribe = ["broadcast:news", "user:bob:news", "group:staff:news", "session:k3y:news"]
    assert channels.subscribe == tuple(subscribe)
    assert channels.publish == ("broadcast:news", "user:bob:news")
    assert [call[1:3] for call in asked] == [
        *(("subscribe", key) for key in (*subscribe[:3], "group:ops:news", subscribe[3])),
        ("publish", "broadcast:news"),
        ("publish", "user:bob:news"),
    ]
    assert all(call[0] is BOB and call[3] is REQUEST for call in asked)


async def test_an_application_is_asked_once_about_a_group_that_is_named_twice() -> None:
    asked: list[str] = []

    def decide(identity: Identity | None, action: str, channel: str, request: Request) -> bool:
        asked.append(channel)
        return True

    twice = Identity(user="bob", groups=["staff", "ops", "staff"])
    judge = Permit(Permissions(decide=decide))
    channels = await judge.permit(target("subscribe-group"), twice, REQUEST)
    assert channels.subscribe == tuple(asked) == ("group:staff:news", "group:ops:news")


async def test_what_an_application_denies_is_named_by_its_audience() -> None:
    judge = Permit(Permissions(decide=lambda *_: False))
    with pytest.raises(ChannelError, match=r"^'subscribe-group' is not allowed$") as caught:
        await judge.permit(target("subscribe-group"), BOB, REQUEST)
    assert caught.value.status == 403


async def test_an_application_is_not_asked_for_what_nobody_has() -> None:
    def decide(*_: object) -> bool:
        raise AssertionError

    with pytest.raises(ChannelError, match="this peer is no user"):
        await Permit(Permissions(decide=decide)).permit(target("subscribe-user"), None, REQUEST)


async def test_an_application_may_refuse_in_its_own_words() -> None:
    def decide(*_: object) -> bool:
        raise Refused(402, "pay first")

    with pytest.raises(Refused, match="pay first"):
        await Permit(Permissions(decide=decide)).permit(target("subscribe-user"), BOB, REQUEST)


@pytest.mark.parametrize("answer", [None, 1, "yes"])
async def test_an_answer_that_is_no_bool_is_an_error(answer: Any) -> None:
    judge = Permit(Permissions(decide=lambda *_: answer))
    with pytest.raises(TypeError, match=r"^decide returned an object of type "):
        await judge.permit(target("subscribe-user"), BOB, REQUEST)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"allow": "subscribe-broadcast"}, TypeError, "it must be several texts"),
        ({"allow": ["subscribe-user"]}, ValueError, "there are subscribe-broadcast and publish-"),
        ({"denied": "ignore"}, ValueError, "it must be 'refuse' or 'drop'"),
        ({"decide": True}, TypeError, "it must be a function, or None"),
    ],
)
def test_permissions_are_checked(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Permissions(**options)


@pytest.mark.parametrize(("most", "fits"), [(0, True), (4, False), (5, True)])
def test_a_connection_has_so_many_channels(most: int, fits: bool) -> None:
    """One that it hears and publishes to is one."""
    permit = Permit(Permissions(), most)
    both = ("broadcast", *NAMED)
    asked = Target("news", both, both, echo=False)
    if fits:
        assert len(permit.permit_nowait(asked, BOB).subscribe) == 5
    else:
        with pytest.raises(TooManyChannelsError, match="more than 4 channels") as caught:
            permit.permit_nowait(asked, BOB)
        assert caught.value.status == 403
