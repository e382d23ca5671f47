"""Tracing: answered requests as OpenTelemetry spans, sent over OTLP/HTTP. Only `--traces` loads the SDK.

Spans are made once a request is answered, from the times that were noted anyway: a request that is not traced pays
nothing, and one that is traced waits for nobody, as spans are sent by a thread of their own, which drops what a
collector that is down cannot take.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pupila.errors import MissingExtraError, SettingsError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

    from pupila.server.api.request_context import RequestContext

log = logging.getLogger("pupila.server")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own names of where to send spans; either of them switches tracing on."""
PATH = "/v1/traces"
MAX_STATE = 512
"""Letters of `tracestate`, as W3C's text has it; earlier SDKs take time by the square of its blanks."""
UNTRACED = frozenset(("health", "metrics"))
"""Routes that are asked every few seconds, and tell nothing."""
LAST_FLUSH = 2.0
"""Seconds that a worker which ends gives its last spans."""


def check_tracing(url: str | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether to trace; raises SettingsError for a bad URL, MissingExtraError for a URL without the SDK.

    Variables alone, which a platform may set for everybody, do not keep a server without the SDK from starting.
    """
    named = any(environment.get(name) for name in ENDPOINTS)
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    unwanted = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"
    if url is None and (disabled or unwanted or not named):
        return False
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
        raise SettingsError(f"traces = {url!r} is not the URL of a collector. Give one such as http://127.0.0.1:4318")
    with contextlib.suppress(ModuleNotFoundError):  # a package that would hold them is missing
        if find_spec("opentelemetry.sdk.trace") and find_spec("opentelemetry.exporter.otlp.proto.http"):
            return True
    missing = MissingExtraError("Tracing", "telemetry")
    if url is not None:
        raise missing
    log.warning("OpenTelemetry's variables ask for traces, but there are none: %s", missing)
    return False


def traces_url(base: str) -> str:
    """Return where spans go: a URL without a path is that of a collector, which takes them at its usual path."""
    return base.rstrip("/") + PATH if urlsplit(base).path in ("", "/") else base


class Tracer:
    """One worker's; made after the fork, as it has a thread. Its methods may be called from several threads."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("pupila.server")
        self._propagator = TraceContextTextMapPropagator()
        logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it would repeat damaged headers as they are

    @classmethod
    def exporting(cls, url: str | None, worker: int) -> "Tracer":
        """Return a tracer that sends to `url`, or where OpenTelemetry's environment variables say if it is None."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from pupila import __version__

        about = {"service.version": __version__, "service.instance.id": str(worker)}
        resource = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in resource:
            about["service.name"] = "pupila"
        provider = TracerProvider(resource=Resource.create({**about}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=None if url is None else traces_url(url))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider)

    def record(
        self, request: "RequestContext", method: str, path: str, status: int, started: float, ended: float
    ) -> None:
        """Make a span of a request and one of each of its stages; times are of time.monotonic.

        Attributes have OpenTelemetry's names where there are any; no picture, no answer.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        if request.route in UNTRACED:
            return
        epoch = time.time_ns() - time.monotonic_ns()
        found: dict[str, str | int] = {
            "http.request.method": method,
            "url.path": path,
            "http.response.status_code": status,
            "pupila.pictures": len(request.confidences),
            "pupila.request_id": request.request_id,
        }
        if request.model is not None:
            found["pupila.model.version"] = request.model
        span = self._tracer.start_span(
            f"{method} {request.route}",
            self._parent_of(request),
            SpanKind.SERVER,
            found,
            start_time=epoch + int(started * 1e9),
        )
        if span.is_recording():
            within = set_span_in_context(span)
            for stage, begun, over in request.spans:
                child = self._tracer.start_span(stage, within, start_time=epoch + int(begun * 1e9))
                child.end(epoch + int(over * 1e9))
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))
        span.end(epoch + int(ended * 1e9))

    def _parent_of(self, request: "RequestContext") -> "Context":
        """Return the caller's span (W3C Trace Context), or an empty context: a damaged header counts as none."""
        from opentelemetry.context import Context

        parent, state = request.parent
        known = state if state and len(state) <= MAX_STATE else ""
        carrier = {"traceparent": parent, "tracestate": known} if parent else {}
        return self._propagator.extract(carrier, Context())

    def close(self) -> None:
        """Send what has not been sent, but do not hold up the process for a collector that does not answer."""
        last = threading.Thread(target=self._provider.force_flush, daemon=True)
        last.start()
        last.join(LAST_FLUSH)
