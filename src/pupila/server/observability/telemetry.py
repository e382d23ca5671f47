"""Counts what a server does, right across its processes and after one of them died. Knows neither HTTP nor Flask.

Each worker adds to its own row of shared memory, and whoever is asked sums the rows. The row outlives the worker: the
one that replaces it goes on counting where it stopped.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pupila.server.process.shared_table import Table

CODES = (200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 431, 500, 501, 503, 504, 505)
"""Statuses counted by themselves; any other counts as "other"."""
ROUTES = ("predict", "infer", "predictions", "model", "health", "metrics", "other")
STAGES = ("upload", "parse", "decode", "wait", "compute", "answer")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1.0, 2.0, 4.0, 8.0)
MAX_CLASSES = 1024
CONFIDENCES = (0.5, 0.7, 0.9, 0.99)


@dataclass
class Note:
    """What one request leaves to be counted once it is answered."""

    route: str = "other"
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds by stage."""
    confidences: list[tuple[int, float, bool]] = field(default_factory=list)
    """(class index, confidence, unknown) of each picture that was answered."""
    request_id: str = ""
    key: str | None = None
    """Name of the API key that was used."""
    model: str | None = None
    """Version of the model that answered."""
    spans: list[tuple[str, float, float]] | None = None
    """Each stage with when it began and ended, on the clock of time.monotonic; None where nobody traces."""
    parent: tuple[str | None, str | None] = (None, None)
    """The caller's headers `traceparent` and `tracestate`, where somebody traces."""


class Layout:
    """Which column holds what."""

    def __init__(self) -> None:
        self.columns = 0
        self.requests = self._take(len(ROUTES) * (len(CODES) + 1))
        self.request_seconds = self._take(len(ROUTES) * (len(SECONDS) + 2))
        self.stage_seconds = self._take(len(STAGES) * (len(SECONDS) + 2))
        self.batches = self._take(len(BATCHES) + 2)
        self.confidences = self._take(MAX_CLASSES * (len(CONFIDENCES) + 2))
        self.unknown = self._take(MAX_CLASSES)

    def _take(self, count: int) -> int:
        start = self.columns
        self.columns += count
        return start


LAYOUT = Layout()


class Telemetry:
    """One worker's row, and the table of all."""

    def __init__(self, table: Table | None = None, slot: int = 0) -> None:
        self.table = table or Table(1, LAYOUT.columns)
        self._row = self.table.row(slot)
        self._lock = threading.Lock()

    def request(self, note: Note, status: int, seconds: float) -> None:
        """Count an answered request."""
        route = ROUTES.index(note.route)
        code = CODES.index(status) if status in CODES else len(CODES)
        with self._lock:
            self._row[LAYOUT.requests + route * (len(CODES) + 1) + code] += 1
            self._observe(LAYOUT.request_seconds + route * (len(SECONDS) + 2), SECONDS, seconds)
            for stage, spent in note.stages.items():
                self._observe(LAYOUT.stage_seconds + STAGES.index(stage) * (len(SECONDS) + 2), SECONDS, spent)
            for index, confidence, unknown in note.confidences:
                if index < MAX_CLASSES:
                    self._observe(LAYOUT.confidences + index * (len(CONFIDENCES) + 2), CONFIDENCES, confidence)
                    self._row[LAYOUT.unknown + index] += unknown

    def batch(self, size: int) -> None:
        """Count pictures that were computed together."""
        with self._lock:
            self._observe(LAYOUT.batches, BATCHES, size)

    def forget_classes(self) -> None:
        """Start the counts by class anew: a model with other classes has taken over."""
        with self._lock:
            for column in range(LAYOUT.confidences, LAYOUT.columns):
                self._row[column] = 0.0

    def _observe(self, start: int, bounds: Sequence[float], value: float) -> None:
        """Add a value to a histogram: one column a bucket, then one for what is above all bounds, then the sum."""
        self._row[start + bisect_left(bounds, value)] += 1
        self._row[start + len(bounds) + 1] += value

    def count(self, route: str, status: int) -> float:
        """Return how many requests of all workers were answered so."""
        code = CODES.index(status) if status in CODES else len(CODES)
        return self.table.sum(LAYOUT.requests + ROUTES.index(route) * (len(CODES) + 1) + code)

    def histogram(self, start: int, bounds: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulative buckets by upper bound, and the sum of all values."""
        total, buckets = 0.0, []
        for index, bound in enumerate([*map(str, bounds), "+Inf"]):
            total += self.table.sum(start + index)
            buckets.append((bound, total))
        return buckets, self.table.sum(start + len(bounds) + 1)


def each(names: Iterable[str], start: int, width: int) -> Mapping[str, int]:
    """Return the first column of each of several things that lie side by side."""
    return {name: start + index * width for index, name in enumerate(names)}
