"""TLS by bytes alone, with records that a client of Python's cannot send."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.harness import tls_contexts
from tests.support.tls13 import Client, shake_hands
from trio_beat._transports.tls_session import Bios, Session

#: Bytes of a KeyUpdate's record.
UPDATE = 27
#: KeyUpdates that one read takes; each costs as much as ten messages.
MOST = 4


class Pair(NamedTuple):
    client: Client
    session: Session
    ours: socket.socket
    theirs: socket.socket
    view: memoryview

    def read(self) -> bytes | None:
        """One read of the session's."""
        count = self.session.receive(self.theirs, self.view)
        return None if count is None else bytes(self.view[:count])

    def read_all(self) -> bytes:
        """What comes until nothing does."""
        data = b""
        with suppress(BlockingIOError):
            while True:
                data += self.read() or b""
                assert self.session.bios.empty <= MOST
                assert self.session.bios.incoming.pending == 0
                assert self.session.bios.outgoing.pending == 0
        return data

    def write(self, data: bytes) -> bytes:
        """Write, and return what the client gets."""
        self.session.encrypt(data)
        return self.take()

    def take(self) -> bytes:
        """Send what waits, and return what the client gets."""
        data, sent = b"", False
        while not sent:
            sent = self.session.send(self.theirs)
            data += self.client.receive(self.ours.recv(65536))
        with suppress(BlockingIOError):
            while True:
                data += self.client.receive(self.ours.recv(65536))
        return data

    def clog(self) -> int:
        """Let the socket take no more; returns how much it took."""
        size = 0
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        while True:
            self.session.encrypt(b"x" * 10_000)
            size += 10_000
            if not self.session.send(self.theirs):
                return size


@pytest.fixture
def pair() -> Iterator[Pair]:
    client, session = shake_hands()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield Pair(client, session, ours, theirs, memoryview(bytearray(131072)))


def test_both_directions(pair: Pair) -> None:
    pair.ours.sendall(pair.client.data(b"in"))
    assert pair.read() == b"in"
    assert not pair.session.waiting
    with pytest.raises(BlockingIOError):
        pair.read()
    assert pair.write(b"out") == b"out"


class TestKeyUpdates:
    @pytest.mark.parametrize("requested", [False, True])
    @pytest.mark.parametrize("padding", [0, 100, 16_000])
    def test_one_read_takes_few(self, padding: int, requested: bool, pair: Pair) -> None:
        """OpenSSL would take all of them in one call, and all that come meanwhile."""
        count = 200 if padding < 1000 else 8
        for _ in range(count):
            pair.ours.sendall(pair.client.key_update(requested=requested, padding=padding))
        pair.ours.sendall(pair.client.data(b"behind"))
        reads = 1
        while not (data := pair.read()):
            assert data == b""
            assert pair.session.bios.empty <= MOST
            assert pair.session.bios.size <= MOST * (UPDATE + padding)
            assert pair.session.waiting or padding > 1000
            reads += 1
        assert data == b"behind"
        assert reads > count // MOST
        assert pair.write(b"out") == b"out"
        assert (pair.client.answers > 0) is requested

    def test_messages_between_them_do_not_let_more_pass(self, pair: Pair) -> None:
        for index in range(20):
            pair.ours.sendall(pair.client.key_update() + pair.client.data(b"%d " % index))
        expected, reads = b"".join(b"%d " % index for index in range(20)), list[bytes]()
        while b"".join(reads) != expected:
            reads.append(pair.read() or b"")
            assert pair.session.bios.empty <= MOST
        assert len(reads) > 20 // MOST

    def test_two_behind_a_record_that_the_socket_did_not_take_whole(self, pair: Pair) -> None:
        size = pair.clog()
        for _ in range(2):
            pair.ours.sendall(pair.client.key_update(requested=True))
        pair.ours.sendall(pair.client.data(b"behind"))
        assert pair.read_all() == b"behind"
        assert pair.write(b"more") == b"x" * size + b"more"
        assert pair.client.answers == 2
        pair.ours.sendall(pair.client.data(b"still"))
        assert pair.read() == b"still"

    def test_answers_that_the_peer_does_not_take_are_bounded(self, pair: Pair) -> None:
        pair.clog()
        waited = []
        with pytest.raises(ConnectionAbortedError, match="too many answers to KeyUpdates"):
            for _ in range(5000):
                pair.ours.sendall(pair.client.key_update(requested=True))
                pair.read_all()
                waited.append(len(pair.session.unsent))
        assert 16384 < max(waited) <= 2 * 16384

    def test_answers_need_no_write_of_ours(self, pair: Pair) -> None:
        for _ in range(3):
            pair.ours.sendall(pair.client.key_update(requested=True))
        assert pair.read_all() == b""
        # The last one's goes with the next write or read: RFC 8446 wants no more (section 4.6.3).
        assert pair.client.receive(pair.ours.recv(65536)) == b""
        assert pair.client.answers == 2
        assert pair.write(b"out") == b"out"
        assert pair.client.answers == 3


