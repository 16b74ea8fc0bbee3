"""A client's TLS 1.3 records, made by hand: Python's `ssl` has no way to send a KeyUpdate.

The handshake is OpenSSL's; its key log tells the secrets of what follows (RFC 8446, section 7).
"""

from __future__ import annotations

import contextlib
import hmac
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.harness import tls_contexts
from trio_beat._transports.tls_session import Bios, Session

#: Content types (RFC 8446, section 5.1).
ALERT, HANDSHAKE, DATA = 21, 22, 23


class Keys:
    """One direction of a connection (RFC 8446, sections 5.2, 5.3, 7.2 and 7.3).

    Args:
        secret: of TLS_AES_256_GCM_SHA384.
    """

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret, self._sequence = secret, 0
        self._key = AESGCM(self._expand(b"key", 32))
        self._iv = int.from_bytes(self._expand(b"iv", 12), "big")

    def _expand(self, label: bytes, size: int) -> bytes:
        name = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0"
        return hmac.digest(self._secret, info + b"\1", "sha384")[:size]

    def _nonce(self) -> bytes:
        nonce, self._sequence = self._iv ^ self._sequence, self._sequence + 1
        return nonce.to_bytes(12, "big")

    def update(self) -> None:
        """Use the next keys."""
        self._use(self._expand(b"traffic upd", 48))

    def encrypt(self, kind: int, content: bytes, padding: int = 0) -> bytes:
        """A record."""
        plain = content + bytes([kind]) + bytes(padding)
        head = b"\x17\3\3" + (len(plain) + 16).to_bytes(2, "big")
        return head + self._key.encrypt(self._nonce(), plain, head)

    def decrypt(self, record: bytes) -> tuple[int, bytes]:
        """The type and content of a record."""
        plain = self._key.decrypt(self._nonce(), record[5:], record[:5]).rstrip(b"\0")
        return plain[-1], plain[:-1]


class Client:
    """A client whose handshake is done; what it makes and takes are bytes.

    Args:
        secrets: of the key log.
    """

    def __init__(self, secrets: dict[str, bytes]) -> None:
        self._ours = Keys(secrets["CLIENT_TRAFFIC_SECRET_0"])
        self._theirs = Keys(secrets["SERVER_TRAFFIC_SECRET_0"])
        self._pending = b""
        #: The server's alerts: a level and a description each.
        self.alerts: list[bytes] = []
        #: KeyUpdates of the server's so far.
        self.answers = 0

    def data(self, content: bytes) -> bytes:
        """A record of data."""
        return self._ours.encrypt(DATA, content)

    def key_update(self, *, requested: bool = False, padding: int = 0) -> bytes:
        """A KeyUpdate (RFC 8446, section 4.6.3); what follows is under other keys."""
        record = self._ours.encrypt(HANDSHAKE, b"\x18\0\0\1" + bytes([requested]), padding)
        self._ours.update()
        return record

    def alert(self, level: int, description: int) -> bytes:
        """An alert (RFC 8446, section 6)."""
        return self._ours.encrypt(ALERT, bytes([level, description]))

    def receive(self, data: bytes) -> bytes:
        """The data of what came from the server."""
        self._pending += data
        return b"".join(self._contents())

    def _contents(self) -> Iterator[bytes]:
        while len(self._pending) >= 5:
            end = 5 + int.from_bytes(self._pending[3:5], "big")
            if len(self._pending) < end:
                return
            record, self._pending = self._pending[:end], self._pending[end:]
            kind, content = self._theirs.decrypt(record)
            if kind == DATA:
                yield content
            elif kind == HANDSHAKE and content[0] == 0x18:
                self._theirs.update()
                self.answers += 1
            elif kind == ALERT:
                self.alerts.append(content)


def shake_hands(bios: Bios | None = None) -> tuple[Client, Session]:
    """A client, and the session of its server."""
    server, context = tls_contexts(ssl.TLSVersion.TLSv1_3)
    session = Session(server, bios or Bios())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "keys")
        context.keylog_filename = str(log)
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        done = False
        while not done:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            done = session.handshake(outgoing.read())
            if not done:
                incoming.write(session.unsent)
                session.unsent = b""
        context.keylog_filename = None  # type: ignore[assignment]
        assert tls.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        lines = [line.split() for line in log.read_text().splitlines()]
    client = Client({words[0]: bytes.fromhex(words[2]) for words in lines if len(words) == 3})
    assert client.receive(session.unsent) == b""
    session.unsent = b""
    return client, session
