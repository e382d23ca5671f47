"""Hot reload of a new model file while the old one serves, and the versions that were taken over: list, activate.

Each worker looks at the file for itself. A new one is loaded, checked against its golden set and warmed up beside the
running one; then one assignment makes it the one that new requests use, and requests that run keep theirs to their end.

`colours.onnx` is what serves; from the first swap on `colours.onnx.versions/` holds every version that was accepted,
named by its hash, and `history.json`, which says in what order. Activating one renames a copy of it into place.
"""

import contextlib
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pupila import _files
from pupila._files import Stamp, from_json, locked, read_small, refuse_link, stamp_of, write_file
from pupila.errors import ModelError, PupilaError
from pupila.manifest import MAX_TEXT
from pupila.model_file.reader import MAX_BYTES, read_bytes
from pupila.predictor import Predictor
from pupila.server.api.errors import log_fault
from pupila.server.inference import BATCH, Classifier
from pupila.server.process.scoreboard import Health

log = logging.getLogger("pupila.server")

RELOAD_INTERVAL = 0.3
"""Seconds between two looks at the file."""


class BusyError(ModelError):
    """Another worker loads the file: one does at a time, so that what that may do to a process is done to one."""


@dataclass(eq=False)
class HotReloader:
    """Watches one model file for one worker."""

    path: Path
    classifier: Classifier
    health: Health
    load: Callable[[Path], Predictor]
    seen: Stamp | None
    """The file at the last look."""
    on_new_classes: Callable[[], None]
    """Called before a model with other classes takes over."""
    serving: BinaryIO | None = None
    """The file that serves, kept open: it can still be read when another one has taken its place."""

    def start(self) -> None:
        """Watch in a thread that ends with the process."""
        self.serving = open_file(self.path)
        threading.Thread(target=self._watch, daemon=True, name="hot reload").start()

    def _watch(self) -> None:
        while True:
            time.sleep(RELOAD_INTERVAL)
            try:
                self.look()
            except Exception as error:
                log_fault(error, "looking for a new model failed")

    def look(self) -> None:
        """Take over the file if it is another one than at the last look."""
        stamp = stamp_of(self.path)
        if stamp is None or stamp == self.seen:
            return
        before, self.seen = self.seen, stamp
        try:
            predictor = loaded(self.path, self.load)
        except BusyError:
            self.seen = before
            return
        except ModelError as error:
            self.health.refused = f"{self.path.name}: {error.reason}"
            log.error("a new model is refused, version %s goes on: %s", self.classifier.predictor.version, error)
            return
        self.health.refused = None
        self.take_over(predictor)

    def take_over(self, predictor: Predictor) -> None:
        """Let new requests use this predictor."""
        before = self.classifier.predictor
        if predictor.version == before.version:
            return
        if predictor.manifest.classes != before.manifest.classes:
            self.on_new_classes()
        self.classifier.predictor = predictor
        keep(self.path, self.serving, before)
        if self.serving is not None:
            self.serving.close()
        self.serving = open_file(self.path)
        keep(self.path, self.serving, predictor)
        log.warning("version %s of %s serves now, before it %s", predictor.version, self.path, before.version)


def load_first(
    path: Path, load: Callable[[Path], Predictor], fallback: BinaryIO | None
) -> tuple[Predictor, str | None]:
    """Return the predictor that a new worker starts with, and why the file in place is refused, if it is.

    Once the server has served, a bad file in place makes a new worker use the version that was accepted last, or
    `fallback`, the file that the server started with. Raises ModelError if there is nothing to serve.
    """
    try:
        return loaded(path, load), None
    except ModelError as error:
        if fallback is None:
            raise
        refused = f"{path.name}: {error.reason}"
    here = None
    with contextlib.suppress(ModelError):
        here = version_of(path)
    with contextlib.suppress(ModelError):
        if (last := latest(path, but=here)) is not None:
            return loaded(last, load), refused
    return loaded(Path(f"/dev/fd/{fallback.fileno()}"), load), refused


def loaded(path: Path, load: Callable[[Path], Predictor]) -> Predictor:
    """Return what `load` does; whatever goes wrong is a ModelError."""
    try:
        return load(path)
    except PupilaError as error:
        raise error if isinstance(error, ModelError) else ModelError(str(error), path) from error
    except Exception as error:
        raise ModelError(f"It cannot be loaded ({type(error).__name__}). Export or copy it again.", path) from error


