"""Authentication, authorization and rate limits: which API key may send which request, and how often.

`AccessControl.decide` is the one place of that decision. It needs the method, the path and the headers alone, so that
it can be called as soon as a request's head has arrived. Keys are 256 random bits, and their SHA-256 is stored: a slow
hash only helps against guessing short secrets.
"""

import hashlib
import hmac
import logging
import math
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pupila.errors import SettingsError
from pupila.server.api.errors import RequestError
from pupila.server.process.scoreboard import SharedTable

log = logging.getLogger("pupila.server")

SCOPES = ("predict", "feedback", "review", "metrics", "admin")
"""`admin` is all of them. See the table of docs/http.md."""
KEPT = frozenset(("feedback", "review"))
"""What is kept: `feedback` reaches a key's own pictures, `review` those of all."""
ANYBODY: frozenset[str] = frozenset()
PREDICT = frozenset(("predict",))
DEFAULT_SCOPES = frozenset(("predict", "feedback"))
"""Of a key whose line has no scope: keys of before 0.2 have none."""
NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
DIGEST = re.compile(r"[0-9a-f]{64}")
FORM = "NAME:SHA256[:scope=SCOPE,...][:rate=REQUESTS][:pictures=PICTURES], as printed by: pupila keys new NAME"
BURST = 1.0
"""Seconds' worth of requests that may come at once."""
LOWEST_RATE = 0.001

READING = frozenset(("GET", "HEAD", "OPTIONS"))


DISK = ("store", "lists")
"""Threads that may wait for a disk, where other workers would wait, too."""


class Route(NamedTuple):
    """What holds for the paths of one kind; by default for those that are unknown."""

    scopes: frozenset[str] = frozenset(SCOPES)
    """A key needs one of them; without any, no key is needed."""
    name: str = "other"
    """What its requests count under."""
    threads: str = "light"
    """Which of the executor's threads answer; POST /predict is the compute thread's."""
    body: str = ""
    """`large` up to the settings' limit, `small`, or none: then it is answered without reading one."""


ROUTES = [
    (re.compile(path, re.DOTALL), route)
    for path, route in (
        ("/predict", Route(PREDICT, "predict", body="large")),
        ("/healthz|/readyz|/ping|/v2/health/(live|ready)", Route(ANYBODY, "health")),
        ("/|/docs|/review|/page/.*", Route(ANYBODY)),  # these pages ask for a key themselves
        ("/metrics", Route(frozenset(("metrics",)), "metrics")),
        ("/model", Route(name="model")),
        ("/feedback", Route(KEPT, threads="store", body="small")),
        ("/review/pictures", Route(KEPT, threads="lists")),
        ("/review/.*", Route(KEPT, threads="store")),
        ("/predictions/[^/]++(/[^/]++)?", Route(PREDICT, "predictions", "inference", "large")),
        ("/v2/models/[^/]++(/versions/[^/]++)?/infer", Route(PREDICT, "infer", "inference", "large")),
        ("/v2(/.*)?", Route(PREDICT, "model")),
    )
]
"""The first one whose pattern is the whole path, which is percent-decoded."""
UNKNOWN = Route()


def route_of(path: str) -> Route:
    """Return what holds for a path."""
    return next((route for pattern, route in ROUTES if pattern.fullmatch(path)), UNKNOWN)


