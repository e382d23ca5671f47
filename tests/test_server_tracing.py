"""Traces: the real SDK sends what happened to a real collector's port, and is not loaded where nobody asked for it."""

import gzip
import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from server_kit import launch, picture, serving, write_model

from pupila.errors import MissingExtraError, SettingsError
from pupila.server.observability.tracing import check_tracing, traces_url

collected = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans over OTLP/HTTP, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.paths: set[str] = set()

    def named(self, *names: str) -> dict[str, Any]:
        """Wait for spans of these names, and return the newest of each."""
        limit = time.monotonic() + 60
        while not set(names) <= {span.name for span in self.spans}:
            assert time.monotonic() < limit, f"only {[span.name for span in self.spans]} came"
            time.sleep(0.02)
        return {span.name: span for span in list(self.spans)}


class Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in collected.ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.server.spans.extend(scope.spans)
        self.server.paths.add(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_request_is_a_span_with_its_stages_within_the_callers_trace(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    settings = {"port": 0, "workers": 1, "traces": f"http://127.0.0.1:{collector.server_port}"}
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "X-Request-Id": "mine", "Content-Type": "image/png"}
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", json.dumps(settings)) as server:
        response = requests.post(f"{server.url}/predict", picture(), headers=headers, timeout=20)
        assert response.status_code == 200
        spans = collector.named("POST predict", "upload", "wait", "parse", "decode", "compute")
        assert server.get("/healthz").status_code == 200
        assert server.get("/nothing" + "/long" * 1_000).status_code == 404
        assert len(attributes(collector.named("GET other")["GET other"])["url.path"]) == 1_000  # as in the log
    request = spans.pop("POST predict")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, SPAN)
    assert attributes(request) == {
        "http.request.method": "POST",
        "url.path": "/predict",
        "http.response.status_code": 200,
        "pupila.pictures": 1,
        "pupila.request_id": "mine",
        "pupila.model.version": response.headers["Pupila-Model"],
    }
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id)
        assert request.start_time_unix_nano - 1000 <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano + 1000
    assert abs(request.start_time_unix_nano / 1e9 - time.time()) < 300
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "pupila"
    assert not any("health" in span.name for span in collector.spans)


def test_environment_switches_tracing_on_and_the_last_spans_are_sent_when_the_server_ends(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "pictures-of-ours")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    model = write_model(tmp_path / "colours.onnx")
    with serving(model, tmp_path / "log", '{"port": 0, "workers": 1}') as server:
        broken = requests.post(f"{server.url}/predict", b"bad", headers={"traceparent": "nonsense"}, timeout=20)
        assert broken.status_code == 415
        assert collector.spans == []
    span = collector.named("POST predict")["POST predict"]
    assert attributes(span)["http.response.status_code"] == 415
    assert span.trace_id.hex() != TRACE and not span.parent_span_id
    assert collector.resources[0]["service.name"] == "pictures-of-ours"


def test_collector_that_is_down_harms_no_request(tmp_path: Path) -> None:
    settings = {"port": 0, "workers": 1, "traces": "http://127.0.0.1:9"}
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", json.dumps(settings)) as server:
        assert [server.predict(picture()).status_code for _ in range(5)] == [200] * 5
    assert server.process.returncode == 0


def test_url_without_a_path_is_that_of_a_collector() -> None:
    assert traces_url("http://here:4318") == traces_url("http://here:4318/") == "http://here:4318/v1/traces"
    assert traces_url("https://there/otlp/traces") == "https://there/otlp/traces"


@pytest.mark.parametrize("url", ["", "here:4318", "grpc://here:4317", "http://"])
def test_url_of_no_collector_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="is not the URL of a collector"):
        check_tracing(url, {})


def test_environment_alone_decides_where_no_url_is_given() -> None:
    named = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://here:4318/v1/traces"}
    assert not check_tracing(None, {})
    assert check_tracing(None, named)
    assert not check_tracing(None, {**named, "OTEL_SDK_DISABLED": "true"})
    assert not check_tracing(None, {**named, "OTEL_TRACES_EXPORTER": "none"})


def test_missing_sdk_is_one_sentence_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tmp_path / "opentelemetry"
    hidden.mkdir()
    (hidden / "__init__.py").touch()  # hides the installed one, as if only that had come with something else
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    missing = str(MissingExtraError("Tracing", "telemetry"))
    process = launch(tmp_path / "none.onnx", tmp_path / "log", '{"port": 0, "traces": "http://127.0.0.1:4318"}')
    assert process.wait(60) == 1
    assert (tmp_path / "log").read_text() == f"MissingExtraError: {missing}\n"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")  # as a platform may, for everybody
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log2", '{"port": 0, "workers": 1}') as server:
        assert server.predict(picture()).status_code == 200
        assert server.log.read_text().count(missing) == 1


def test_nothing_of_it_is_loaded_where_nobody_traces() -> None:
    code = (
        "import sys, pupila.server.process.supervisor\n"
        "from pupila.server.observability.tracing import check_tracing\nassert not check_tracing(None, {})\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
