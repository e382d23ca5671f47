"""/metrics: what telemetry has counted, in Prometheus's text format. Knows prometheus_client."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from pupila.manifest import Manifest
from pupila.server.api.feedback_writer import DROPPED, KEPT
from pupila.server.observability.telemetry import (
    BATCHES,
    CODES,
    CONFIDENCES,
    LAYOUT,
    MAX_CLASSES,
    ROUTES,
    SECONDS,
    STAGES,
    Telemetry,
    each,
)
from pupila.server.process.scoreboard import CONNECTIONS, STARTS, WAITING, Board
from pupila.server.process.shared_table import Table

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    telemetry: Telemetry, board: Board | None, manifest: Manifest, version: str, kept: Table | None = None
) -> bytes:
    """Return everything that has been counted; `kept`: the collectors' table, where pictures are kept."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshot(telemetry, board, manifest, version, kept))
    return generate_latest(registry)


class Snapshot(Collector):
    """Reads the shared table once."""

    def __init__(
        self, telemetry: Telemetry, board: Board | None, manifest: Manifest, version: str, kept: Table | None = None
    ) -> None:
        self.telemetry = telemetry
        self.board = board
        self.manifest = manifest
        self.version = version
        self.kept = kept

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield self.requests()
        yield self.histograms("pupila_request_seconds", "From first byte to answer.", "route", ROUTES, SECONDS,
                              LAYOUT.request_seconds)  # fmt: skip
        yield self.histograms("pupila_stage_seconds", "Time on each stage of a request.", "stage", STAGES, SECONDS,
                              LAYOUT.stage_seconds)  # fmt: skip
        yield self.histograms("pupila_batch_pictures", "Pictures computed together.", "kind", ("model",), BATCHES,
                              LAYOUT.batches)  # fmt: skip
        classes = self.manifest.classes[:MAX_CLASSES]
        yield self.histograms("pupila_confidence", "Confidence of the answers, by class.", "category", classes,
                              CONFIDENCES, LAYOUT.confidences)  # fmt: skip
        yield self.unknown(classes)
        yield from self.workers()
        if self.kept is not None:
            collected = CounterMetricFamily("pupila_collected", "Answered pictures to keep.", labels=["outcome"])
            collected.add_metric(["kept"], self.kept.sum(KEPT))
            collected.add_metric(["dropped"], self.kept.sum(DROPPED))
            yield collected
        model = GaugeMetricFamily("pupila_model_info", "The model that serves.", labels=["name", "version"])
        model.add_metric([self.manifest.name, self.version], 1)
        yield model

    def requests(self) -> Metric:
        """Answered requests by route and status."""
        family = CounterMetricFamily("pupila_requests", "Answered requests.", labels=["route", "code"])
        for route in ROUTES:
            for code in (*CODES, 0):
                count = self.telemetry.count(route, code)
                if count:
                    family.add_metric([route, str(code or "other")], count)
        return family

    def histograms(
        self, name: str, text: str, label: str, values: Sequence[str], bounds: Sequence[float], start: int
    ) -> Metric:
        """Histograms of one kind that have seen anything."""
        family = HistogramMetricFamily(name, text, labels=[label])
        for value, column in each(values, start, len(bounds) + 2).items():
            buckets, total = self.telemetry.histogram(column, bounds)
            if buckets[-1][1]:
                family.add_metric([value], buckets, total)
        return family

    def unknown(self, classes: Sequence[str]) -> Metric:
        """Pictures that look like none of the classes, by the class they were nearest to."""
        family = CounterMetricFamily(
            "pupila_unknown", "Pictures that look like none of the classes.", labels=["category"]
        )
        for index, name in enumerate(classes):
            family.add_metric([name], self.telemetry.table.sum(LAYOUT.unknown + index))
        return family

    def workers(self) -> Iterator[Metric]:
        """What the board shows."""
        if self.board is None:
            return
        yield GaugeMetricFamily("pupila_workers_ready", "Workers that can answer.", value=self.board.ready())
        yield GaugeMetricFamily("pupila_waiting", "Requests that wait for a thread.", value=self.board.sum(WAITING))
        yield GaugeMetricFamily("pupila_connections", "Open connections.", value=self.board.sum(CONNECTIONS))
        yield CounterMetricFamily("pupila_worker_starts", "Workers started so far.", value=self.board.sum(STARTS))
        memory = GaugeMetricFamily("pupila_worker_resident_bytes", "Memory of each worker.", labels=["worker"])
        for slot, size in self.board.resident_bytes().items():
            memory.add_metric([str(slot)], size)
        yield memory
