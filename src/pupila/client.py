"""HTTP client of a Pupila server. Retries when the server is busy. Needs neither NumPy nor Pillow.

import pupila
with pupila.Client("http://127.0.0.1:3000") as client:
    print(client.predict(["horse.jpg", "dog.jpg"]))
"""

import contextlib
import http.client
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import urlencode, urlsplit

from pupila._arguments import check_top, name_of, one_picture, several, whole_number
from pupila.errors import ImageError, ServerError
from pupila.prediction import Choice, Prediction

if TYPE_CHECKING:
    from pupila.predictor import Picture

ESCAPED = {ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"}
"""How a form writes what would end a file's name (WHATWG's multipart/form-data)."""

MAX_ANSWER = 64 * 2**20
"""Bytes of an answer that are read: whatever listens at the address may send on and on."""
KEY = re.compile("[!-~]+")
MAX_PAUSE = 30.0
"""Longest pause before another try, whatever the server says; seconds."""


class Client:
    """A connection to a server, kept open; not for several threads at once.

    url: such as http://127.0.0.1:3000. key: an API key, where the server asks for one. timeout: seconds to wait for
    the connection and for each answer. retries: how often a busy server is asked again.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 30.0, retries: int = 3) -> None:
        if not isinstance(url, str):
            raise TypeError(f"The server's address must be text, not {type(url).__name__}.")
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")
            parts.path.encode("ascii")
        except ValueError:  # UnicodeError is one
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(0, "bad_address", f"{url!r} is not an address. Give one such as http://127.0.0.1:3000")
        if key and not KEY.fullmatch(key):
            raise ServerError(0, "bad_key", "An API key has visible ASCII letters only, without a line end.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url = url
        self._connection = kind(parts.hostname, port, timeout=timeout)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._retries = retries

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was refused its arguments
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    @overload
    def predict(self, pictures: "Picture", top: int = 1, explain: bool = False) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, pictures: "Iterable[Picture]", top: int = 1, explain: bool = False) -> list[Prediction]: ...
    @overload
    def predict(
        self, pictures: "Iterable[Picture]", top: int = 1, explain: bool = False, *, on_error: str
    ) -> "list[Prediction | ImageError]": ...
    def predict(
        self, pictures: "Picture | Iterable[Picture]", top: int = 1, explain: bool = False, *, on_error: str = "fail"
    ) -> "Prediction | list[Prediction] | list[Prediction | ImageError]":
        """Return the Prediction for one picture, or a list of them in order for a list, as Predictor.predict() does.

        on_error: with "partial" the list has an ImageError in the place of a picture that the server cannot use.
        Raises ServerError, whose `parts` say which pictures are to blame; ImageError if a file cannot be read.
        """
        check_top(top)
        if on_error not in ("fail", "partial"):
            raise ValueError(f"on_error is 'fail' or 'partial', not {on_error!r}.")
        many = several(pictures)
        given = [pictures] if many is None else list(many)
        if not given:
            return []
        content_type, body = multipart([part_of(picture, place) for place, picture in enumerate(given)])
        partial = on_error == "partial" and many is not None
        chosen = {"top": top if top > 1 else 0, "explain": int(explain), "on_error": "partial" if partial else ""}
        query = urlencode({name: value for name, value in chosen.items() if value})
        document = self._ask("POST", f"/predict?{query}".rstrip("?"), body, {"Content-Type": content_type})
        try:
            found = [prediction_of(entry) for entry in document["predictions"]]
        except (AttributeError, KeyError, TypeError) as error:
            raise foreign(self._url, 200, body) from error
        if len(found) != len(given):
            raise foreign(self._url, 200, body)
        return found[0] if many is None else found  # type: ignore[return-value]  # errors are there if asked for

    def model(self) -> dict[str, Any]:
        """Return what the model says of itself."""
        return self._ask("GET", "/model", None, {})

    def ready(self) -> bool:
        """Return whether the server can answer now."""
        try:
            status, _, _ = self._send("GET", "/readyz", None, {})
        except ServerError:
            return False
        return status == 200

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, Any]:
        """Send a request; again when the server is too busy, after as long as it says."""
        for attempt in range(self._retries + 1):
            status, pause, document = self._send(method, path, body, headers)
            if status == 200 and document:
                return document
            if status not in (429, 503) or attempt == self._retries:
                break
            time.sleep(min(pause, MAX_PAUSE))
        error = document.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            raise foreign(self._url, status, body)
        raise ServerError(status, str(error.get("code")), error["message"], error.get("parts", []))

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, float, dict[str, Any]]:
        """Return status, seconds to wait before another try, and document; a connection that was idle may be gone."""
        for fresh in (False, True):
            try:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have refused the body's size
                    self._connection.request(method, self._prefix + path, body, {**self._headers, **headers})
                with self._connection.getresponse() as response:
                    data = response.read(MAX_ANSWER + 1)
                if response.length and len(data) <= MAX_ANSWER:  # is not said where a number is given
                    raise http.client.IncompleteRead(data)
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                gone = isinstance(error, http.client.RemoteDisconnected | ConnectionError)
                if fresh or not gone:
                    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise ServerError(0, "unreachable", f"{self._url}: {reason}") from error
        if len(data) > MAX_ANSWER:
            self._connection.close()
            reason = f"the answer has over {MAX_ANSWER // 2**20} MiB, and no more is read. Check the address."
            raise ServerError(response.status, "foreign_answer", f"{self._url}: {reason}")
        pause = whole_number(response.getheader("Retry-After", ""))
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = {}
        return response.status, 1.0 if pause is None else float(pause), document if isinstance(document, dict) else {}


def foreign(url: str, status: int, body: bytes | None) -> ServerError:
    """Return the error for a response that is none of a Pupila server's: a proxy's, or another program's."""
    if status == 413:
        message = (
            f"A proxy in front of the server refuses {len(body or b''):,} bytes (status 413). Send fewer or smaller "
            "pictures, or raise the proxy's limit: for nginx client_max_body_size 64m;"
        )
        return ServerError(status, "proxy_refused", message)
    if status in (502, 503, 504):
        message = f"A proxy in front of the server does not reach it (status {status}). Check that the server runs."
        return ServerError(status, "proxy_failed", message)
    message = f"{url}: the answer, with status {status}, is not one of a Pupila server. Check the address."
    return ServerError(status, "foreign_answer", message)


def prediction_of(entry: Mapping[str, Any]) -> Prediction | ImageError:
    """Read one entry of an answer; raises AttributeError, KeyError or TypeError for what is none."""
    if "error" in entry:
        return ImageError(typed(str, entry["error"]["code"]), typed(str, entry["error"]["message"]))
    top = tuple(
        Choice(typed(str, one["category"]), typed(int, one["category_index"]), typed(int | float, one["confidence"]))
        for one in entry.get("top") or [entry]
    )
    map_ = entry.get("explanation")
    return Prediction(top, entry.get("unknown", False), map_ and tuple(tuple(row) for row in map_["values"]))


def typed(kind: Any, value: Any) -> Any:
    """Return a value of an answer; raises TypeError if it is of another type."""
    if not isinstance(value, kind):
        raise TypeError
    return value


def part_of(picture: Any, place: int) -> tuple[str, bytes]:
    """Return a picture's name and its bytes as a file; pixels become a PNG. Raises ImageError if a file has none."""
    source = one_picture(picture)
    if isinstance(source, bytes):
        return f"{place}", source
    if not isinstance(source, Path):
        from pupila.images import as_png  # who gives pixels has Pillow

        return f"{place}.png", as_png(source)
    try:
        return source.name, source.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError.unreadable(error).of(name_of(picture, None)) from error


def multipart(files: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Return content type and body of a form with one part named 'file' for each file, given as name and content."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for name, data in files:
        quoted = name.translate(ESCAPED)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n\r\n'
        pieces += [head.encode(errors="replace"), data, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)
