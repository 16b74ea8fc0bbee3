"""Compressing and inflating messages (RFC 7692, section 7.2)."""

import contextlib
import random
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from tests.support.deflating import END, compressed, make_deflate, some_json
from trio_beat import Message
from trio_beat._protocol import deflate as deflate_module
from trio_beat._protocol.deflate import (
    PIECE,
    STEP,
    Deflate,
    Inflater,
    MalformedError,
    TooLargeError,
)
from trio_beat._protocol.messages import Deflated, bytes_held

LIMIT = 2**20


@pytest.fixture(autouse=True, params=["zlib", "isal"], scope="module")
def library(request: pytest.FixtureRequest) -> Iterator[None]:
    """All that is tested holds for zlib alone, and where ISA-L is installed."""
    if request.param == "isal" and not deflate_module.FAST:
        pytest.skip("isal is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "zlib":
            patch.setattr(deflate_module, "FAST", {})
        yield


def inflate(data: bytes, limit: int = LIMIT) -> bytes:
    inflater = Inflater(data, limit)
    while not inflater.step():
        pass
    return inflater.whole()


def payload(item: Message | Deflated) -> bytes:
    """The compressed payload of what is to be sent."""
    assert isinstance(item, Deflated)
    assert item.size == len(item.frame)
    head = {126: 4, 127: 10}.get(item.frame[1], 2)
    return item.frame[head:]


def prepare(deflate: Deflate, message: Message) -> int:
    """Returns how many pieces it took."""
    return sum(1 for _ in deflate.prepare(message))


contents = st.one_of(
    st.text(),
    st.binary(),
    st.builds(lambda part, times: part * times, st.text(min_size=1), st.integers(1, 3000)),
    st.builds(lambda part, times: part * times, st.binary(min_size=1), st.integers(1, 3000)),
)


@settings(deadline=None)
@given(contents, st.integers(9, 15), st.integers(1, 9), st.booleans())
def test_websockets_inflates_what_is_compressed(
    content: str | bytes, bits: int, level: int, prepared: bool
) -> None:
    deflate, message = make_deflate(level, bits), Message(content)
    if prepared:
        prepare(deflate, message)
    item = deflate.of(message)
    data = content.encode() if isinstance(content, str) else content
    if isinstance(item, Message):
        assert item is message
        return
    assert len(payload(item)) < len(data)
    opcode = Opcode.TEXT if isinstance(content, str) else Opcode.BINARY
    peer = PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=bits,
        local_max_window_bits=15,
    )
    assert item.frame[0] == 0xC0 | opcode  # final, RSV1
    frame = peer.decode(Frame(opcode, payload(item), rsv1=True))
    assert frame.data == data


