"""What a channel counts."""

from __future__ import annotations

from tests.support.hub import Listener
from trio_beat._channels.subscriptions import Channel


def test_only_who_was_there_at_the_last_loss_and_still_is_has_missed() -> None:
    channel = Channel()
    stays, leaves, returns, late = (Listener() for _ in range(4))
    for listener in (stays, leaves, returns):
        channel.join(listener)
        assert not channel.has_missed(listener)
    channel.lose()
    channel.leave(leaves)
    channel.leave(returns)
    channel.join(returns)
    channel.join(late)
    missed = [channel.has_missed(listener) for listener in (stays, leaves, returns, late)]
    assert missed == [True, False, False, False]
    channel.lose()
    assert channel.has_missed(late)


def test_is_left_as_often_as_it_was_joined() -> None:
    channel, listener = Channel(), Listener()
    assert [channel.join(listener) for _ in range(3)] == [True, False, False]
    assert [channel.leave(listener) for _ in range(4)] == [True, True, True, False]
    assert not channel.subscribers
    assert channel.again is None
