"""Asks a Pupila server, and comes back when it is told to. Needs nothing but Python: neither numpy nor Pillow.

from pupila.client import Client
with Client("http://127.0.0.1:3000") as client:
    print(client.predict("horse.jpg", "dog.jpg"))
"""

import http.client
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

Picture = str | Path | bytes
"""A file's path, or its content."""

ESCAPED = {ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"}
"""How a form writes what would end a file's name (WHATWG's multipart/form-data)."""

MAX_PAUSE = 30.0
"""Longest pause before another try, whatever the server says; seconds."""


class ServerError(Exception):
    """The server's refusal, in its own words."""

    def __init__(self, status: int, code: str, message: str, parts: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.parts = parts
        """Which pictures are to blame: index, filename, code and message of each."""


@dataclass(frozen=True)
class Answer:
    """What the server says of one picture."""

    category: str
    category_index: int
    confidence: float
    unknown: bool = False
    top: tuple[tuple[str, float], ...] = ()
    """The best classes with their probabilities, if asked for."""


class Client:
    """One connection that is kept; not for several threads at once."""

    def __init__(self, url: str, key: str | None = None, timeout: float = 30.0, retries: int = 3) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not an address. Give one such as http://127.0.0.1:3000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._retries = retries

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def predict(self, *pictures: Picture, top: int | None = None) -> list[Answer]:
        """Return one answer a picture, in order. Raises ServerError, or OSError if the server cannot be reached."""
        content_type, body = multipart(pictures)
        query = f"?{urlencode({'top': top})}" if top else ""
        document = self._ask("POST", f"/predict{query}", body, {"Content-Type": content_type})
        return [answer_of(entry) for entry in document["predictions"]]

    def model(self) -> dict[str, Any]:
        """Return what the model says of itself."""
        return self._ask("GET", "/model", None, {})

    def ready(self) -> bool:
        """Return whether the server can answer now."""
        try:
            status, _, _ = self._send("GET", "/readyz", None, {})
        except OSError:
            return False
        return status == 200

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> dict[str, Any]:
        """Send a request; again when the server is too busy, after as long as it says."""
        for attempt in range(self._retries + 1):
            status, pause, document = self._send(method, path, body, headers)
            if status == 200:
                return document
            if status not in (429, 503) or attempt == self._retries:
                break
            time.sleep(min(pause, MAX_PAUSE))
        error = document.get("error", {})
        raise ServerError(
            status, error.get("code", ""), error.get("message", f"status {status}"), error.get("parts", [])
        )

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, float, dict[str, Any]]:
        """Return status, seconds to wait before another try, and document; a connection that was idle may be gone."""
        for fresh in (False, True):
            try:
                self._connection.request(method, self._prefix + path, body, {**self._headers, **headers})
                response = self._connection.getresponse()
                data = response.read()
                break
            except (http.client.RemoteDisconnected, ConnectionError):
                self._connection.close()
                if fresh:
                    raise
        pause = response.getheader("Retry-After", "1")
        try:
            document = json.loads(data)
        except ValueError:
            document = {}
        return response.status, float(pause) if pause.isdigit() else 1.0, document if isinstance(document, dict) else {}


def answer_of(entry: Mapping[str, Any]) -> Answer:
    """Read one entry of an answer."""
    top = tuple((choice["category"], choice["confidence"]) for choice in entry.get("top", ()))
    known = entry["category"], entry["category_index"], entry["confidence"]
    return Answer(*known, entry.get("unknown", False), top)


def multipart(pictures: tuple[Picture, ...]) -> tuple[str, bytes]:
    """Return content type and body of a form with one part named 'file' for each picture."""
    boundary = secrets.token_hex(16)
    pieces: list[bytes] = []
    for index, picture in enumerate(pictures):
        data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        name = f"{index}" if isinstance(picture, bytes) else Path(picture).name.translate(ESCAPED)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        pieces += [head.encode(), data, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)