def keep(path: Path, file: BinaryIO | None, predictor: Predictor) -> None:
    """Remember a version that was accepted; where nothing can be written, there is just no way back."""
    if file is None:
        return
    try:
        file.seek(0)
        data = file.read(MAX_BYTES)
        if hashlib.sha256(data).hexdigest().startswith(predictor.version):
            remember(path, predictor.version, predictor.manifest.name, data)
    except OSError as error:
        log.warning("%s: its versions cannot be kept (%s)", path, error.strerror)


def open_file(path: Path) -> BinaryIO | None:
    """Open a file for reading; None if it cannot be."""
    try:
        return _files.open_file(path)
    except (OSError, ValueError):
        return None


def warm_up(predictor: Predictor) -> None:
    """Compute every batch size once, so that no request pays for the first time."""
    size = predictor.manifest.input_size
    for count in (1, min(BATCH, predictor.at_once)):
        predictor.logits(np.zeros((count, size, size, 3), np.uint8))


KEEP = 10
"""Versions kept; older ones are deleted."""
HISTORY_BYTES = 2**20
"""Of history.json at most: ten names may take 120,000."""
LATEST = 2**36
"""Seconds since 1970, the year 4147: up to which a time is shown."""


@dataclass(frozen=True)
class Accepted:
    """What the history says of a version."""

    version: str
    """First 12 hex digits of the file's SHA-256."""
    name: str
    accepted: float
    """Seconds since 1970 at which it was taken over last."""


@dataclass(frozen=True)
class Version(Accepted):
    """One version that was accepted at some time."""

    active: bool
    """Its file is the one in place."""

    def to_text(self) -> str:
        """Return one line to print; the active version has a star."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.accepted))
        return f"{'*' if self.active else ' '} {self.version}  {when}  {self.name}"


def versions(model: Path) -> list[Version]:
    """Return the known versions of a model file, the one taken over last first."""
    active = None
    with contextlib.suppress(ModelError):
        active = version_of(model)
    return [Version(**vars(one), active=one.version == active) for one in reversed(read(model))]


def activate(model: Path, version: str) -> Version:
    """Put a version in place; a server that serves this file takes it over.

    Raises ModelError if there is none such, or if what is kept under its name is another file.
    """
    found = [one for one in versions(model) if one.version.startswith(version)] if version else []
    if len(found) != 1:
        known = ", ".join(one.version for one in versions(model)) or "none yet"
        there_is = "there is more than one" if found else "there is no"
        raise ModelError(f"{model}: {there_is} version {version!r}. There are: {known}")
    path = kept(model, found[0].version)
    data = read_bytes(path)
    if not hashlib.sha256(data).hexdigest().startswith(found[0].version):
        raise ModelError("It is not the file of that version. Activate another one.", path)
    write_file(model, data)
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
    refuse_link(folder(model))
    folder(model).mkdir(exist_ok=True)
    path = kept(model, version)
    with locked(folder(model) / ".lock"):
        if not is_kept(path, version):
            write_file(path, data)
        entries = [entry for entry in read(model) if entry.version != version]
        entries.append(Accepted(version, name, time.time()))
        for old in entries[:-KEEP]:
            kept(model, old.version).unlink(missing_ok=True)
        write_file(folder(model) / "history.json", json.dumps([vars(entry) for entry in entries[-KEEP:]], indent=1))
    return path


def latest(model: Path, but: str | None = None) -> Path | None:
    """Return the file of the version that was accepted last, but not of this one; None if there is none."""
    others = (entry.version for entry in reversed(read(model)) if entry.version != but)
    return next((kept(model, version) for version in others if is_kept(kept(model, version), version)), None)


def version_of(path: Path) -> str:
    """Return the name of a file's content; raises ModelError if it is no file, or too large to be a model."""
    return hashlib.sha256(read_bytes(path)).hexdigest()[:12]


def is_kept(path: Path, version: str) -> bool:
    """Return whether a file is there and is the version that its name says: the folder may be a stranger's."""
    with contextlib.suppress(ModelError):
        return version_of(path) == version
    return False


def folder(model: Path) -> Path:
    """Return where a model's versions are kept."""
    return model.with_name(f"{model.name}.versions")


def kept(model: Path, version: str) -> Path:
    """Return where one version is kept."""
    return folder(model) / f"{version}.onnx"


def read(model: Path) -> list[Accepted]:
    """Return the history, oldest first; a missing or damaged one counts as empty, as all of it may be a stranger's."""
    try:
        found = [
            from_json(Accepted, one) for one in json.loads(read_small(folder(model) / "history.json", HISTORY_BYTES))
        ]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return []
    return found if all(map(_is_right, found)) else []


def _is_right(entry: Accepted) -> bool:
    named = re.fullmatch("[0-9a-f]{12}", entry.version) and len(entry.name) <= MAX_TEXT
    return bool(named) and 0 <= entry.accepted <= LATEST
