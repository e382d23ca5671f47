"""The request log: counts every answered request in shared memory, and writes its line of the access log.

Each worker adds to its own row, and the one that is asked sums the rows. The row outlives the worker: the one that
replaces it goes on counting where it stopped. METRICS declares each metric once; `Exposition` is GET /metrics, for
Prometheus.
"""

import contextlib
import itertools
import json
import logging
import os
import re
import stat
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pupila.manifest import Manifest
from pupila.server.api.errors import log_fault
from pupila.server.observability.tracing import Tracer
from pupila.server.process.scoreboard import CONNECTIONS, DROPPED, KEPT, STARTS, WAITING, Scoreboard, SharedTable

log = logging.getLogger("pupila.server")

if TYPE_CHECKING:
    from prometheus_client import Metric

    from pupila.server.api.request_context import RequestContext

CODES = (200, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 431, 500, 501, 503, 504, 505)
"""Statuses counted by themselves; any other counts as "other"."""
ROUTES = ("predict", "infer", "predictions", "model", "health", "metrics", "other")
STAGES = ("upload", "parse", "decode", "wait", "compute", "answer")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MAX_CLASSES = 1024
MAX_PATH = 1000
"""Letters of a path in the access log, each of which JSON may write in six bytes."""
MAX_LINE = 4094
"""Bytes of its line, between two line ends: a pipe takes 4 KiB whole, and of more whatever it has room for."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


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

    def total(self, sums: Sequence[float], index: int) -> float:
        """Return a counter, or the sum of a histogram's values, from the sums of all columns."""
        return sums[COLUMN_OF[self] + (index + 1) * self.width - 1]

    def buckets(self, sums: Sequence[float], index: int) -> list[tuple[str, float]]:
        """Return the cumulative buckets of a histogram by upper bound, from the sums of all columns."""
        start = COLUMN_OF[self] + index * self.width
        counts = itertools.accumulate(sums[start : start + self.width - 1])
        return list(zip([*map(str, self.bounds), "+Inf"], counts, strict=True))


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
COLUMN_OF = dict(zip(METRICS, itertools.accumulate([0, *(metric.columns for metric in METRICS)]), strict=False))
COLUMNS = sum(metric.columns for metric in METRICS)


class Telemetry:
    """One worker's row, and the table of all."""

    def __init__(self, table: SharedTable | None = None, slot: int = 0) -> None:
        self.table = table or SharedTable(1, COLUMNS)
        self._row = self.table.row(slot)
        self._lock = threading.Lock()

    def request(self, context: "RequestContext", status: int, seconds: float) -> None:
        """Count an answered request."""
        with self._lock:
            self._add(REQUESTS, request_index(context.route, status), 1.0)
            self._add(REQUEST_SECONDS, ROUTES.index(context.route), seconds)
            for stage, spent in context.stages.items():
                self._add(STAGE_SECONDS, STAGES.index(stage), spent)
            for index, confidence, unknown in context.confidences:
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
            for column in range(COLUMN_OF[CONFIDENCES], COLUMNS):
                self._row[column] = 0.0

    def _add(self, metric: SharedMetric, index: int, value: float) -> None:
        """Add to a counter, or add a value to a histogram."""
        start = COLUMN_OF[metric] + index * metric.width
        if metric.bounds:
            self._row[start + bisect_left(metric.bounds, value)] += 1
        self._row[start + metric.width - 1] += value


def request_index(route: str, status: int) -> int:
    """Return the place of a route and a status among the values of REQUESTS."""
    code = CODES.index(status) if status in CODES else len(CODES)
    return ROUTES.index(route) * (len(CODES) + 1) + code


APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
STDOUT = Path("-")
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


def opened(file: Path) -> int:
    """Return a descriptor of the access log. A pipe that nobody reads must not stop the server."""
    if file != STDOUT:
        return os.open(file, APPENDING | os.O_NONBLOCK, 0o640)
    if not stat.S_ISREG(os.fstat(1).st_mode):
        with contextlib.suppress(OSError):  # a socket, as systemd's, cannot be opened again
            return os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.dup(1)


