"""TLS (HTTPS) at the listening socket: a non-blocking handshake in the event loop, and certificates that are reloaded.

`TlsSocket` has the methods of a non-blocking socket that a connection uses. It decrypts all that it has read, so that
what the selector reports is all that there is: nothing waits unseen in OpenSSL's buffers.
"""

import contextlib
import functools
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pupila.errors import SettingsError
from pupila.server.settings import Settings

log = logging.getLogger("pupila.server")

HANDSHAKE = 10.0
"""Seconds that a client has for the handshake; then its connection is closed."""
LOOK = 1.0
"""Seconds between two looks whether the certificate's files have changed."""
RECORD = 16 * 1024 + 512
"""Bytes of the largest TLS record; of one that is not whole yet so many may be held back."""
CHUNK = 256 * 1024
"""Bytes that are encrypted at a time: so much is copied for a slow reader."""
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

    def _changed(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return what changes when a file is written or replaced."""
        found: list[tuple[int, int, int] | None] = []
        for path in filter(None, self._files):
            try:
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)


@functools.cache
def read_once(certificate: Path, key: Path | None) -> Certificate:
    """Return a certificate that is read in the parent process and known to workers that are forked later.

    So a worker can start although the files have been replaced by some that cannot be used.
    """
    return Certificate(certificate, key)


def certificate_of(settings: Settings) -> Certificate | None:
    """Return the certificate that the settings name; raises SettingsError."""
    return None if settings.tls_certificate is None else read_once(settings.tls_certificate, settings.tls_key)


class TlsSocket:
    """A client's socket, encrypted; used by the I/O thread, and by one that answers a request."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, established: Callable[[], object]) -> None:
        """`established` is called once, after the handshake."""
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._established: Callable[[], object] | None = established
        self._unsent = memoryview(b"")
        """Encrypted bytes that the socket has not taken yet."""
        self._owed = 0
        """Bytes of the caller's that are among them; they count as sent when all of them are."""
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor, for the selector."""
        return self._sock.fileno()

    def recv_into(self, buffer: memoryview, size: int) -> int:
        """Read about `size` bytes, or 0 at the end; raises BlockingIOError if none are there, OSError if it is over."""
        data = self._sock.recv(max(1, min(size, len(buffer) - 2 * RECORD)))
        with self._lock:
            try:
                return self._take(data, buffer)
            except ssl.SSLWantReadError:
                raise BlockingIOError from None
            except ssl.SSLEOFError:
                return 0
            except ssl.SSLError as error:
                if error.reason == "HTTP_REQUEST":
                    self._sock.send(PLAIN)
                raise ConnectionResetError from error
            finally:
                with contextlib.suppress(BlockingIOError):
                    self._flush()

    def _take(self, data: bytes, buffer: memoryview) -> int:
        """Shake hands, or decrypt what has come; raises ssl.SSLError."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        if self._established is not None:
            self._tls.do_handshake()
            self._established()
            self._established = None
        return self._decrypt(buffer)

    def _decrypt(self, buffer: memoryview) -> int:
        """Decrypt all that is here; raises SSLWantReadError if that is nothing."""
        count = 0
        try:
            while count < len(buffer):
                piece = self._tls.read(len(buffer) - count, buffer[count:])
                if not piece:
                    break
                count += int(piece)
        except ssl.SSLZeroReturnError:
            pass
        except (ssl.SSLWantReadError, ssl.SSLEOFError):
            if not count:
                raise
        return count

    def send(self, data: bytes) -> int:
        """Send the beginning of `data`, and return how much; raises BlockingIOError if the socket takes no more now.

        Who gets that calls again with data that begins in the same way, as with any non-blocking socket.
        """
        with self._lock:
            if not self._owed:
                try:
                    self._owed = self._tls.write(memoryview(data)[:CHUNK])
                except ssl.SSLError as error:  # there was no handshake
                    raise ConnectionResetError from error
            self._flush()
            sent, self._owed = self._owed, 0
            return sent

    def _flush(self) -> None:
        """Send what is encrypted; raises BlockingIOError if the socket does not take all of it now."""
        while self._unsent or self._outgoing.pending:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

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
        with self._lock, contextlib.suppress(OSError):  # also ssl's, which are of that kind
            try:
                self._tls.unwrap()
            finally:
                self._flush()