@settings(deadline=None)
@given(contents, st.integers(9, 15))
def test_what_websockets_compresses_is_inflated(content: str | bytes, bits: int) -> None:
    data = content.encode() if isinstance(content, str) else content
    peer = PerMessageDeflate(True, True, 15, bits)
    frame = peer.encode(Frame(Opcode.BINARY, data))
    assert frame.rsv1
    assert inflate(bytes(frame.data)) == data


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("level", [1, 4, 6, 9])
def test_no_message_looks_back_further_than_its_window(
    bits: int, prepared: bool, level: int
) -> None:
    deflate = make_deflate(level, bits)
    for size in (PIECE, 4 * PIECE):
        # A pattern that comes again after each distance around the window.
        chance = random.Random(bits)
        block = bytes(chance.randrange(256) for _ in range(2**bits + 300))
        data = (block * (size // len(block) + 2))[: size if size <= PIECE else None]
        data += some_json(PIECE // 4).encode()
        message = Message(data[:PIECE] if not prepared else data)
        expected = message.payload
        if prepared:
            prepare(deflate, message)
        item = deflate.of(message)
        if isinstance(item, Message):
            continue
        # 16 bytes at a time: in larger pieces zlib finds what is beyond the window in its output.
        peer, inflated = zlib.decompressobj(-bits), b""
        data = payload(item) + END
        while data:
            inflated += peer.decompress(data, 16)
            data = peer.unconsumed_tail
        while part := peer.decompress(b"", 16):
            inflated += part
        assert inflated == expected


def test_that_a_window_is_exceeded_is_found_so() -> None:
    chance = random.Random(1)
    block = bytes(chance.randrange(256) for _ in range(2000))
    data = compressed(block * 3, bits=15) + END
    peer = zlib.decompressobj(-9)
    with pytest.raises(zlib.error, match="distance too far back"):
        while data:
            peer.decompress(data, 16)
            data = peer.unconsumed_tail


@pytest.mark.parametrize("level", [1, 4, 6, 9])
def test_messages_do_not_refer_to_earlier_ones(level: int) -> None:
    deflate = make_deflate(level)
    results = {payload(deflate.of(Message(some_json(1000)))) for _ in range(3)}
    assert [inflate(data) for data in results] == [some_json(1000).encode()]


def test_a_message_is_compressed_once() -> None:
    deflate, message = make_deflate(), Message(some_json(1000))
    first = deflate.of(message)
    assert deflate.of(message) is first
    assert deflate.counts.statistics().compressed == 1
    other = make_deflate(window_bits=10).of(message)
    assert other is not first
    assert inflate(payload(other)) == inflate(payload(first))
    assert deflate.of(message) is first


def test_a_message_keeps_a_result_for_each_window_and_tells_what_they_hold() -> None:
    message = Message(some_json(2000))
    plain = bytes_held(message)
    deflates = [make_deflate(window_bits=bits) for bits in range(9, 16)]
    results = [deflate.of(message) for deflate in deflates]
    assert [deflate.of(message) for deflate in deflates] == results
    assert bytes_held(message) - plain > sum(result.size for result in results)


@pytest.mark.parametrize("size", [1000, 2 * PIECE])
def test_no_message_is_compressed_without_end(size: int) -> None:
    # As for servers with other options, since a server has seven windows.
    deflates = [make_deflate(window_bits=9, threshold=number) for number in range(20)]
    message = Message(some_json(size))
    for _ in range(2):
        for deflate in deflates:
            if deflate.wants(message):
                prepare(deflate, message)
            deflate.of(message)
    assert sum(deflate.counts.compressed for deflate in deflates) == 8
    assert deflates[-1].of(message) is message


def test_what_is_small_or_gets_no_smaller_goes_as_it_is() -> None:
    deflate = make_deflate(threshold=100)
    small = Message("a" * 99)
    assert deflate.of(small) is small
    assert deflate.counts.statistics().larger == 0
    enough = Message("a" * 100)
    assert isinstance(deflate.of(enough), Deflated)
    noise = Message(random.Random(1).randbytes(PIECE))
    assert deflate.of(noise) is noise is deflate.of(noise)
    assert deflate.counts.statistics().larger == 1
    large = Message(random.Random(1).randbytes(2 * PIECE))
    prepare(deflate, large)
    assert deflate.of(large) is large
    assert not deflate.wants(large)
    assert deflate.counts.statistics()[2:6] == (1, 2, 100, enough.deflated[deflate.key].size - 2)  # type: ignore[union-attr]


def test_the_threshold_counts_bytes_not_characters() -> None:
    deflate = make_deflate(threshold=100)
    assert isinstance(deflate.of(Message("ä" * 50)), Deflated)
    assert isinstance(deflate.of(Message("ä" * 49)), Message)


def test_a_large_message_goes_as_it_is_unless_it_was_prepared() -> None:
    deflate, message = make_deflate(), Message(some_json(10 * PIECE))
    assert deflate.wants(message)
    assert deflate.of(message) is message
    assert prepare(deflate, message) == 10
    assert not deflate.wants(message)
    assert inflate(payload(deflate.of(message))) == some_json(10 * PIECE).encode()


def test_preparing_that_is_given_up_leaves_nothing() -> None:
    deflate, message = make_deflate(), Message(some_json(10 * PIECE))
    pieces = deflate.prepare(message)
    next(pieces)
    pieces.close()
    assert not message.deflated
    assert deflate.counts.statistics().compressed == 0
    prepare(deflate, message)
    assert inflate(payload(deflate.of(message))) == some_json(10 * PIECE).encode()


def test_small_messages_may_be_compressed_while_a_large_one_is_prepared() -> None:
    deflate, large = make_deflate(), Message(some_json(4 * PIECE))
    for number, _ in enumerate(deflate.prepare(large)):
        small = f"{number}" * 500
        assert inflate(payload(deflate.of(Message(small)))) == small.encode()
    assert inflate(payload(deflate.of(large))) == some_json(4 * PIECE).encode()


@pytest.mark.parametrize("content", ["", b""])
def test_an_empty_message_goes_as_it_is(content: str | bytes) -> None:
    deflate = make_deflate()
    deflate.of(Message("a" * 100))
    message = Message(content)
    assert deflate.of(message) is message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # The examples of section 7.2.3, and an empty message (7.2.3.6).
        ("f248cdc9c90700", b"Hello"),
        ("000500faff48656c6c6f00", b"Hello"),
        ("f348cdc9c9070000", b"Hello"),
        ("f248050000 00ffffcac9c90700", b"Hello"),
        ("00", b""),
        ("030000", b""),
        # Blocks behind a final one.
        ("f348cdc9c90700 f248cdc9c90700", b"HelloHello"),
        ("f348cdc9c90700 f348cdc9c90700 00", b"HelloHello"),
    ],
)
def test_examples(data: str, message: bytes) -> None:
    assert inflate(bytes.fromhex(data)) == message


def test_every_truncation_is_found() -> None:
    whole = compressed(some_json(1200).encode())
    assert len(whole) > 200
    for size in range(len(whole)):
        with pytest.raises(MalformedError):
            inflate(whole[:size])


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes_are_a_message_or_malformed_or_too_large(data: bytes) -> None:
    with contextlib.suppress(MalformedError, TooLargeError):
        assert len(inflate(data, 10_000)) <= 10_000


@settings(deadline=None)
@given(st.integers(0, 5000), st.randoms(use_true_random=False))
def test_a_corrupted_message_is_a_message_or_malformed(size: int, chance: random.Random) -> None:
    data = bytearray(compressed(some_json(size).encode()))
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    with contextlib.suppress(MalformedError, TooLargeError):
        assert len(inflate(bytes(data), 10_000)) <= 10_000


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize("unit", [b"\0", b"abcdefghij"])
def test_the_limit_is_that_of_what_is_inflated(size: int, unit: bytes) -> None:
    data = (unit * size)[:size]
    if size > LIMIT:
        with pytest.raises(TooLargeError, match=f"limit of {LIMIT} bytes"):
            inflate(compressed(data))
    else:
        assert inflate(compressed(data)) == data


@pytest.mark.parametrize("limit", [1, 100, LIMIT])
def test_a_bomb_is_not_held(limit: int) -> None:
    bomb = compressed(bytes(64 * LIMIT))
    assert len(bomb) * 1000 < 64 * LIMIT
    empty = bytes.fromhex("000000ffff") * 10_000
    for data in (bomb, empty + bomb, bomb + END + empty + bomb):
        inflater = Inflater(data, limit)
        tracemalloc.start()
        try:
            with pytest.raises(TooLargeError):
                while not inflater.step():
                    pass
            assert tracemalloc.get_traced_memory()[1] < limit + STEP + 2**17
        finally:
            tracemalloc.stop()


def test_empty_blocks_are_no_bytes() -> None:
    assert inflate(bytes.fromhex("000000ffff") * 10_000 + b"\0") == b""


def test_final_blocks_and_zeros_come_in_steps() -> None:
    steps = 0
    inflater = Inflater(b"\x03\x00" * 10_000 + b"\0", LIMIT)  # empty final blocks
    while not inflater.step():
        steps += 1
    assert inflater.whole() == b""
    assert steps > 50
    steps = 0
    inflater = Inflater(compressed(bytes(LIMIT)), LIMIT)
    while not inflater.step():
        steps += 1
        assert inflater.held < LIMIT + 2 * 2**10 + 100
    assert 3 <= steps <= 8


def test_a_budget_that_is_spent_does_nothing() -> None:
    inflater = Inflater(compressed(b"x" * 100), LIMIT)
    assert inflater.step(0) == 0
    assert inflater.size == 0
    assert 0 < inflater.step(10**6) < 10**6
    assert inflater.whole() == b"x" * 100