def test_records_without_bytes_are_few(pair: Pair) -> None:
    """OpenSSL allows 32 in a row."""
    for _ in range(20):
        pair.ours.sendall(pair.client.data(b""))
    for _ in range(20 // MOST):
        assert pair.read() == b""
        assert pair.session.bios.empty == MOST
    with pytest.raises(BlockingIOError):
        pair.read()


def test_one_read_takes_few_tiny_records(pair: Pair) -> None:
    pair.ours.sendall(b"".join(pair.client.data(b"%d " % index) for index in range(500)))
    reads = [pair.read() or b""]
    while pair.session.waiting:
        reads.append(pair.read() or b"")
    assert b"".join(reads).split() == [b"%d" % index for index in range(500)]
    assert max(len(read.split()) for read in reads) <= 64


@pytest.mark.parametrize("room", [40_000, 131072])
def test_large_records_in_a_row(room: int, pair: Pair) -> None:
    """What is decrypted never runs into what is yet to be."""
    data = random.Random(1).randbytes(300_000)
    view, came = memoryview(bytearray(room)), b""
    pair.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    records = b"".join(
        pair.client.data(data[begin : begin + 16384]) for begin in range(0, len(data), 16384)
    )
    # A record's last bytes alone, then many records at once.
    for begin, end in ((0, 16_390), (16_390, 32_000), (32_000, len(records))):
        piece = records[begin:end]
        while piece or pair.session.waiting:
            with suppress(BlockingIOError):
                piece = piece[pair.ours.send(piece) :] if piece else b""
            with suppress(BlockingIOError):
                count = pair.session.receive(pair.theirs, view)
                assert count is not None
                came += view[:count]
    with suppress(BlockingIOError):
        while count := pair.session.receive(pair.theirs, view):
            came += view[:count]
    assert came == data


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.integers(0, 16384).map(bytes),
            st.sampled_from([None, True]),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_it_does_not_matter_where_bytes_are_cut(
    records: list[bytes | bool | None], rand: random.Random
) -> None:
    client, session = shake_hands()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        pair = Pair(client, session, ours, theirs, memoryview(bytearray(65536)))
        stream, expected = b"", b""
        for record in records:
            if isinstance(record, bytes):
                stream += client.data(record)
                expected += record
            else:
                stream += client.key_update(requested=record is True)
        came = b""
        while stream:
            size = rand.choice([1, 2, 5, 7, 30, 1000, 20_000])
            ours.sendall(stream[:size])
            stream = stream[size:]
            came += pair.read_all()
        assert came == expected


class TestEnd:
    def test_a_fin_without_a_close_notify(self, pair: Pair) -> None:
        pair.ours.sendall(pair.client.data(b"last"))
        pair.ours.shutdown(socket.SHUT_WR)
        assert pair.read() == b"last"
        assert pair.read() is None

    def test_a_close_notify_behind_bytes(self, pair: Pair) -> None:
        pair.ours.sendall(pair.client.data(b"last") + pair.client.alert(1, 0) + b"more")
        assert pair.read() == b"last"
        assert pair.session.waiting
        assert pair.read() is None
        assert pair.read() is None

    def test_an_alert_behind_bytes(self, pair: Pair) -> None:
        pair.ours.sendall(pair.client.data(b"last") + pair.client.alert(2, 80))
        assert pair.read() == b"last"
        assert pair.session.waiting
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="ALERT_INTERNAL_ERROR"):
                pair.read()

    def test_what_fails_leaves_nothing_to_others(self, pair: Pair) -> None:
        client, session = shake_hands(pair.session.bios)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(b"\x17\3\3\0\x20" + bytes(100) + client.data(b"x" * 1000))
            with pytest.raises(ssl.SSLError, match="DECRYPTION_FAILED_OR_BAD_RECORD_MAC"):
                session.receive(theirs, pair.view)
            assert not session.waiting
        pair.ours.sendall(pair.client.data(b"in"))
        assert pair.read() == b"in"
        assert pair.write(b"out") == b"out"

    def test_ours_is_a_close_notify_behind_what_waits(self, pair: Pair) -> None:
        size = pair.clog()
        pair.session.notify_nowait(pair.theirs)
        pair.session.notify_nowait(pair.theirs)
        assert pair.take() == b"x" * size
        assert pair.client.alerts == [b"\1\0"]
        with pytest.raises(ssl.SSLError, match="PROTOCOL_IS_SHUTDOWN"):
            pair.session.encrypt(b"more")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_many_share_one_pair_of_bios(version: ssl.TLSVersion) -> None:
    """Handshakes go on in any order, and some end halfway."""
    server, trusting = tls_contexts(version)
    rand, bios = random.Random(5), Bios()
    view = memoryview(bytearray(65536))

    class Client:
        def __init__(self) -> None:
            self.session = Session(server, bios)
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = trusting.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
            self.done = False

        def step(self) -> None:
            with suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            data = self.outgoing.read()
            if len(data) > 1 and rand.random() < 0.5:
                cut = rand.randrange(1, len(data))
                assert not self.session.handshake(data[:cut])
                data = data[cut:]
            self.done = self.session.handshake(data) if data else self.done
            self.incoming.write(self.session.unsent)
            self.session.unsent = b""

        def echo(self, data: bytes) -> None:
            self.tls.write(data)
            ours, theirs = socket.socketpair()
            with ours, theirs:
                ours.sendall(self.outgoing.read())
                count = self.session.receive(theirs, view)
                assert count == len(data)
                self.session.encrypt(view[:count])
                assert self.session.send(theirs)
                self.incoming.write(ours.recv(65536))
            assert self.tls.read(65536) == data

    clients: list[Client] = []
    finished = 0
    for _ in range(600):
        if len(clients) < 12:
            clients.append(Client())
        client = rand.choice(clients)
        if not client.done:
            client.step()
        elif rand.random() < 0.8:
            client.tls.do_handshake()  # TLS 1.2 has one flight more
            client.echo(rand.randbytes(rand.randrange(1, 16384)))
            finished += 1
        if rand.random() < 0.1:
            clients.remove(client)
            del client
        assert not bios.incoming.pending
        assert not bios.outgoing.pending
    assert finished > 50
