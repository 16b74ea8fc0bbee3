"""What is called when a connection ends."""

from __future__ import annotations

from functools import partial

from trio_beat._connection.following import Following


def test_each_call_is_made_once_and_in_order() -> None:
    following, made = Following(), list[str]()
    for name in ("one", "two"):
        following.add("a", partial(made.append, name))
    following.add("b", partial(made.append, "of another"))
    following.ended("a")
    following.ended("a")
    assert made == ["one", "two"]
    following.ended("b")
    assert not following._calls


def test_what_is_removed_is_not_called() -> None:
    following, made = Following(), list[int]()
    for _ in range(2):
        following.add("a", made.clear)
    following.add("b", made.clear)
    following.remove("a", made.clear)
    assert len(following._calls["a"]) == 1
    for connection in ("a", "b", "a", "never seen"):
        following.remove(connection, made.clear)
    assert not following._calls


def test_a_call_may_remove_others_and_itself() -> None:
    following, made = Following(), list[str]()

    def call() -> None:
        made.append("called")
        following.remove("a", call)

    following.add("a", call)
    following.ended("a")
    assert made == ["called"]
