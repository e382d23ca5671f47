"""The versions of a model that a server has taken over, kept beside it: list, activate, roll back.

`colours.onnx` is what serves; from the first swap on `colours.onnx.versions/` holds every version that was accepted,
named by its hash, and `history.json`, which says in what order. Activating one renames a copy of it into place, as
anybody could by hand.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pupila._files import replacing, write_file
from pupila.errors import ModelError

KEEP = 10
"""Versions kept; older ones are deleted."""


@dataclass(frozen=True)
class Version:
    """One version that was accepted at some time."""

    version: str
    """First 12 hex digits of the file's SHA-256."""
    name: str
    accepted: float
    """Seconds since 1970 at which it was taken over last."""
    active: bool
    """Its file is the one in place."""

    def to_text(self) -> str:
        """Return one line to print; the active version has a star."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.accepted))
        return f"{'*' if self.active else ' '} {self.version}  {when}  {self.name}"


def versions(model: Path) -> list[Version]:
    """Return the known versions of a model file, the one taken over last first."""
    active = version_of(model) if model.exists() else None
    return [Version(e["version"], e["name"], e["accepted"], e["version"] == active) for e in reversed(read(model))]


def activate(model: Path, version: str) -> Version:
    """Put a version in place; a server that serves this file takes it over. Raises ModelError if there is none such."""
    found = [one for one in versions(model) if one.version.startswith(version)] if version else []
    if len(found) != 1:
        known = ", ".join(one.version for one in versions(model)) or "none yet"
        raise ModelError(f"{model}: {'no' if not found else 'more than one'} version {version!r}. There are: {known}")
    put_in_place(kept(model, found[0].version), model)
    return next(one for one in versions(model) if one.version == found[0].version)


def roll_back(model: Path) -> Version:
    """Put the version in place that served before the one that serves now. Raises ModelError if there is none."""
    known = versions(model)
    active = next((index for index, one in enumerate(known) if one.active), -1)
    if active + 1 >= len(known):
        raise ModelError(f"{model}: has no earlier version to go back to.")
    return activate(model, known[active + 1].version)


def remember(model: Path, version: str, name: str, data: bytes) -> Path:
    """Keep a version that was accepted, and note it as the latest; several processes may do so at once."""
    folder(model).mkdir(exist_ok=True)
    path = kept(model, version)
    with locked(model):
        if not path.exists():
            write_file(path, data)
        entries = [entry for entry in read(model) if entry["version"] != version]
        entries.append({"version": version, "name": name, "accepted": time.time()})
        for old in entries[:-KEEP]:
            kept(model, old["version"]).unlink(missing_ok=True)
        write_file(folder(model) / "history.json", json.dumps(entries[-KEEP:], indent=1))
    return path


def latest(model: Path) -> Path | None:
    """Return the file of the version that was accepted last, or None."""
    entries = read(model)
    path = kept(model, entries[-1]["version"]) if entries else None
    return path if path is not None and path.exists() else None


def version_of(path: Path) -> str:
    """Return the name of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def folder(model: Path) -> Path:
    """Return where a model's versions are kept."""
    return model.with_name(f"{model.name}.versions")


def kept(model: Path, version: str) -> Path:
    """Return where one version is kept."""
    return folder(model) / f"{version}.onnx"


def read(model: Path) -> list[dict[str, Any]]:
    """Return the history, oldest first; a missing or damaged one counts as empty."""
    with contextlib.suppress(OSError, ValueError):
        entries: list[dict[str, Any]] = json.loads((folder(model) / "history.json").read_text())
        return entries
    return []


def put_in_place(source: Path, model: Path) -> None:
    """Copy a file beside the model's, then rename it into its place."""
    with replacing(model) as temporary:
        shutil.copyfile(source, temporary)


@contextlib.contextmanager
def locked(model: Path) -> Iterator[None]:
    """Hold the lock of a model's history; it ends with the process that holds it."""
    with (folder(model) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
