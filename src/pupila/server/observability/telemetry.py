"""Metrics of all worker processes: counters and histograms in shared memory.

Each worker adds to its own row, and whoever is asked sums the rows. The row outlives the worker: the one that replaces
it goes on counting where it stopped. METRICS declares each metric once; metrics.py writes them in Prometheus's format.
"""

import itertools
import threading
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from pupila.server.process.scoreboard import SharedTable

CODES = (200, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 500, 501, 503, 504, 505)
"""Statuses counted by themselves; any other counts as "other"."""
ROUTES = ("predict", "infer", "predictions", "model", "health", "metrics", "other")
STAGES = ("upload", "parse", "decode", "wait", "compute", "answer")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MAX_CLASSES = 1024


@dataclass(frozen=True, eq=False)
class SharedMetric:
    """A counter, or a histogram if it has bounds, for each of its labels' values."""

    name: str
    text: str
    labels: tuple[str, ...]
    values: tuple[tuple[str, ...], ...] = ()
    """Empty: the classes of the model that serves."""
    bounds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Columns of one value: a histogram has one a bucket, one for what is above all bounds, and the sum."""
        return len(self.bounds) + 2 if self.bounds else 1

    @property
    def columns(self) -> int:
        """Columns of all values."""
        return self.width * (len(self.values) or MAX_CLASSES)


REQUESTS = SharedMetric(
    "pupila_requests",
    "Answered requests.",
    ("route", "code"),
    tuple(itertools.product(ROUTES, (*map(str, CODES), "other"))),
)
REQUEST_SECONDS = SharedMetric(
    "pupila_request_seconds", "From first byte to answer.", ("route",), tuple(zip(ROUTES, strict=True)), SECONDS
)
STAGE_SECONDS = SharedMetric(
    "pupila_stage_seconds", "Time on each stage of a request.", ("stage",), tuple(zip(STAGES, strict=True)), SECONDS
)
BATCHES = SharedMetric(
    "pupila_batch_pictures", "Pictures computed together.", ("kind",), (("model",),), (1.0, 2.0, 4.0, 8.0)
)
CONFIDENCES = SharedMetric(
    "pupila_confidence", "Confidence of the answers, by class.", ("category",), bounds=(0.5, 0.7, 0.9, 0.99)
)
UNKNOWN = SharedMetric("pupila_unknown", "Pictures that look like none of the classes.", ("category",))
METRICS = (REQUESTS, REQUEST_SECONDS, STAGE_SECONDS, BATCHES, CONFIDENCES, UNKNOWN)
"""In the order of their columns; those by class are the last."""
STARTS = dict(zip(METRICS, itertools.accumulate([0, *(metric.columns for metric in METRICS)]), strict=False))
COLUMNS = sum(metric.columns for metric in METRICS)


@dataclass
class RequestRecord:
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


class Telemetry:
    """One worker's row, and the table of all."""

    def __init__(self, table: SharedTable | None = None, slot: int = 0) -> None:
        self.table = table or SharedTable(1, COLUMNS)
        self._row = self.table.row(slot)
        self._lock = threading.Lock()

    def request(self, note: RequestRecord, status: int, seconds: float) -> None:
        """Count an answered request."""
        with self._lock:
            self._add(REQUESTS, request_index(note.route, status), 1.0)
            self._add(REQUEST_SECONDS, ROUTES.index(note.route), seconds)
            for stage, spent in note.stages.items():
                self._add(STAGE_SECONDS, STAGES.index(stage), spent)
            for index, confidence, unknown in note.confidences:
                if index < MAX_CLASSES:
                    self._add(CONFIDENCES, index, confidence)
                    self._add(UNKNOWN, index, unknown)

    def batch(self, size: int) -> None:
        """Count pictures that were computed together."""
        with self._lock:
            self._add(BATCHES, 0, size)

    def forget_classes(self) -> None:
        """Start the counts by class anew: a model with other classes has taken over."""
        with self._lock:
            for column in range(STARTS[CONFIDENCES], COLUMNS):
                self._row[column] = 0.0

    def _add(self, metric: SharedMetric, index: int, value: float) -> None:
        """Add to a counter, or add a value to a histogram."""
        start = STARTS[metric] + index * metric.width
        if metric.bounds:
            self._row[start + bisect_left(metric.bounds, value)] += 1
        self._row[start + metric.width - 1] += value

    def count(self, route: str, status: int) -> float:
        """Return how many requests of all workers were answered so."""
        return self.total(REQUESTS, request_index(route, status))

    def total(self, metric: SharedMetric, index: int) -> float:
        """Return a counter, or the sum of a histogram's values, over all workers."""
        return self.table.sum(STARTS[metric] + (index + 1) * metric.width - 1)

    def buckets(self, metric: SharedMetric, index: int) -> Iterator[tuple[str, float]]:
        """Yield the cumulative buckets of a histogram by upper bound, over all workers."""
        start, total = STARTS[metric] + index * metric.width, 0.0
        for place, bound in enumerate([*map(str, metric.bounds), "+Inf"]):
            total += self.table.sum(start + place)
            yield bound, total


def request_index(route: str, status: int) -> int:
    """Return the place of a route and a status among the values of REQUESTS."""
    code = CODES.index(status) if status in CODES else len(CODES)
    return ROUTES.index(route) * (len(CODES) + 1) + code
