"""TLS by bytes alone: what a socket brings is decrypted in place, record by record.

`ssl.SSLSocket` is no way to read: CPython sets ``SSL_MODE_AUTO_RETRY``, so that one ``SSL_read``
goes on for as long as the peer sends KeyUpdates (RFC 8446, section 4.6.3), which takes some 40
microseconds for each of them. Here OpenSSL never sees more than one record at a time:

1. A record's header tells its length (RFC 8446, section 5.1). OpenSSL gets a record, or what has
   come of it, and takes all of that: what waits for it waits here.
2. So nothing is in a memory BIO between two calls, and all sessions of a server share one pair. (A
   memory BIO of its own would keep the size of the handshake's certificates for ever.) An
   interrupt has to wait meanwhile.
3. What OpenSSL has encrypted must be sent, or the stream is broken for good: it stays in `unsent`
   until the socket takes it, and goes before anything else.
4. A FIN without a close_notify ends the peer's stream as over TCP: whether the peer was done is
   told by WebSocket's close frame.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final, cast

import trio

#: Bytes of one record's content at most (RFC 8446, section 5.1).
RECORD: Final = 16384
#: Bytes of a record's header.
_HEAD: Final = 5
#: Records that are decrypted before others get a turn: one may hold one byte.
MOST_RECORDS: Final = 64
#: Those of them that bring no bytes. A KeyUpdate takes as long as ten messages.
_MOST_EMPTY: Final = 4
#: Bytes that may wait for the socket when the peer makes us answer: a record, and some hundred
#: KeyUpdates.
_MOST_UNSENT: Final = 2 * RECORD
#: What is decrypted is put so far before what came: it begins with the rest of a record at most.
_LEAD: Final = RECORD


class Bios:
    """What the TLS sessions of one server share.

    Invariant: empty of meaning across an await.
    """

    __slots__ = ("empty", "full", "incoming", "outgoing", "size", "view")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        #: For callers that have no other one.
        self.view = memoryview(bytearray(_LEAD + RECORD))
        #: Bytes that the last read has used up.
        self.size = 0
        #: There was more than it had room for, as far as it can know.
        self.full = False
        #: Whole records of it that brought no bytes.
        self.empty = 0


class Session:
    """One side of a TLS connection.

    Args:
        context: a server's gets an option: OpenSSL 1.1 allows a renegotiation to the client, 3 does
            not.
        bios: those of the server, or of all clients.
        server_hostname: we are the client, and this is the server's name; None: we are the server.
    """

    __slots__ = ("_lacking", "_left", "_over", "_tls", "bios", "unsent")

    def __init__(
        self, context: ssl.SSLContext, bios: Bios, server_hostname: str | None = None
    ) -> None:
        serves = server_hostname is None
        if serves:
            context.options |= ssl.OP_NO_RENEGOTIATION
        self.bios = bios
        self._tls = context.wrap_bio(
            bios.incoming, bios.outgoing, server_side=serves, server_hostname=server_hostname
        )
        #: What has come and OpenSSL has not got; it begins where a record does, or a piece of one.
        self._left = b""
        #: Bytes of a record that are yet to come, where OpenSSL has its begin.
        self._lacking = 0
        #: How the peer's stream ended behind bytes that came before: empty for a close_notify.
        self._over: str | None = None
        #: What is encrypted and not sent.
        self.unsent = b""

    @property
    def waiting(self) -> bool:
        """There is something to receive without the socket."""
        return len(self._left) >= _HEAD or self._over is not None

    @trio.lowlevel.enable_ki_protection
    def handshake(self, data: bytes) -> bool:
        """Go on with the handshake; what is to be sent then, if only an alert, is in `unsent`.

        Args:
            data: what came; empty where a client begins.

        Returns:
            Whether it is done.

        Raises:
            ssl.SSLError: it failed.
        """
        self.bios.incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._left = self.bios.incoming.read()
            self._take_out()
        return True

    def receive(self, sock: socket.socket, view: memoryview) -> int | None:
        """Decrypt some records: of what waits, else of what the socket brings.

        What is to be answered is answered, as far as that needs no waiting.

        Args:
            sock: non-blocking.
            view: the bytes are put to its begin, those that came to behind `_LEAD`.

        Returns:
            How many bytes there are; None at the end of the stream.

        Raises:
            BlockingIOError: nothing came.
            OSError: the socket failed, or TLS did, or the peer does not take our answers.
        """
        if self._over is not None:
            if self._over:
                raise ConnectionResetError(self._over)
            return None
        end = _LEAD + len(self._left)
        view[_LEAD:end] = self._left
        self.bios.full = False
        if len(self._left) < _HEAD:
            size = sock.recv_into(view[end:])
            if size == 0:
                return None
            end += size
            self.bios.full = end == len(view)
        count = self._decrypt(view, end)
        if self.unsent:
            self._answer(sock)
        return count

    @trio.lowlevel.enable_ki_protection
    def _decrypt(self, view: memoryview, end: int) -> int | None:
        bios, begin, count = self.bios, _LEAD, 0
        self._left, bios.empty = b"", 0
        try:
            for _ in range(MOST_RECORDS):
                if not self._lacking:
                    if end - begin < _HEAD:
                        break
                    self._lacking = _HEAD + (view[begin + 3] << 8 | view[begin + 4])
                size = min(self._lacking, end - begin)
                if not size:
                    break
                bios.incoming.write(view[begin : begin + size])
                begin += size
                self._lacking -= size
                try:
                    # With a buffer it tells how many bytes, whatever the types say.
                    taken = cast("int", self._tls.read(begin - count, view[count:begin]))
                except ssl.SSLWantReadError:
                    bios.empty += not self._lacking
                    if bios.empty == _MOST_EMPTY:
                        break
                    continue
                if not taken:
                    self._over, end = "", begin
                    break
                count += taken
        except ssl.SSLError as exc:
            if not count:
                raise
            self._over, end = str(exc), begin
        finally:
            bios.incoming.read()  # of a record that is none
            self._take_out()
            bios.size = begin - _LEAD
        self._left = bytes(view[begin:end])
        return None if not count and self._over is not None else count

    def _answer(self, sock: socket.socket) -> None:
        # What the socket fails with, the next read or write does as well, behind what came.
        with contextlib.suppress(OSError):
            self.send(sock)
        if len(self.unsent) > _MOST_UNSENT:
            raise ConnectionAbortedError("too many answers to KeyUpdates wait")

    @trio.lowlevel.enable_ki_protection
    def encrypt(self, data: bytes | memoryview) -> None:
        """Put bytes behind `unsent`. Raises `ssl.SSLError`."""
        try:
            self._tls.write(data)
        finally:
            self._take_out()

    def send(self, sock: socket.socket) -> bool:
        """Send of `unsent` what the socket takes; returns whether nothing is left of it.

        Raises:
            OSError: the socket failed.
        """
        if self.unsent:
            with contextlib.suppress(BlockingIOError):
                self.unsent = self.unsent[sock.send(self.unsent) :]
        return not self.unsent

    @trio.lowlevel.enable_ki_protection
    def notify(self) -> None:
        """Put a close_notify behind `unsent`, where TLS has not failed; no more may be written.

        It goes before each FIN (RFC 8446, section 6.1); the peer's is not waited for.
        """
        # The peer's has not come, most often.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._take_out()

    def notify_nowait(self, sock: socket.socket) -> None:
        """Send a close_notify, as far as that needs no waiting, before the socket is closed."""
        self.notify()
        with contextlib.suppress(OSError):
            self.send(sock)

    def _take_out(self) -> None:
        self.unsent += self.bios.outgoing.read()
