"""GET /metrics: the metrics of request_log.py, and the state of the workers, in Prometheus's text format."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from pupila.manifest import Manifest
from pupila.server.api.feedback_writer import DROPPED, KEPT
from pupila.server.observability.request_log import MAX_CLASSES, METRICS, SharedMetric, Telemetry
from pupila.server.process.scoreboard import CONNECTIONS, STARTS, WAITING, Scoreboard, SharedTable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    telemetry: Telemetry,
    scoreboard: Scoreboard | None,
    manifest: Manifest,
    version: str,
    kept: SharedTable | None = None,
) -> bytes:
    """Return everything that has been counted; `kept`: the collectors' table, where pictures are kept."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshot(telemetry, scoreboard, manifest, version, kept))
    return generate_latest(registry)


class Snapshot(Collector):
    """Reads the shared table once."""

    def __init__(
        self,
        telemetry: Telemetry,
        scoreboard: Scoreboard | None,
        manifest: Manifest,
        version: str,
        kept: SharedTable | None = None,
    ) -> None:
        self.telemetry = telemetry
        self.scoreboard = scoreboard
        self.manifest = manifest
        self.version = version
        self.kept = kept

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from map(self.shared, METRICS)
        yield from self.workers()
        if self.kept is not None:
            collected = CounterMetricFamily("pupila_collected", "Answered pictures to keep.", labels=["outcome"])
            collected.add_metric(["kept"], self.kept.sum(KEPT))
            collected.add_metric(["dropped"], self.kept.sum(DROPPED))
            yield collected
        model = GaugeMetricFamily("pupila_model_info", "The model that serves.", labels=["name", "version"])
        model.add_metric([self.manifest.name, self.version], 1)
        yield model

    def shared(self, metric: SharedMetric) -> Metric:
        """Return a metric of the shared table: what has been seen, and of classes that were not seen the zeros."""
        values = metric.values or [(name,) for name in self.manifest.classes[:MAX_CLASSES]]
        if not metric.bounds:
            counter = CounterMetricFamily(metric.name, metric.text, labels=metric.labels)
            for index, names in enumerate(values):
                count = self.telemetry.total(metric, index)
                if count or not metric.values:
                    counter.add_metric(names, count)
            return counter
        histogram = HistogramMetricFamily(metric.name, metric.text, labels=metric.labels)
        for index, names in enumerate(values):
            buckets = list(self.telemetry.buckets(metric, index))
            if buckets[-1][1]:
                histogram.add_metric(names, buckets, self.telemetry.total(metric, index))
        return histogram

    def workers(self) -> Iterator[Metric]:
        """What the scoreboard shows."""
        if self.scoreboard is None:
            return
        yield GaugeMetricFamily("pupila_workers_ready", "Workers that can answer.", value=self.scoreboard.ready())
        yield GaugeMetricFamily(
            "pupila_waiting", "Requests that wait for a thread.", value=self.scoreboard.sum(WAITING)
        )
        yield GaugeMetricFamily("pupila_connections", "Open connections.", value=self.scoreboard.sum(CONNECTIONS))
        yield CounterMetricFamily("pupila_worker_starts", "Workers started so far.", value=self.scoreboard.sum(STARTS))
        memory = GaugeMetricFamily("pupila_worker_resident_bytes", "Memory of each worker.", labels=["worker"])
        for slot, size in self.scoreboard.resident_bytes().items():
            memory.add_metric([str(slot)], size)
        yield memory
