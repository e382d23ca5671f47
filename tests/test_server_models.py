"""Models change while the server serves: no request is lost, none is mixed, and a bad file changes nothing."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from server_kit import Running, picture, serving, signal_worker, wait_until, write_model

from pupila.cli import main
from pupila.errors import ModelError
from pupila.model_file.reader import MAX_BYTES
from pupila.predictor import Predictor
from pupila.server import model_versions as versions

VERSION = "0123456789ab"
ENTRY = {"version": VERSION, "name": "a", "accepted": 1}
STRANGE = {
    "a number": "[1]", "an object": '{"a": 1}', "a text": '"abc"', "null": "null", "brackets": "[" * 100_000,
    "a text for a time": json.dumps([{**ENTRY, "accepted": "x"}]),
    "no such year": json.dumps([{**ENTRY, "accepted": 1e300}]),
    "NaN": '[{"version": "0123456789ab", "name": "a", "accepted": NaN}]',
    "a number for a name": json.dumps([{**ENTRY, "name": 1}]), "half a letter": '"\\ud800"', "cut off": "[{",
    "another folder": json.dumps([{**ENTRY, "version": "../../mine/precious"}]),
    "no name": json.dumps([{"version": VERSION}]),
    "endless": " " * 2**21 + "[]", "a name without end": json.dumps([{**ENTRY, "name": "a" * 2000}]),
}  # fmt: skip
"""What a history.json may hold that came from somebody else."""


def with_history(folder: Path, text: str) -> Path:
    """Return a model file beside which there is a history."""
    path = write_model(folder / "m.onnx")
    versions.folder(path).mkdir(exist_ok=True)
    (versions.folder(path) / "history.json").write_text(text)
    return path


@pytest.mark.parametrize("name", STRANGE)
def test_strange_history_counts_as_empty(name: str, tmp_path: Path) -> None:
    path = with_history(tmp_path, STRANGE[name])
    for more in ([], ["--json"]):
        done = CliRunner().invoke(main, ["models", "list", str(path), *more])
        assert done.exit_code == 0 and done.exception is None
    versions.remember(path, versions.version_of(path), "colours", path.read_bytes())
    assert [one.name for one in versions.versions(path)] == ["colours"]


def test_history_of_a_stranger_leads_to_no_file_outside_its_folder(tmp_path: Path) -> None:
    """Version ../../mine/precious was deleted once ten others were known, and its file could be put in place."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "stranger").mkdir()
    precious = write_model(tmp_path / "mine" / "precious.onnx")
    entries = [{**ENTRY, "version": "../../mine/precious"}, *({**ENTRY, "version": f"{i:012x}"} for i in range(10))]
    path = with_history(tmp_path / "stranger", json.dumps(entries))
    with pytest.raises(ModelError, match="there is no version"):
        versions.activate(path, "../../mine/precious")
    versions.remember(path, versions.version_of(path), "colours", path.read_bytes())
    assert precious.exists()


