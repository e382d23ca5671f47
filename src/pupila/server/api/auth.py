"""Who may ask, and how often: API keys and their rates. Knows no Flask.

A key is 256 random bits, so a plain hash keeps it safe at rest: a slow one only helps against guessing short secrets.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pupila.errors import SettingsError
from pupila.server.process.shared_table import Table

LINE = re.compile(r"([A-Za-z0-9._-]{1,40}):([0-9a-f]{64})(?::(\d+(?:\.\d+)?))?")
FORM = "NAME:SHA256 or NAME:SHA256:REQUESTS_PER_SECOND, as printed by: python -m pupila.server.api.auth NAME"
BURST = 1.0
"""Seconds' worth of requests that may come at once."""


@dataclass(frozen=True)
class Key:
    """One key as it is stored."""

    name: str
    digest: str
    """SHA-256 of the key, in hex."""
    rate: float | None = None
    """Requests a second; None means no limit."""


def parse_keys(lines: Iterable[str]) -> tuple[Key, ...]:
    """Read keys, one a line or separated by blanks; several are in force at once. Raises SettingsError."""
    keys = []
    for entry in (word for line in lines for word in line.partition("#")[0].split()):
        found = LINE.fullmatch(entry)
        if found is None:
            raise SettingsError(f"API key entry {entry[:20]!r} is not {FORM}")
        keys.append(Key(found[1], found[2], float(found[3]) if found[3] else None))
    return tuple(keys)


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys. Raises SettingsError."""
    try:
        keys = parse_keys(path.read_text().splitlines())
    except OSError as error:
        raise SettingsError(f"{path}: the API keys cannot be read ({error.strerror}).") from error
    if not keys:
        raise SettingsError(f"{path}: has no API key. Write lines of {FORM}")
    return keys


def new_key(name: str) -> tuple[str, Key]:
    """Return a new key to give away, and what to store of it."""
    secret = secrets.token_urlsafe(32)
    return secret, Key(name, digest_of(secret))


def digest_of(secret: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Guard:
    """The keys in force. Made before the fork: all workers share the times at which each key may ask again."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)
        self._next = Table(1, max(len(self.keys), 1)).row(0)

    def find(self, authorization: str | None, header: str | None) -> int | None:
        """Return the index of the key that a request carries; takes as long whichever it is, and if it is none."""
        kind, _, token = (authorization or "").partition(" ")
        secret = token.strip() if kind.lower() == "bearer" else header
        digest = digest_of(secret or "")
        found = None
        for index, key in enumerate(self.keys):
            if hmac.compare_digest(digest, key.digest):
                found = index
        return found

    def wait(self, index: int) -> float:
        """Return 0 if this key may ask now, else the seconds until it may (the generic cell rate algorithm).

        Two processes may read the same time at once; then one request too many is let in, which does no harm.
        """
        rate = self.keys[index].rate
        if rate is None:
            return 0.0
        now = time.monotonic()
        due = max(self._next[index], now)
        early = due - now - BURST
        if early > 0:
            return early
        self._next[index] = due + 1 / rate
        return 0.0


def main() -> None:
    """Print a new key, and the line to store."""
    import sys

    if len(sys.argv) != 2:
        sys.exit("Usage: python -m pupila.server.api.auth NAME")
    secret, key = new_key(sys.argv[1])
    print(f"key, to give away: {secret}\nline, to store:    {key.name}:{key.digest}")


if __name__ == "__main__":
    main()