@dataclass(frozen=True)
class ApiKey:
    """One key as it is stored. Its name owns what is sent with it: keys of one name are one owner."""

    name: str
    digest: str
    """SHA-256 of the key, in hex."""
    scopes: frozenset[str] = DEFAULT_SCOPES
    rate: float | None = None
    """Requests a second; None means no limit."""
    picture_rate: float | None = None
    """Pictures a second; None means no limit."""

    def has(self, *scopes: str) -> bool:
        """Return whether the key has one of these scopes."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)

    def line(self) -> str:
        """Return the line of a keys file."""
        rates = {"rate": self.rate, "pictures": self.picture_rate}
        fields = [f"{name}={rate:g}" for name, rate in rates.items() if rate is not None]
        return ":".join([self.name, self.digest, f"scope={','.join(sorted_scopes(self.scopes))}", *fields])


def sorted_scopes(scopes: Iterable[str]) -> list[str]:
    """Return scopes in the order of the documents."""
    return sorted(scopes, key=SCOPES.index)


def parse_keys(lines: Iterable[str]) -> tuple[ApiKey, ...]:
    """Read keys, one a line or separated by blanks; several are in force at once. Raises SettingsError."""
    keys: dict[str, ApiKey] = {}
    unscoped = []
    for number, line in enumerate(lines, 1):
        for entry in line.partition("#")[0].split():
            try:
                key = _parse_key(entry)
            except ValueError as error:
                raise SettingsError(f"line {number}: {error}") from None
            if key.digest in keys:
                raise SettingsError(f"line {number}: this key is there twice. Take one of its lines away.")
            keys[key.digest] = key
            unscoped += [] if "scope=" in entry else [key.name]
    if unscoped:
        log.warning(
            "API keys without a scope may predict and send feedback, and no more: %s. Add :scope=... to their lines; "
            "Prometheus needs metrics, and who reviews all pictures needs review.",
            ", ".join(unscoped),
        )
    return tuple(keys.values())


def _parse_key(entry: str) -> ApiKey:
    """Read one entry of a keys file; raises ValueError."""
    name, _, rest = entry.partition(":")
    digest, *fields = rest.split(":")
    if not NAME.fullmatch(name) or not DIGEST.fullmatch(digest):
        raise ValueError(f"{entry[:20]!r} is not an API key's entry. Write {FORM}")
    found: dict[str, str] = {}
    for field in fields:
        kind, equals, value = field.partition("=")
        kind, value = (kind, value) if equals else ("rate", field)  # before 0.2 a rate stood alone
        if kind not in ("scope", "rate", "pictures") or kind in found:
            raise ValueError(f"key {name}: {field[:40]!r} cannot be understood. Write {FORM}")
        found[kind] = value
    scopes = parse_scopes(found["scope"]) if "scope" in found else DEFAULT_SCOPES
    rate, pictures = (parse_rate(found[kind]) if kind in found else None for kind in ("rate", "pictures"))
    return ApiKey(name, digest, scopes, rate, pictures)


def parse_scopes(text: str) -> frozenset[str]:
    """Read scopes with commas between them; raises ValueError."""
    scopes = text.split(",")
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"there is no scope {scope[:40]!r}. Choose from {', '.join(SCOPES)}.")
    return frozenset(scopes)


def parse_rate(text: str) -> float:
    """Read a number of times a second; raises ValueError."""
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not LOWEST_RATE <= rate < math.inf:
        raise ValueError(f"{text[:40]!r} is not a rate. Give times a second, {LOWEST_RATE} or more, or leave it out.")
    return rate


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read a file of keys. Raises SettingsError."""
    try:
        keys = parse_keys(path.read_text(encoding="utf-8-sig").splitlines())
    except OSError as error:
        raise SettingsError(f"{path}: the API keys cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not a text file. Write lines of {FORM}") from error
    except SettingsError as error:
        raise SettingsError(f"{path}, {error}") from None
    if not keys:
        raise SettingsError(f"{path}: has no API key. Write lines of {FORM}")
    return keys


def new_key(
    name: str,
    scopes: Iterable[str] = DEFAULT_SCOPES,
    rate: float | None = None,
    picture_rate: float | None = None,
) -> tuple[str, ApiKey]:
    """Return a new key to give away, and what to store of it."""
    secret = secrets.token_urlsafe(32)
    return secret, ApiKey(name, digest_of(secret), frozenset(scopes), rate, picture_rate)


