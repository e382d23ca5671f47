"""Reads and lists files that lie elsewhere: http://, and the addresses that _remote.py can open.

A folder is an address that ends in a slash; of a web server it is a page with links, as nginx makes them.
"""

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import urlsplit

from pupila._remote import ARROW, open_filesystem
from pupila.errors import DataError, PupilaError

URL = re.compile(r"[a-z][a-z0-9+.-]+://.")
TRIES = 4
"""How often a web server is asked for a file before its row says that it cannot be read."""
TIMEOUT = 30.0
"""Seconds without a byte after which a try has failed."""


def is_url(path: str) -> bool:
    """Tell an address from a path of this machine."""
    return URL.match(path) is not None


def read(url: str, most: int) -> bytes:
    """Return a file's content, but no more than `most` bytes; raises OSError."""
    if urlsplit(url).scheme in ("http", "https"):
        return _read_http(url, most)
    try:
        system, path = open_filesystem(url, f"Reading {urlsplit(url).scheme}://")
        with system.open(path, "rb") as file:
            return bytes(file.read(most))
    except OSError:
        raise
    except Exception as error:  # each kind of store has errors of its own
        raise OSError(0, _reason(error)) from error


def walk(url: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield (address, stamp) of the file, or of each file below the folder. Raises DataError if there is none."""
    found = _find(url)
    if not found:
        raise DataError(f"{url}: there is no such file or folder. Check the address; a folder ends in a slash.")
    scheme, query = urlsplit(url).scheme, urlsplit(url).query
    for name, about in found.items():
        if name.rpartition("/")[2].startswith("."):
            continue
        address = name if URL.match(name) else f"{scheme}://{name}"
        yield (f"{address}?{query}" if query and scheme in ARROW else address).encode(), _stamp(about)


def _find(url: str) -> dict[str, dict[str, Any]]:
    """Return what is known of each file, by address or by path in its store."""
    if url.startswith(("http://", "https://")) and not url.endswith("/"):
        return {url: {}}
    try:
        system, path = open_filesystem(url, f"Reading {urlsplit(url).scheme}://")
        found: dict[str, dict[str, Any]] = system.find(path, detail=True)
    except PupilaError:
        raise
    except ValueError as error:
        raise DataError(f"{url}: {error}. Use s3://, http:// or another one that fsspec knows.") from error
    except Exception as error:  # each kind of store has errors of its own
        raise DataError(f"{url}: cannot be listed ({_reason(error)}). Check the address and your rights.") from error
    return found


def _stamp(about: dict[str, Any]) -> bytes:
    """Return what changes with the file, as far as the other side tells."""
    told = [about.get(key) for key in ("size", "mtime", "ETag")]
    return ":".join(str(value).replace("\0", "") for value in told if value is not None).encode() or b"-"


class SameServer(urllib.request.HTTPRedirectHandler):
    """Follows redirects on the server that was asked, and to its own TLS port: others may lead into this network."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the next request; raises HTTPError for another server."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        upgraded = (before.scheme, after.scheme) == ("http", "https") and before.port is after.port is None
        if (before.scheme, before.netloc) != (after.scheme, after.netloc) and not (
            upgraded and before.hostname == after.hostname
        ):
            raise urllib.error.HTTPError(newurl, code, f"the server redirects to {after.netloc}", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_http(url: str, most: int) -> bytes:
    """Ask a web server, and again if it fails for a reason that may pass."""
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.build_opener(SameServer).open(url, timeout=TIMEOUT) as answer:
                return bytes(answer.read(most))
        except urllib.error.HTTPError as error:
            if not left or (error.code < 500 and error.code != 429):
                reason = (
                    f"{error.reason}, which is not followed" if error.code < 400 else f"the server answers {error.code}"
                )
                raise OSError(0, reason) from error
        except (OSError, http.client.HTTPException) as error:
            if not left:
                raise OSError(0, _reason(error)) from error
        time.sleep(0.5 * (TRIES - left))
    raise AssertionError("the last try returns or raises")


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error).splitlines()[0]
