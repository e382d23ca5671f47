"""Finds every file that a job answers, below folders and addresses; reads files from addresses.

Folders are walked; hidden files, what systems leave behind, and run folders are passed over. A name says nothing else
about its content: every other file is listed, so that none is left out without a reason. An address is http:// or one
that _files.py can open. There a folder ends in a slash; of a web server it is a page with links, as nginx makes them:
no link and no redirect leads out of that folder.
"""

import html
import http.client
import os
import re
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from pupila._files import ARROW, RUN_FILES, is_hidden, open_filesystem
from pupila.errors import DataError, PupilaError

URL = re.compile(r"[a-z][a-z0-9+.-]+://.")
TRIES = 4
"""How often a web server is asked for a file before its row says that it cannot be read."""
TIMEOUT = 30.0
"""Seconds without a byte after which a try has failed."""
MAX_SECONDS = 600.0
"""That one file, or all pages of a web server, may take to come."""
MAX_PAGES, MAX_DEPTH, MAX_PAGE_BYTES = 10_000, 32, 64 * 2**20
"""Folders of a web server, how many of them may lie in one another, and the bytes of all their pages."""
LINK = re.compile(r"""<a\s[^<>]{0,500}?href\s{0,9}=\s{0,9}["']?([^"'<>\s]{1,4000})""", re.IGNORECASE)
Identity = tuple[int, int]
"""Device and inode: tells a file or folder from all others, however its path is spelled."""


def identities(paths: Sequence[Path | str]) -> frozenset[Identity]:
    """Return the identity of each path that exists."""
    found = [_status(os.fsencode(path)) for path in paths]
    return frozenset((status.st_dev, status.st_ino) for status in found if status is not None)


class Walk:
    """Yields (path, stamp) of each file at or below the given paths, in no particular order.

    The stamp changes with the file's size or time of change. A dangling link, and a folder that cannot be listed, are
    yielded too: they get a row with the reason. Links to folders are followed, but not in circles.
    """

    def __init__(self, paths: Sequence[Path | str], without: frozenset[Identity] = frozenset()) -> None:
        """`without` are files and folders to pass over: a job's own output, where it lies among the pictures.

        A text among the paths is an address, as s3://bucket/photos/.
        """
        self.hidden = 0
        """Files and folders passed over so far: hidden ones, litter, and folders that Pupila wrote."""
        self._paths = paths
        self._without = without

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        folders: list[tuple[bytes, frozenset[Identity]]] = []
        for path in self._paths:
            if isinstance(path, str):
                yield from walk_address(path)
                continue
            if not os.path.lexists(path):
                raise DataError(f"{path}: there is no such file or folder. Check the path.")
            yield from self._visit(os.fsencode(path), frozenset(), folders)
        while folders:
            folder, above = folders.pop()
            if len(above) > 1 and _is_ours(folder):
                self.hidden += 1
                continue
            for name in self._names(folder):
                yield from self._visit(os.path.join(folder, name), above, folders)  # noqa: PTH118 - bytes

    def _names(self, folder: bytes) -> Iterator[bytes]:
        with os.scandir(folder) as found:
            for item in found:
                if is_hidden(os.fsdecode(item.name)):
                    self.hidden += 1
                else:
                    yield item.name

    def _visit(
        self, path: bytes, above: frozenset[Identity], folders: list[tuple[bytes, frozenset[Identity]]]
    ) -> Iterator[tuple[bytes, bytes]]:
        status = _status(path)
        here = (status.st_dev, status.st_ino) if status else None
        if here is not None and (here in self._without or here in above):
            return
        if here is not None and status is not None and stat.S_ISDIR(status.st_mode) and os.access(path, os.R_OK):
            folders.append((path, above | {here}))
        else:
            yield path.removeprefix(b"./"), _stamp(status)


def _is_ours(folder: bytes) -> bool:
    """Return whether Pupila wrote the folder: what a run draws is no picture to answer."""
    return any(all(os.path.exists(os.path.join(folder, os.fsencode(n))) for n in known) for known in RUN_FILES)  # noqa: PTH110, PTH118 - bytes


