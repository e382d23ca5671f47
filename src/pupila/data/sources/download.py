"""Downloads a published file: resumed if cut off, checked against its hash, put in place whole.

Used for data sets and weights.
"""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from pupila._arguments import whole_number
from pupila._files import locked, open_own
from pupila.errors import DownloadError
from pupila.progress import progress_bar

BLOCK = 2**18
TIMEOUT = 30.0
"""Seconds without a single byte before the server counts as gone."""

MAX_BYTES = 2**30
"""Of one file: the largest has 163 MiB."""


def cache_folder(cache: Path | None = None) -> Path:
    """Return where all that can be made or fetched again is kept: the argument, $PUPILA_CACHE, else ~/.cache/pupila."""
    chosen = cache or os.environ.get("PUPILA_CACHE") or Path.home() / ".cache" / "pupila"
    return Path(chosen).expanduser()


def download(url: str, destination: Path, *, sha256: str | None = None, md5: str | None = None) -> Path:
    """Fetch `url` to `destination` and return that; a file that lies there with the right hash is not fetched again.

    The hash is hexadecimal, or its first digits (torchvision publishes eight). What has arrived is kept beside the file
    as `<name>.part` and continued the next time. Raises DownloadError if the server cannot be reached, breaks off
    without sending anything new, or sends a file with another hash.
    """
    kind, digits = ("sha256", sha256.lower()) if sha256 else ("md5", (md5 or "").lower())
    part = destination.with_name(destination.name + ".part")
    try:
        if _is_right(destination, kind, digits):
            return destination
        destination.parent.mkdir(parents=True, exist_ok=True)
        with locked(destination.with_name(destination.name + ".lock")):  # two that append to one part would spoil it
            if not _is_right(destination, kind, digits):
                _fetch_checked(url, part, kind, digits)
                part.replace(destination)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DownloadError(
            f"{destination}: cannot be written ({reason}). Make room, or set PUPILA_CACHE to another folder."
        ) from error
    return destination


def _is_right(path: Path, kind: str, digits: str) -> bool:
    return path.exists() and _digest(path, kind).startswith(digits)


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _fetch_checked(url: str, part: Path, kind: str, digits: str) -> None:
    """Fetch into `part`. If what an earlier run left there spoils the hash, start over once from nothing."""
    if not digits:
        part.unlink(missing_ok=True)  # nothing would tell whether it is the beginning of the same file
    resumed = part.exists() and part.stat().st_size > 0
    _fetch(url, part)
    found = _digest(part, kind)
    if found.startswith(digits):
        return
    part.unlink()
    if resumed:
        _fetch_checked(url, part, kind, digits)
        return
    raise DownloadError(
        f"{url}: what was sent has the {kind} {found}, and the published file has {digits}. It was deleted. "
        "Something on the way may have answered in place of the server: try again from another network."
    )


def _fetch(url: str, part: Path) -> None:
    """Fetch the rest of the file, again and again as long as every connection brings something new."""
    while True:
        before = part.stat().st_size if part.exists() else 0
        response = _opened(url, before)
        if response is None or _receive(response, part, before):
            return
        if part.stat().st_size <= before:
            raise DownloadError(
                f"{url}: the server breaks off after {before:,} bytes. Try again later, to go on there."
            )


def _opened(url: str, start: int) -> http.client.HTTPResponse | None:
    """Ask for the file from a byte on; None if nothing is left to send: the hash tells whether it is the right file."""
    headers = {"User-Agent": "pupila", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the caller's own address
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
        return response
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                return None
            raise DownloadError(f"{url}: the server answers {error.code} {error.reason}. Try again later.") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{url}: cannot be reached ({reason}). Check the network connection.") from error


def _receive(response: http.client.HTTPResponse, part: Path, start: int) -> bool:
    """Append what one connection brings; True if it did not break before the end."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        start = 0  # the server does not resume, and sends it all
    length = whole_number(response.headers.get("Content-Length", ""))
    total = None if length is None else start + length
    flags = os.O_RDWR | (0 if start else os.O_TRUNC)
    with response, os.fdopen(open_own(part, flags), "r+b") as file, progress_bar("downloading", total or 1) as bar:
        file.seek(start)
        bar.update(start if total else 0)
        while True:
            try:
                block = response.read1(BLOCK)  # what has arrived: nothing of it is lost if the connection breaks now
            except (OSError, http.client.HTTPException):
                return False
            if not block:
                return total is None or file.tell() >= total
            if file.tell() + len(block) > MAX_BYTES:
                part.unlink()
                raise DownloadError(f"{response.url}: sends more than {MAX_BYTES >> 30} GiB. Try from another network.")
            file.write(block)
            bar.update(len(block) if total else 0)