def digest_of(secret: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


class RateLimiter:
    """The generic cell rate algorithm. Made before the fork: all workers share the times at which a key may go on.

    Two processes may read the same time at once; then one request too many passes, which does no harm.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._column = {name: column for column, name in enumerate(dict.fromkeys(names))}
        self._due = SharedTable(1, max(len(self._column), 1)).row(0)

    def wait(self, name: str, rate: float | None, count: int = 1) -> float:
        """Return 0 and count so many if they may pass now, else the seconds until they may."""
        if rate is None:
            return 0.0
        now = time.monotonic()
        column = self._column[name]
        due = max(self._due[column], now)
        early = due - now - BURST
        if early > 0:
            return early
        self._due[column] = due + count / rate
        return 0.0


@dataclass(frozen=True)
class Access:
    """What was decided about a request."""

    key: ApiKey | None = None
    """The key that it carries; None where none is needed."""
    refusal: RequestError | None = None
    """The answer, if it is refused."""


class AccessControl:
    """Decides about each request. Made before the fork. Without keys everybody may do what needs no owner."""

    def __init__(self, keys: Sequence[ApiKey] = (), origins: Sequence[str] = ()) -> None:
        self.keys = tuple(keys)
        self.origins = frozenset(origins)
        self._requests = RateLimiter(key.digest for key in keys)
        self._pictures = RateLimiter(key.digest for key in keys)

    def decide(self, method: str, path: str, headers: Mapping[str, Any]) -> Access:
        """Decide about a request, once. The path is percent-decoded; the headers have their CGI names, as in WSGI."""
        scopes = route_of(path).scopes
        if not scopes:
            return Access()
        if not self.keys:
            if scopes is not KEPT or method in READING or not self.is_cross_site(headers):
                return Access()
            message = (
                "A page of another site may change nothing here. Name its origin with --cors-origins, or use API keys."
            )
            return Access(None, RequestError(403, "cross_site", message))
        key = self.authenticate(headers.get("HTTP_AUTHORIZATION"), headers.get("HTTP_X_API_KEY"))
        if key is None:
            message = "A valid API key is needed. Send it as: Authorization: Bearer KEY"
            return Access(None, RequestError(401, "key_missing", message))
        if not key.has(*scopes):
            needed, has = " or ".join(sorted_scopes(scopes)), ", ".join(sorted_scopes(key.scopes))
            message = f"This key may not do that: it needs the scope {needed}, and has {has}."
            return Access(key, RequestError(403, "scope_missing", message))
        wait = self._requests.wait(key.digest, key.rate)
        return Access(key, rate_exceeded(f"{key.rate:g} requests", wait) if wait > 0 else None)

    def authenticate(self, authorization: str | None, header: str | None) -> ApiKey | None:
        """Return the key that a request carries; takes as long whichever it is, and if it is none."""
        kind, _, token = (authorization or "").partition(" ")
        digest = digest_of((token.strip() if kind.lower() == "bearer" else header) or "")
        found = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def count_pictures(self, key: ApiKey | None, count: int) -> None:
        """Count the pictures of a request for its key's rate; raises RequestError if there were too many before."""
        if key is not None and key.picture_rate is not None:
            wait = self._pictures.wait(key.digest, key.picture_rate, count)
            if wait > 0:
                raise rate_exceeded(f"{key.picture_rate:g} pictures", wait)

    def is_cross_site(self, headers: Mapping[str, Any]) -> bool:
        """Return whether a page of another site has made a browser send this, as the browser itself says.

        Origins that the server names may. What is no browser sends neither header.
        """
        origin, site = headers.get("HTTP_ORIGIN"), headers.get("HTTP_SEC_FETCH_SITE")
        if origin is not None and ("*" in self.origins or origin in self.origins):
            return False
        if site is not None:
            return site not in ("same-origin", "none")
        return origin is not None and str(origin).partition("://")[2] != str(headers.get("HTTP_HOST"))


def rate_exceeded(what: str, wait: float) -> RequestError:
    """Return the answer to a key that has been used too often."""
    message = f"This key may send {what} a second. Try again in {wait:.1f} s."
    return RequestError(429, "rate_exceeded", message, retry_after=wait)
