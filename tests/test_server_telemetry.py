"""What is counted is what clients saw, across processes and after one of them died."""

import json
import re
import resource
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from server_kit import CLASSES, Running, picture, serving, signal_worker, wait_until, write_model

from pupila.server.api.request_context import RequestContext
from pupila.server.observability.request_log import RequestLog, Telemetry


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    settings = {"port": 0, "workers": 2, "access_log": str(tmp_path / "access.jsonl")}
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", json.dumps(settings)) as running:
        wait_until(lambda: running.get("/readyz").json()["workers"] == 2)
        yield running


def counters(server: Running) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and label values, in the order of the labels."""
    text = server.get("/metrics").text
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_are_the_clients_own_even_after_a_worker_died(server: Running) -> None:
    def ask(number: int) -> int:
        return (server.predict(b"bad") if number % 5 == 0 else server.predict(*[picture("blue")] * 3)).status_code

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(ask, range(60)))
        victim = server.workers()[0]
        signal_worker(victim, 9)
        wait_until(lambda: victim not in server.workers() and server.get("/readyz").json()["workers"] == 2)
        seen += list(pool.map(ask, range(60)))
    found = counters(server)
    assert found["pupila_requests_total", "200", "predict"] == seen.count(200) == 96
    assert found["pupila_requests_total", "415", "predict"] == seen.count(415) == 24
    assert found["pupila_request_seconds_count", "predict"] == 120
    assert found["pupila_confidence_count", "blue"] == 96 * 3
    assert found["pupila_stage_seconds_count", "compute"] == 96
    assert found["pupila_batch_pictures_sum", "model"] == 96 * 3
    assert found["pupila_workers_ready",] == 2
    assert found["pupila_worker_starts_total",] == 3
    assert all(found["pupila_unknown_total", name] == 0 for name in CLASSES)


def test_refusals_of_the_connection_itself_are_counted_too(server: Running) -> None:
    requests.post(f"{server.url}/predict", iter([bytes(2**20)] * 70), timeout=20)
    with socket.create_connection(("127.0.0.1", server.port), 9) as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 400")
    found = counters(server)
    assert found["pupila_requests_total", "413", "predict"] == 1
    assert found["pupila_requests_total", "400", "other"] == 1


def test_answer_shows_where_its_time_went(server: Running) -> None:
    timing = server.predict(picture()).headers["Server-Timing"]
    assert re.fullmatch(r"(upload|wait|parse|decode|compute);dur=\d+\.\d+(, \w+;dur=\d+\.\d+)*", timing)
    assert {part.split(";")[0] for part in timing.split(", ")} == {"upload", "wait", "parse", "decode", "compute"}


def test_access_log_has_one_line_of_json_for_every_answer(server: Running, tmp_path: Path) -> None:
    response = requests.post(
        f"{server.url}/predict", picture(), headers={"X-Request-Id": "mine-1", "Content-Type": "image/png"}, timeout=9
    )
    lines = [json.loads(line) for line in (tmp_path / "access.jsonl").read_text().splitlines()]
    line = next(line for line in lines if line["id"] == response.headers["X-Request-Id"] == "mine-1")
    assert (line["status"], line["path"], line["pictures"]) == (200, "/predict", 1)
    assert line["model"] == response.headers["Pupila-Model"]
    assert line["ms"] >= sum(line["stages_ms"].values()) - 1


def test_a_rotated_access_log_begins_anew_under_its_name(server: Running, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"

    def lines() -> int:
        server.predict(picture())
        return len(log.read_text().splitlines()) if log.exists() else 0

    assert lines() > 0
    log.rename(tmp_path / "access.jsonl.1")
    before = len((tmp_path / "access.jsonl.1").read_text().splitlines())
    wait_until(lambda: lines() > 3)
    assert len((tmp_path / "access.jsonl.1").read_text().splitlines()) >= before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_access_log_on_a_full_disk_costs_lines_and_no_answers(tmp_path: Path) -> None:
    settings = {"port": 0, "workers": 1, "access_log": "/dev/full"}
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", json.dumps(settings)) as server:
        assert [server.predict(picture()).status_code for _ in range(12)] == [200] * 12
        assert server.get("/healthz").status_code == 200
        assert requests.post(f"{server.url}/predict", iter([bytes(2**20)] * 70), timeout=20).status_code == 413
        assert counters(server)["pupila_worker_starts_total",] == 1
        assert server.log.read_text().count("the access log cannot be written (No space left on device)") == 1


def test_no_line_of_the_access_log_is_longer_than_a_pipe_takes_whole(server: Running, tmp_path: Path) -> None:
    """JSON writes some letters in six bytes: a thousand of them were cut, and others' lines stuck to what was left."""
    for path in ("/" + "%01" * 999, "/" + "%C3%A9" * 499, "/" + "a" * 999):
        with socket.create_connection(("127.0.0.1", server.port), 9) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert client.recv(12) == b"HTTP/1.1 404"
    controls, accents, plain = (tmp_path / "access.jsonl").read_bytes().splitlines(keepends=True)[-3:]
    assert 4000 < len(controls) < 4096 and 3000 < len(accents) < 4096
    assert json.loads(plain)["path"] == "/" + "a" * 999
    assert set(json.loads(controls)["path"]) == {"/", "\1"}


