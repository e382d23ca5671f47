"""Hot reload: takes over a new model file while the old one serves.

Each worker looks at the file for itself. A new one is loaded, checked against its golden set and warmed up beside the
running one; then one assignment makes it the one that new requests use, and requests that run keep theirs to their end.
"""

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pupila.errors import ModelError, PupilaError
from pupila.model_file import MAX_BYTES
from pupila.predictor import Predictor
from pupila.server.inference.classifier import BATCH, Classifier
from pupila.server.model_versions import versions
from pupila.server.observability.health import Health

log = logging.getLogger("pupila.server")

INTERVAL = 0.3
"""Seconds between two looks at the file."""

Stamp = tuple[int, int, int]
"""Inode, size and time of change: differ whenever a file was renamed into place or written to."""


class HotReloader:
    """Watches one model file for one worker."""

    def __init__(
        self, path: Path, classifier: Classifier, health: Health, load: Callable[[Path], Predictor], stamp: Stamp | None
    ) -> None:
        self.path = path
        self.serving = open_file(path)
        """The file that serves, kept open: it can still be read when another one has taken its place."""
        self.classifier = classifier
        self.health = health
        self.load = load
        self.on_new_classes: Callable[[], None] = lambda: None
        """Called before a model with other classes takes over."""
        self._seen = stamp

    def start(self) -> None:
        """Watch in a thread that ends with the process."""
        threading.Thread(target=self._watch, daemon=True, name="hot reload").start()

    def _watch(self) -> None:
        while True:
            time.sleep(INTERVAL)
            try:
                self.look()
            except Exception:
                log.exception("looking for a new model failed")

    def look(self) -> None:
        """Take over the file if it is another one than at the last look."""
        stamp = stamp_of(self.path)
        if stamp is None or stamp == self._seen:
            return
        self._seen = stamp
        try:
            predictor = loaded(self.path, self.load)
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
    last = versions.latest(path)
    with contextlib.suppress(ModelError):
        if last is not None:
            return loaded(last, load), refused
    return loaded(Path(f"/dev/fd/{fallback.fileno()}"), load), refused


def loaded(path: Path, load: Callable[[Path], Predictor]) -> Predictor:
    """Return a predictor that has computed every batch size; whatever goes wrong is a ModelError."""
    try:
        predictor = load(path)
        warm_up(predictor)
    except PupilaError as error:
        raise error if isinstance(error, ModelError) else ModelError(str(error), path) from error
    except Exception as error:
        raise ModelError(f"It cannot be loaded ({type(error).__name__}). Export or copy it again.", path) from error
    return predictor


def keep(path: Path, file: BinaryIO | None, predictor: Predictor) -> None:
    """Remember a version that was accepted; where nothing can be written, there is just no way back."""
    if file is None:
        return
    try:
        file.seek(0)
        data = file.read(MAX_BYTES)
        if hashlib.sha256(data).hexdigest().startswith(predictor.version):
            versions.remember(path, predictor.version, predictor.manifest.name, data)
    except OSError as error:
        log.warning("%s: its versions cannot be kept (%s)", path, error.strerror)


def open_file(path: Path) -> BinaryIO | None:
    """Open a file for reading; None if it cannot be."""
    try:
        return path.open("rb")
    except OSError:
        return None


def warm_up(predictor: Predictor) -> None:
    """Compute every batch size once, so that no request pays for the first time."""
    size = predictor.manifest.input_size
    for count in (1, BATCH):
        predictor.logits(np.zeros((count, size, size, 3), np.uint8))


def stamp_of(path: Path) -> Stamp | None:
    """Return what tells one file from the next in its place; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # called often
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
