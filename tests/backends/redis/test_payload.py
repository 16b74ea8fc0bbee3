from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_beat import Message
from trio_beat.backends.redis.payload import MARK, to_message, to_payload

TEXTS = st.text()
BINARIES = st.one_of(
    st.binary(),
    TEXTS.map(str.encode),
    st.binary().map(MARK.__add__),
    st.integers(0, len(MARK)).map(lambda n: MARK[:n]),
)


@given(st.one_of(TEXTS, BINARIES))
def test_a_message_comes_back_with_its_kind(payload: str | bytes) -> None:
    message = to_message(to_payload(Message(payload)))
    assert (message.kind, message.payload) == (Message(payload).kind, payload)


@given(TEXTS)
def test_text_is_its_bytes(text: str) -> None:
    assert to_payload(Message(text)) == text.encode()


@given(st.binary())
def test_whatever_others_publish_is_a_message(payload: bytes) -> None:
    message = to_message(payload)
    try:
        assert message.payload == payload.decode()
    except UnicodeDecodeError:
        # It may begin with the mark.
        assert message.payload in (payload, payload.removeprefix(MARK))


@pytest.mark.parametrize(
    ("payload", "raw"),
    [
        ("hello", b"hello"),
        ("\u20ac", b"\xe2\x82\xac"),
        (b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0"),  # a JPEG
        (b"", MARK),
        (b"hello", MARK + b"hello"),
        (MARK, MARK + MARK),
        (MARK + b"\xff", MARK + MARK + b"\xff"),
        (MARK[:-1], MARK[:-1]),
    ],
)
def test_only_what_could_be_taken_for_another_has_a_mark(payload: str | bytes, raw: bytes) -> None:
    assert to_payload(Message(payload)) == raw


def test_no_byte_of_the_mark_occurs_in_text() -> None:
    assert not set(MARK) & set(
        "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)])).encode()
    )