def test_line_after_one_that_was_cut_stands_alone(tmp_path: Path) -> None:
    """A disk that is full takes a part of a line, and the next one stuck to it."""
    file, context = tmp_path / "access.jsonl", RequestContext("other", 0.0)
    request_log = RequestLog(Telemetry(), file)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        request_log.record(context, "GET", "/cut", 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for path in ("/first", "/second"):
        request_log.record(context, "GET", path, 200)
    cut, first, second = file.read_text().splitlines()
    assert (len(cut), json.loads(first)["path"], json.loads(second)["path"]) == (20, "/first", "/second")


def test_pictures_of_other_protocols_are_noted_like_all_others(server: Running, tmp_path: Path) -> None:
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": [20, 20, 200] * 2048}
    response = requests.post(f"{server.url}/v2/models/colours/infer", json={"inputs": [tensor]}, timeout=20)
    assert response.status_code == 200
    line = json.loads((tmp_path / "access.jsonl").read_text().splitlines()[-1])
    assert (line["path"], line["pictures"]) == ("/v2/models/colours/infer", 2)
    assert counters(server)["pupila_confidence_count", "blue"] == 2


def test_dashboard_asks_only_for_metrics_that_exist(server: Running) -> None:
    server.predict(picture())
    known = {name[0] for name in counters(server)}
    dashboard = json.loads((Path(__file__).parent.parent / "deploy" / "grafana-dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"pupila_\w+", target["expr"])
    }
    assert asked and asked <= known


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: prometheus)")
def test_real_prometheus_counts_what_the_client_counts(server: Running, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 400ms}\n"
        f"scrape_configs: [{{job_name: pupila, static_configs: [{{targets: ['127.0.0.1:{server.port}']}}]}}]\n"
    )
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        seen = sum(server.predict(picture()).status_code == 200 for _ in range(50))
        signal_worker(server.workers()[1], 9)
        wait_until(lambda: server.get("/readyz").json()["workers"] == 2)
        seen += sum(server.predict(picture()).status_code == 200 for _ in range(50))
        assert seen == 100
        query = f"http://127.0.0.1:{port}/api/v1/query?query=pupila_requests_total%7Broute%3D%22predict%22%7D"

        def scraped() -> float:
            try:
                result = json.load(urllib.request.urlopen(query, timeout=5))["data"]["result"]
            except OSError:
                return -1
            return float(result[0]["value"][1]) if result else 0

        wait_until(lambda: scraped() == seen, 60)
    finally:
        process.terminate()
        process.wait(20)