def _status(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - bytes
    except OSError:
        return None


def _stamp(status: os.stat_result | None) -> bytes:
    return b"-" if status is None else b"%d:%d" % (status.st_size, status.st_mtime_ns)


def files_below(paths: Sequence[Path]) -> list[Path]:
    """Return the paths in the order given, folders replaced by their files, in memory: for a person's few pictures."""
    files: list[Path] = []
    for path in paths:
        found = sorted(record[0] for record in Walk([path])) if path.is_dir() else [os.fsencode(path)]
        files += [Path(os.fsdecode(name)) for name in found]
    return files


def is_url(path: str) -> bool:
    """Tell an address from a path of this machine."""
    return URL.match(path) is not None


def read_address(url: str, most: int) -> bytes:
    """Return a file's content, but no more than `most` bytes; raises OSError."""
    if urlsplit(url).scheme in ("http", "https"):
        return _read_http(url, most)[1]
    try:
        system, path = open_filesystem(url, f"Reading {urlsplit(url).scheme}://")
        with system.open(path, "rb") as file:
            return bytes(file.read(most))
    except OSError:
        raise
    except Exception as error:  # each kind of store has errors of its own
        raise OSError(0, _reason(error)) from error


def walk_address(url: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield (address, stamp) of the file, or of each file below the folder. Raises DataError if there is none."""
    is_web = urlsplit(url).scheme in ("http", "https")
    found = [(address, b"-") for address in _web_files(url)] if is_web else _stored_files(url)
    if not found:
        raise DataError(f"{url}: there is no such file or folder. Check the address; a folder ends in a slash.")
    for address, stamp in found:
        yield address.encode(), stamp


def _stored_files(url: str) -> list[tuple[str, bytes]]:
    """Return address and stamp of each file below an address of a store that is not hidden."""
    scheme, query = urlsplit(url).scheme, urlsplit(url).query
    try:
        system, path = open_filesystem(url, f"Reading {scheme}://")
        found: dict[str, dict[str, Any]] = system.find(path, detail=True)
    except PupilaError:
        raise
    except ValueError as error:
        raise DataError(f"{url}: {error}. Use s3://, http:// or another one that fsspec knows.") from error
    except Exception as error:  # each kind of store has errors of its own
        raise DataError(f"{url}: cannot be listed ({_reason(error)}). Check the address and your rights.") from error
    rest = f"?{query}" if query and scheme in ARROW else ""
    addresses = {name: name if URL.match(name) else f"{scheme}://{name}" for name in found}
    return [
        (addresses[name] + rest, _remote_stamp(about))
        for name, about in found.items()
        if not is_hidden(name.rpartition("/")[2])
    ]


def _web_files(url: str) -> Iterator[str]:
    """Yield the address itself if it is a file's, else those of the files below, as the folders' pages link to them.

    Raises DataError if a page cannot be read, or if there are more than the limits allow.
    """
    if not url.endswith("/"):
        yield url
        return
    until, left = time.monotonic() + MAX_SECONDS, MAX_PAGE_BYTES
    folders, seen = [url], {unquote(url)}
    for folder in folders:  # which grows
        try:
            where, page = _read_http(folder, left, until)
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be listed ({_reason(error)}). Check the address and your rights."
            ) from error
        left -= len(page)
        if left <= 0 or len(folders) > MAX_PAGES or folder.count("/") - url.count("/") > MAX_DEPTH:
            raise DataError(f"{url}: its folders lead on and on. Give the address of a folder in it.")
        if urlsplit(where).path != urlsplit(folder).path:
            raise DataError(f"{folder}: redirects to {where}. Give that address if you mean it.")
        for link in _links(url, where, page.decode("utf-8", "replace")):
            if unquote(link) not in seen:
                seen.add(unquote(link))
                if link.endswith("/"):
                    folders.append(link)
                else:
                    yield link


def _links(root: str, page: str, text: str) -> Iterator[str]:
    """Yield what a page links to below the folder `root` that is not hidden, under the scheme and host of the page."""
    for found in LINK.findall(text):
        try:
            link = urlsplit(urljoin(page, html.unescape(found)))
        except ValueError:
            continue
        above, path = unquote(urlsplit(root).path), unquote(link.path)
        names = path[len(above) :].removesuffix("/").split("/")
        same = link[:2] == urlsplit(page)[:2] and path.startswith(above) and not link.query
        if same and all(name and not is_hidden(name) and "\\" not in name for name in names):
            yield urlunsplit((link.scheme, link.netloc, link.path, "", ""))


def _remote_stamp(about: dict[str, Any]) -> bytes:
    """Return what changes with the file, as far as the other side knows it."""
    known = [about.get(key) for key in ("size", "mtime", "ETag")]
    return ":".join(str(value).replace("\0", "") for value in known if value is not None).encode() or b"-"


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


def _read_http(url: str, most: int, until: float = 0.0) -> tuple[str, bytes]:
    """Ask a web server, and again if it fails for a reason that may pass; return where the answer came from, and it.

    Raises OSError, also when the clock reaches `until`.
    """
    until = until or time.monotonic() + MAX_SECONDS
    for left in reversed(range(TRIES)):
        try:
            with urllib.request.build_opener(SameServer).open(url, timeout=TIMEOUT) as answer:
                return answer.geturl(), _received(answer, most, until)
        except urllib.error.HTTPError as error:
            if not left or (error.code < 500 and error.code != 429):
                reason = (
                    f"{error.reason}, which is not followed" if error.code < 400 else f"the server answers {error.code}"
                )
                raise OSError(0, reason) from error
        except (OSError, http.client.HTTPException) as error:
            if not left or time.monotonic() > until:
                raise OSError(0, _reason(error)) from error
        time.sleep(0.5 * (TRIES - left))
    raise AssertionError("the last try returns or raises")


def _received(answer: http.client.HTTPResponse, most: int, until: float) -> bytes:
    """Return at most `most` bytes of an answer; raises TimeoutError if it does not come to an end."""
    data = bytearray()
    while len(data) < most and (block := answer.read1(min(most - len(data), 2**20))):
        data += block
        if time.monotonic() > until:
            raise TimeoutError("it comes too slowly")
    return bytes(data)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error).splitlines()[0]