def test_file_that_is_kept_under_the_name_of_another_is_not_taken_for_it(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    version, data = versions.version_of(path), path.read_bytes()
    other = write_model(tmp_path / "other.onnx", name="other").read_bytes()
    kept = versions.remember(path, version, "colours", data)
    kept.write_bytes(other)
    assert versions.latest(path) is None
    with pytest.raises(ModelError, match="not the file of that version"):
        versions.activate(path, version)
    assert path.read_bytes() == data
    versions.remember(path, version, "colours", data)
    assert kept.read_bytes() == data and versions.latest(path) == kept


def test_versions_are_kept_in_no_folder_that_a_link_leads_to(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx")
    (tmp_path / "mine").mkdir()
    versions.folder(path).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="is a link"):
        versions.remember(path, versions.version_of(path), "colours", path.read_bytes())
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("kind", ["pipe", "zeros"])
def test_versions_of_what_is_no_file_are_listed_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe" if kind == "pipe" else Path("/dev/zero")
    if kind == "pipe":
        os.mkfifo(path)
    done = CliRunner().invoke(main, ["models", "list", str(path)])
    assert done.exit_code == 0 and "no versions are kept yet" in done.output


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log") as running:
        wait_until(lambda: running.get("/readyz").json()["workers"] == 2)
        yield running


def versions_seen(server: Running) -> set[str]:
    """Ask on new connections, so that both workers answer."""
    return {server.predict(picture()).headers["Pupila-Model"] for _ in range(12)}


def test_new_file_takes_over_and_can_be_rolled_back(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "colours.onnx"
    first = versions.version_of(path)
    assert versions_seen(server) == {first}
    assert not versions.folder(path).exists(), "a server that never swaps writes nothing"
    second = versions.version_of(write_model(path, name="second"))
    wait_until(lambda: versions_seen(server) == {second})
    wait_until(lambda: len(versions.versions(path)) == 2)
    assert [(one.version, one.name, one.active) for one in versions.versions(path)] == [
        (second, "second", True),
        (first, "colours", False),
    ]
    assert versions.roll_back(path).version == first
    wait_until(lambda: versions_seen(server) == {first})
    assert versions.activate(path, second[:6]).active
    wait_until(lambda: versions_seen(server) == {second})
    with pytest.raises(ModelError, match="no version 'zzz'"):
        versions.activate(path, "zzz")


def test_bad_file_is_refused_shown_and_survived(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "colours.onnx"
    good = versions.version_of(path)
    write_model(path, name="spoiled", spoil_golden=True)
    wait_until(lambda: all("golden set" in server.get("/readyz").json().get("refused", "") for _ in range(8)))
    assert server.get("/readyz").status_code == 200
    assert versions_seen(server) == {good}
    victim = server.workers()[0]
    signal_worker(victim, 9)
    wait_until(lambda: victim not in server.workers() and server.get("/readyz").json()["workers"] == 2)
    assert versions_seen(server) == {good}
    better = versions.version_of(write_model(path, name="better"))
    wait_until(lambda: versions_seen(server) == {better})
    assert "refused" not in server.get("/readyz").json()


def test_rolling_back_without_an_earlier_version_says_so(tmp_path: Path) -> None:
    path = write_model(tmp_path / "colours.onnx")
    with pytest.raises(ModelError, match="no earlier version"):
        versions.roll_back(path)
    assert versions.versions(path) == []


@pytest.mark.slow
def test_100_swaps_under_load_lose_and_mix_nothing(server: Running, tmp_path: Path) -> None:
    """Each model adds its own number to a logit, so that an answer shows which one computed it."""
    path = tmp_path / "colours.onnx"
    problems: list[str] = []
    done = threading.Event()

    def publish(number: int) -> None:
        write_model(tmp_path / "next.onnx", name=f"m{number}", white=number / 40)
        (tmp_path / "next.onnx").replace(path)

    def client() -> None:
        with requests.Session() as session:
            while not done.is_set():
                files = [("file", picture("white"))] * 9
                response = session.post(f"{server.url}/predict", files=files, timeout=20)
                if response.status_code != 200:
                    problems.append(response.text)
                    continue
                answers = {p["confidence"] for p in response.json()["predictions"]}
                seen.setdefault(response.headers["Pupila-Model"], set()).update(answers)

    seen: dict[str, set[float]] = {}
    threads = [threading.Thread(target=client) for _ in range(4)]
    [thread.start() for thread in threads]
    for number in range(100):
        publish(1 + number % 40)
        time.sleep(0.1)
    wait_until(lambda: versions_seen(server) == {versions.version_of(path)})
    done.set()
    [thread.join() for thread in threads]
    print(f"100 swaps, {len(seen)} versions answered, {len(problems)} requests failed")  # shown by pytest -s
    assert problems == []
    assert len(seen) > 10
    assert all(len(confidences) == 1 for confidences in seen.values()), "one version gave different answers"
    distinct = {next(iter(confidences)) for confidences in seen.values()}
    assert len(distinct) == len(seen), "two versions gave the same answer"
    assert "Traceback" not in server.log.read_text()


def test_new_worker_goes_back_to_the_version_accepted_last_but_the_one_in_place(tmp_path: Path) -> None:
    """Whether that cannot be read, or was accepted itself, and is refused now; not to what the server began with."""
    path = write_model(tmp_path / "colours.onnx")

    def put(name: str) -> str:
        write_model(tmp_path / "new", name=name).replace(path)
        version = versions.version_of(path)
        versions.remember(path, version, name, path.read_bytes())
        return version

    def load(path: Path) -> Predictor:
        predictor = Predictor.load(path)
        if predictor.manifest.name == "slow":
            raise ModelError("Loading it takes too long.", path)
        return predictor

    put("first")
    with path.open("rb") as original:
        second = put("second")
        with (tmp_path / "large").open("wb") as file:
            file.truncate(MAX_BYTES + 1)
        (tmp_path / "large").replace(path)
        assert versions.load_first(path, load, original)[0].version == second
        put("slow")
        predictor, refused = versions.load_first(path, load, original)
    assert predictor.version == second and refused == "colours.onnx: Loading it takes too long."
