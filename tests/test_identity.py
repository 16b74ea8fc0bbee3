"""Identities: what they take, what they refuse, and what they do not show."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from trio_beat import Identity


def test_all_of_it_may_be_left_out() -> None:
    identity = Identity()
    assert (identity.user, identity.groups, identity.session) == (None, (), None)
    assert (identity.expires_at, identity.subscribe, identity.publish) == (None, None, None)
    assert identity.info is None


def test_several_texts_become_tuples() -> None:
    identity = Identity(
        user="bob", groups=["staff"], subscribe=["broadcast:*"], publish=iter(()), info={"a": 1}
    )
    assert identity.groups == ("staff",)
    assert identity.subscribe == ("broadcast:*",)
    assert identity.publish == ()
    assert identity.info == {"a": 1}


def test_it_is_compared_by_value_and_can_be_copied() -> None:
    identity = Identity(user="bob", session="k3y", expires_at=5)
    assert identity == copy.deepcopy(identity) == pickle.loads(pickle.dumps(identity))
    assert identity != Identity(user="bob")


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Identity().user = "eve"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"user": ""}, ValueError, "user is empty; it must be a text that is not empty, or None"),
        ({"user": b"bob"}, TypeError, "user is of type bytes"),
        ({"user": "\ud800"}, ValueError, "user has a surrogate"),
        ({"session": ""}, ValueError, "session is empty"),
        ({"session": 5}, TypeError, "session is of type int"),
        ({"groups": "staff"}, TypeError, "groups must be several texts, such as a list"),
        ({"groups": ["a", ""]}, ValueError, "groups is empty; it must be several texts"),
        ({"groups": ["a", None]}, TypeError, "groups is of type NoneType"),
        ({"subscribe": "broadcast:*"}, TypeError, "subscribe must be several texts"),
        ({"publish": [1]}, TypeError, "publish is of type int"),
        ({"expires_at": float("nan")}, ValueError, "expires_at is not finite"),
        ({"expires_at": float("inf")}, ValueError, "expires_at is not finite"),
        ({"expires_at": 10**400}, ValueError, "expires_at is not finite"),
        ({"expires_at": "soon"}, TypeError, "expires_at is 'soon'"),
        ({"expires_at": True}, TypeError, "expires_at is True"),
    ],
)
def test_what_is_wrong_is_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Identity(**arguments)


def test_no_error_and_no_repr_quotes_a_session() -> None:
    identity = Identity(user="bob", groups=["staff"], session="k3y", info={"email": "b@x"})
    assert repr(identity) == "Identity(user='bob', groups=('staff',), session=...)"
    assert repr(Identity(session=None)) == "Identity(user=None, groups=())"
    with pytest.raises(TypeError) as caught:
        Identity(session=b"k3y")  # type: ignore[arg-type]
    assert "k3y" not in str(caught.value)
