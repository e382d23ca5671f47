"""Downloads a published file: resumed if cut off, checked against its hash, put in place whole.

Used for data sets and weights.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pupila.errors import DownloadError
from pupila.progress import Progress

BLOCK = 2**18
TIMEOUT = 30.0
"""Seconds without a single byte before the server counts as gone."""


def cache_folder(cache: Path | None = None) -> Path:
    """Return where all that can be made or fetched again is kept: the argument, $PUPILA_CACHE, else ~/.cache/pupila."""
    chosen = cache or os.environ.get("PUPILA_CACHE") or Path.home() / ".cache" / "pupila"
    return Path(chosen).expanduser()


@dataclass(frozen=True)
class FileHash:
    """What a file must hash to: the whole hexadecimal digest, or its first digits (torchvision publishes eight)."""

    kind: str
    digits: str

    def fits(self, path: Path) -> bool:
        """True if the file has this hash."""
        return self.of(path).startswith(self.digits.lower())

    def of(self, path: Path) -> str:
        """Return the file's digest."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, self.kind).hexdigest()


def download(url: str, destination: Path, *, sha256: str | None = None, md5: str | None = None) -> Path:
    """Fetch `url` to `destination` and return that; a file that lies there with the right hash is not fetched again.

    What has arrived is kept beside it as `<name>.part` and continued the next time. Raises DownloadError if the server
    cannot be reached, breaks off without sending anything new, or sends a file with another hash.
    """
    expected = FileHash("sha256", sha256) if sha256 else FileHash("md5", md5) if md5 else None
    part = destination.with_name(destination.name + ".part")
    try:
        if _is_there(destination, expected):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _alone(destination):
            if not _is_there(destination, expected):  # another process may have been at it
                _fetch_checked(url, part, expected)
                part.replace(destination)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DownloadError(
            f"{destination}: cannot be written ({reason}). Make room, or set PUPILA_CACHE to another folder."
        ) from error
    return destination


def _is_there(destination: Path, expected: FileHash | None) -> bool:
    return destination.exists() and (expected is None or expected.fits(destination))


def _fetch_checked(url: str, part: Path, expected: FileHash | None) -> None:
    """Fetch into `part`. If what an earlier run left there spoils the hash, start over once from nothing."""
    if expected is None:
        part.unlink(missing_ok=True)  # nothing would tell whether it is the beginning of the same file
    resumed = part.exists() and part.stat().st_size > 0
    _fetch(url, part)
    if expected is None or expected.fits(part):
        return
    found = expected.of(part)
    part.unlink()
    if resumed:
        _fetch_checked(url, part, expected)
        return
    raise DownloadError(
        f"{url}: what was sent has the {expected.kind} {found}, and the published file has {expected.digits}. It was "
        "deleted. Something on the way may have answered in place of the server: try again from another network."
    )


def _fetch(url: str, part: Path) -> None:
    """Fetch the rest of the file, again and again as long as every connection brings something new."""
    while True:
        before = part.stat().st_size if part.exists() else 0
        if _fetch_once(url, part, before):
            return
        if part.stat().st_size <= before:
            raise DownloadError(
                f"{url}: the server breaks off after {before:,} bytes. Try again later, to go on there."
            )


def _fetch_once(url: str, part: Path, start: int) -> bool:
    """Append what one connection brings; True if that is all there is."""
    headers = {"User-Agent": "pupila", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the caller's own address
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                return True  # nothing is left to send; the hash tells whether it is the right file
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}. Try again later.") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{url}: cannot be reached ({reason}). Check the network connection.") from error
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server does not resume, and sends it all
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            return _receive(response, file, total)


def _receive(response: http.client.HTTPResponse, file: BinaryIO, total: int | None) -> bool:
    """Write what arrives to the file; True if the connection did not break before the end."""
    with Progress("downloading", total or 1) as bar:
        bar.advance(file.tell() if total else 0)
        while True:
            try:
                block = response.read1(BLOCK)  # what has arrived: nothing of it is lost if the connection breaks now
            except (OSError, http.client.HTTPException):
                return False
            if not block:
                return total is None or file.tell() >= total
            file.write(block)
            bar.advance(len(block) if total else 0)


@contextmanager
def _alone(destination: Path) -> Iterator[None]:
    """Let one process at a time fetch this file: two that append to the same part would spoil it."""
    try:
        import fcntl
    except ImportError:  # Windows: two at once end in a wrong hash, never in a wrong file
        yield
        return
    with destination.with_name(destination.name + ".lock").open("w") as file:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
