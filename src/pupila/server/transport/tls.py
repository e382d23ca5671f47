"""TLS (HTTPS) at the listening socket: a non-blocking handshake in the event loop, and certificates that are reloaded.

`TlsSocket` has the methods of a non-blocking socket that a connection uses. It decrypts all that it receives, so that
what the selector reports is all that there is: nothing waits unseen in OpenSSL's buffers.
"""

import contextlib
import functools
import logging
import socket
import ssl
import threading
import time
from pathlib import Path

from pupila._files import Stamp, stamp_of
from pupila.errors import SettingsError

log = logging.getLogger("pupila.server")

HANDSHAKE = 10.0
"""Seconds that a client has for the handshake and to begin its first request; then its connection is closed."""
LOOK = 1.0
"""Seconds between two looks whether the certificate's files have changed."""
RECORD = 16 * 1024
"""Bytes of the largest TLS record."""
TURN = 4 * RECORD
"""Encrypted bytes that are looked at at a stretch: a client may send thousands of records of one byte, or of none."""
BARREN = 2 * RECORD
"""Encrypted bytes without any data in them, such as requests for new keys, after which a connection ends."""
PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 49\r\n\r\n"
    b"This port speaks TLS. Use an address of https://\n"
)


def context_of(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the settings of TLS with a certificate; raises SettingsError if the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    for path in filter(None, (certificate, key)):
        try:
            path.open("rb").close()
        except OSError as error:
            fix = "Check --tls-certificate and --tls-key."
            raise SettingsError(f"{path}: cannot be read ({error.strerror}). {fix}") from error
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except SettingsError:
        raise
    except (ssl.SSLError, ValueError) as error:
        reason = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        message = f"{certificate}: cannot be used for TLS with {key or 'the key in it'} ({reason})."
        raise SettingsError(f"{message} Give a certificate and its own key, both in PEM.") from error
    return context


def _no_password() -> str:
    raise SettingsError("The key for TLS is encrypted. Give one without a password: openssl pkey -in KEY -out PLAIN")


class Certificate:
    """A certificate's TLS settings; they are read again when the files have changed."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._files = (certificate, key)
        self._stamp = self._changed()
        self._context = context_of(certificate, key)
        self._next_look = time.monotonic() + LOOK

    def current(self) -> ssl.SSLContext:
        """Return the settings for a new connection; those before stay, if the new files cannot be used."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK
            stamp = self._changed()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = context_of(*self._files)
                    log.warning("the certificate has been read again: %s", self._files[0])
                except SettingsError as error:
                    log.error("the new certificate is not used: %s", error)
        return self._context

    def _changed(self) -> list[Stamp | None]:
        """Return what changes when a file is written or replaced."""
        return [stamp_of(path) for path in self._files if path is not None]


@functools.cache
def certificate_of(certificate: Path | None, key: Path | None) -> Certificate | None:
    """Return the certificate that the settings name, if any; raises SettingsError.

    It is read in the parent process and known to workers that are forked later: so they can start although the files
    have been replaced by some that cannot be used.
    """
    return None if certificate is None else Certificate(certificate, key)


class TlsSocket:
    """A client's socket, encrypted; used by the I/O thread, and by one that answers a request.

    OpenSSL reads from memory: from a socket it would go on for as long as a client sends records without data.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._received, self._encrypted = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._encrypted, server_side=True)
        self._unsent = bytearray()
        """Encrypted, and not taken by the kernel."""
        self._owed = 0
        """Bytes of the caller's among those."""
        self._barren = 0
        """Bytes received since the last data."""
        self._ended = False
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor, for the selector."""
        return self._sock.fileno()

    def recv_into(self, buffer: memoryview, size: int) -> int:
        """Read some `size` bytes, or 0 at the end; raises BlockingIOError if none are there, OSError if it is over.

        `buffer` has room for RECORD more than TURN, so that nothing waits unseen. OpenSSL's read goes on with the
        handshake until that is done.
        """
        with self._lock:
            piece = self._sock.recv(min(size, TURN))
            self._barren += len(piece)
            try:
                count = 0
                for at in range(0, len(piece), RECORD):  # what is in memory once keeps its room
                    self._received.write(piece[at : at + RECORD])
                    count += self._read(buffer[count:])
                if not piece:
                    self._received.write_eof()
                    count = self._read(buffer)
            except ssl.SSLError as error:
                if error.reason == "HTTP_REQUEST":
                    self._sock.send(PLAIN)
                raise ConnectionResetError from error
            finally:
                self._flush()
            if count or self._ended:
                self._barren = 0
                return count
            if self._barren > BARREN:
                raise ConnectionResetError
            raise BlockingIOError

    def _read(self, buffer: memoryview) -> int:
        """Decrypt all whole records; return how many bytes that are."""
        count = 0
        with contextlib.suppress(ssl.SSLWantReadError):
            with contextlib.suppress(ssl.SSLEOFError):
                while piece := self._tls.read(len(buffer) - count, buffer[count:]):
                    count += piece  # type: ignore[operator]  # into a buffer, it is a number
            self._ended = True
        return count

    def _flush(self) -> None:
        """Send what is encrypted, as far as the kernel takes it; raises OSError if it is over."""
        self._unsent += self._encrypted.read()
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
        if len(self._unsent) > BARREN + TURN:  # answers to requests for new keys, which nobody reads
            raise ConnectionResetError

    def send(self, data: memoryview) -> int:
        """Send the beginning of `data`, and return how much; raises BlockingIOError if the socket takes no more now.

        Who gets that calls again with data that begins in the same way, as with any non-blocking socket.
        """
        with self._lock:
            try:
                self._owed = self._owed or self._tls.write(data[:RECORD])
            except ssl.SSLWantReadError:
                raise BlockingIOError from None
            self._flush()
            if self._unsent:
                raise BlockingIOError
            sent, self._owed = self._owed, 0
            return sent

    def shutdown(self, how: int) -> None:
        """Say that nothing more will be sent."""
        self._end()
        self._sock.shutdown(how)

    def close(self) -> None:
        """Close the socket."""
        self._end()
        self._sock.close()

    def _end(self) -> None:
        """Tell the client that this is the end, as far as that can be done at once."""
        with self._lock, contextlib.suppress(OSError, ValueError):  # also ssl's; ValueError: it has ended already
            try:
                self._tls.unwrap()
            finally:
                self._flush()
