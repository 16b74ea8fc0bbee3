"""The last messages that a hub keeps."""

from __future__ import annotations

from trio_beat import Message
from trio_beat._channels.subscriptions import Channel, LastMessages

ID = b"0123456789abcdef"


async def test_keeps_so_many_bytes_and_lets_go_of_the_oldest() -> None:
    last = LastMessages(keep=5000)
    channels = [Channel() for _ in range(20)]
    for turn in range(3):
        for channel in channels:
            message = Message(bytes(700), ID)
            last.note(channel, message, 10)
            assert channel.latest is message
            kept = [channel.latest for channel in channels if channel.latest is not None]
            assert sum(len(message.frame) for message in kept) <= 5000
        assert [channel.latest is not None for channel in channels] == [False] * 16 + [True] * 4
        assert [channel.forgotten for channel in channels] == [True] * 16 + [False] * 4
        last.note(channels[0], Message(bytes(10_000), ID), 10)
        assert all(channel.forgotten for channel in channels), turn
    last.note(channels[0], Message("", ID), 10)
    last.note(channels[0], Message(bytes(100), ID), 0)
    assert channels[0].latest == Message("", ID)
    last.clear()
    assert last._size == 0
    assert not last._channels