class RequestLog:
    """One worker's; its methods may be called from several threads."""

    def __init__(self, telemetry: Telemetry, file: Path | None = None, tracer: Tracer | None = None) -> None:
        self.telemetry = telemetry
        self.tracer = tracer
        """Makes spans of the requests; None where nobody traces."""
        self._file = file
        self._log = None if file is None else opened(file)
        self._looked = time.monotonic()
        self._full = False
        """The log could not be written the last time."""
        self._is_cut = False
        """The last line was written in part, and has no end."""

    def request_id(self, given: str | None) -> str:
        """Return the client's own request id if it is a sane one, else a new one."""
        if given is not None and REQUEST_ID.fullmatch(given):
            return given
        return os.urandom(8).hex()  # nobody can guess another client's: without keys, feedback goes by it

    def record(self, context: "RequestContext", method: str, path: str, status: int) -> None:
        """Count a request, and write its line; called before its answer is sent, so that no client is ahead of it."""
        path = path[:MAX_PATH]
        ended = time.monotonic()
        started = ended - sum(context.stages.values()) if context.started is None else context.started
        self.telemetry.request(context, status, ended - started)
        if self.tracer is not None:
            try:
                self.tracer.record(context, method, path, status, started, ended)
            except Exception as error:  # must not cost the answer
                log_fault(error, "a request could not be traced")
        if self._log is None:
            return
        line = {
            "time": round(time.time(), 3),
            "id": context.request_id,
            "client": context.address,
            "key": None if context.key is None else context.key.name,
            "method": method,
            "path": path,
            "status": status,
            "ms": round(1000 * (ended - started), 2),
            "stages_ms": {stage: round(1000 * spent, 2) for stage, spent in context.stages.items()},
            "pictures": len(context.confidences),
            "model": context.model,
        }
        self._write(self._log, line_of(line))

    def _write(self, descriptor: int, line: bytes) -> None:
        """Write a line; a full disk costs the line, and is said once, but must not cost the answer."""
        try:
            self._follow(descriptor)
            line = b"\n" + line if self._is_cut else line
            self._is_cut = os.write(descriptor, line) < len(line)
            self._full = False
        except OSError as error:
            if not self._full:
                log.error("the access log cannot be written (%s): lines are lost until it can be", error.strerror)
            self._full = True

    def _follow(self, descriptor: int) -> None:
        """Once a second: if the file has been moved, as by logrotate, begin a new one under its name."""
        if self._file is None or self._file == STDOUT or time.monotonic() - self._looked < 1:
            return
        self._looked = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._file.stat(), os.fstat(descriptor)):
                return
        fresh = opened(self._file)
        os.dup2(fresh, descriptor, inheritable=False)  # another thread's line gets into the one file or the other
        os.close(fresh)

    def close(self) -> None:
        """Hand on what has not been sent yet; the process is about to end."""
        if self.tracer is not None:
            self.tracer.close()


def line_of(entry: dict[str, Any]) -> bytes:
    """Return an entry of the access log as a line; where that is over MAX_LINE, with as much of its path as fits."""
    line = json.dumps(entry, separators=(",", ":"))
    if len(line) > MAX_LINE:
        room = MAX_LINE - len(json.dumps({**entry, "path": ""}, separators=(",", ":")))
        line = json.dumps({**entry, "path": entry["path"][: max(0, room // 6)]}, separators=(",", ":"))
    return f"{line}\n".encode()


@dataclass
class Exposition:
    """Everything that was counted: reads the shared tables once, as one of Prometheus's collectors."""

    telemetry: Telemetry
    scoreboard: Scoreboard | None
    manifest: Manifest
    version: str
    kept: SharedTable | None
    """The table of feedback_writer.py."""

    def text(self) -> bytes:
        """Return it in Prometheus's text format."""
        from prometheus_client import generate_latest  # only where it is asked for: it costs 30 ms of start

        collector: Any = self
        return generate_latest(collector)

    def collect(self) -> "Iterator[Metric]":
        """Yield every metric."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        sums = self.telemetry.table.sums()
        for metric in METRICS:
            yield self.shared(metric, sums)
        if self.scoreboard is not None:
            yield from self.workers(self.scoreboard)
        if self.kept is not None:
            collected = CounterMetricFamily("pupila_collected", "Answered pictures to keep.", labels=["outcome"])
            collected.add_metric(["kept"], self.kept.sum(KEPT))
            collected.add_metric(["dropped"], self.kept.sum(DROPPED))
            yield collected
        model = GaugeMetricFamily("pupila_model_info", "The model that serves.", labels=["name", "version"])
        model.add_metric([self.manifest.name, self.version], 1)
        yield model

    def shared(self, metric: SharedMetric, sums: Sequence[float]) -> "Metric":
        """Return a metric of the shared table: what has been seen, and of classes that were not seen the zeros."""
        from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

        values = metric.values or [(name,) for name in self.manifest.classes[:MAX_CLASSES]]
        if not metric.bounds:
            counter = CounterMetricFamily(metric.name, metric.text, labels=metric.labels)
            for index, names in enumerate(values):
                count = metric.total(sums, index)
                if count or not metric.values:
                    counter.add_metric(names, count)
            return counter
        histogram = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        for index, names in enumerate(values):
            buckets = metric.buckets(sums, index)
            if buckets[-1][1]:
                histogram.add_metric(names, buckets, metric.total(sums, index))
        return histogram

    def workers(self, scoreboard: Scoreboard) -> "Iterator[Metric]":
        """Yield what the scoreboard shows."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield GaugeMetricFamily("pupila_workers_ready", "Workers that can answer.", value=scoreboard.ready())
        yield GaugeMetricFamily("pupila_waiting", "Requests that wait for a thread.", value=scoreboard.sum(WAITING))
        yield GaugeMetricFamily("pupila_connections", "Open connections.", value=scoreboard.sum(CONNECTIONS))
        yield CounterMetricFamily("pupila_worker_starts", "Workers started so far.", value=scoreboard.sum(STARTS))
        memory = GaugeMetricFamily("pupila_worker_resident_bytes", "Memory of each worker.", labels=["worker"])
        for slot, size in scoreboard.resident_bytes().items():
            memory.add_metric([str(slot)], size)
        yield memory
