"""A TLS socket that does a bounded piece of work in each call, whatever its client sends.

OpenSSL reads from a socket until it has octets for the application, so a client that sends nothing
but requests for new keys would hold one call, and with it the worker, for as long as it likes. So
records are read here, at most ``READ_OCTETS`` in one call, and OpenSSL gets them one by one, from
memory. A client whose records say nothing many times in a row is refused, as by Go (crypto/tls:
maxUselessRecords), and so is a first message longer than any client's, which OpenSSL would make
room for as soon as it is announced.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

READ_OCTETS: Final = 4096
MAX_USELESS: Final = 16  # records in a row without octets for the application
# OpenSSL makes room for this when a client announces certificates (SSL_MAX_CERT_LIST_DEFAULT); it
# may only if it was asked for some.
CHAIN_OCTETS: Final = 100 * 1024
_MAX_HELLO_OCTETS = 16 * 1024  # with post-quantum keys it has 2 KiB
_MAX_UNREAD_OCTETS = 16 * 1024  # of ours that are no reply, such as keys
_CHUNK_OCTETS = 16 * 1024  # of a reply in one record (RFC 8446 section 5.1)
_RECORD_HEAD = 5
_MAX_RECORD_OCTETS = 16 * 1024 + 2048  # RFC 5246 section 6.2.3
_HANDSHAKE, _CLIENT_HELLO = 22, 1


class SecureSocket:
    """A socket without waiting whose octets are encrypted; the server's side."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        """Take over a socket, before the handshake."""
        self.is_at_end = False  # the client sends no more
        self._sock = sock
        self._from_client, self._to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._from_client, self._to_client, server_side=True)
        self._asks_for_chain = context.verify_mode != ssl.CERT_NONE
        self._is_secure = False
        self._received = bytearray()  # a partial record
        self._has_hello = False
        self._useless = 0  # records since the last octets
        self._unsent = bytearray()  # encrypted
        self._promised = 0  # octets of a reply in them, not reported as sent yet

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def getsockname(self) -> tuple[str, int]:
        """Return our address."""
        host, port = self._sock.getsockname()[:2]
        return host, port

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that was agreed on in the handshake."""
        return self._tls.selected_alpn_protocol()

    @property
    def held(self) -> int:
        """Octets held for the client."""
        chain = CHAIN_OCTETS if self._asks_for_chain and self._has_hello else 0
        return len(self._received) + len(self._unsent) + (0 if self._is_secure else chain)

    @property
    def has_unsent(self) -> bool:
        """Whether octets of ours wait for room."""
        return bool(self._unsent)

    def do_handshake(self) -> bool:
        """Go on with the handshake; tell whether it is complete. Octets behind it are kept.

        Raises:
            BlockingIOError: nothing was received.
            OSError: it has failed (ssl.SSLError), or the connection is broken.
        """
        self._flush()
        octets = self._sock.recv(READ_OCTETS)
        if not octets:
            raise ConnectionResetError
        self._received += octets
        try:
            while record := self._next_record():
                self._check_hello(record)
                self._from_client.write(record)
                with contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.do_handshake()
                    self._is_secure = True
                    break
        finally:
            self._flush()  # also the reason of a failure
        return self._is_secure

    def recv(self, _: int = READ_OCTETS) -> bytes:
        """Return decrypted octets, b"" at the end.

        Raises:
            BlockingIOError: nothing was received.
            OSError: the connection is broken, or its client wastes our time.
        """
        if self.is_at_end:
            return b""
        try:
            octets = self._sock.recv(READ_OCTETS)
            self.is_at_end = not octets
        except BlockingIOError:
            if not self._received:
                raise
            octets = b""
        self._received += octets
        found = self._decrypted()
        if self._to_client.pending and not self._flush():
            self._refuse_unread()
        if not found and not self.is_at_end:
            raise BlockingIOError
        return found

    def send(self, octets: bytes | bytearray) -> int:
        """Encrypt and send octets; return how many were sent.

        Raises:
            BlockingIOError: there was no room for a record; the same octets must come first again.
            OSError: the connection is broken.
        """
        sent, size = 0, len(octets)
        while not self._unsent or self._flush():
            sent += self._promised
            self._promised = 0
            if sent == size:
                return sent
            chunk = octets if size <= _CHUNK_OCTETS else octets[sent : sent + _CHUNK_OCTETS]
            self._promised = self._tls.write(chunk)
            self._flush()
        if not sent:
            raise BlockingIOError
        return sent

    def close(self) -> None:
        """Send close_notify (RFC 8446 section 6.1), and close."""
        # Without waiting for the client's close_notify, or for room to send ours.
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._flush()
        self._sock.close()

    def _next_record(self) -> bytes:
        """Return the next complete record, b"" if there is none. Raises OSError."""
        received = self._received
        if len(received) < _RECORD_HEAD:
            return b""
        length = received[3] << 8 | received[4]
        if length > _MAX_RECORD_OCTETS:
            raise ConnectionAbortedError("this is not TLS")
        end = _RECORD_HEAD + length
        if len(received) < end:
            return b""
        record = bytes(received) if len(received) == end else bytes(received[:end])
        del received[:end]
        return record

    def _check_hello(self, record: bytes) -> None:
        """Raise OSError if the first message is too long."""
        if self._has_hello:
            return
        self._has_hello = True
        body = record[_RECORD_HEAD:]
        is_hello = record[0] == _HANDSHAKE and len(body) >= 4 and body[0] == _CLIENT_HELLO
        if not is_hello or int.from_bytes(body[1:4], "big") > _MAX_HELLO_OCTETS:
            raise ConnectionAbortedError("the first message is no ClientHello of usual size")

    def _decrypted(self) -> bytes:
        """Return what complete records say. Raises OSError."""
        found = b""
        while record := self._next_record():
            self._from_client.write(record)
            try:
                part = self._tls.read(_MAX_RECORD_OCTETS)
            except ssl.SSLWantReadError:
                self._useless += 1
                if self._useless > MAX_USELESS:
                    raise ConnectionAbortedError("too many records without octets") from None
                continue
            self._useless = 0
            if not part:  # close_notify
                self.is_at_end = True
                break
            found = found + part if found else part
        return found

    def _refuse_unread(self) -> None:
        """Raise OSError if too much waits that is no reply."""
        if not self._promised and len(self._unsent) > _MAX_UNREAD_OCTETS:
            raise ConnectionAbortedError("the client asks for new keys, and does not read ours")

    def _flush(self) -> bool:
        """Send encrypted octets as far as they go; tell whether all are sent. Raises OSError."""
        if self._to_client.pending:
            self._unsent += self._to_client.read()
        if not self._unsent:
            return True
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            return False
        del self._unsent[:sent]
        return not self._unsent
