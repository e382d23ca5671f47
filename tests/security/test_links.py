"""Links that somebody else has put where Pupila writes: what they lead to stays as it is."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_kit import fill
from data_kit import make_folder, serving
from server_kit import CLASSES, write_model

from pupila._files import locked
from pupila.batch import predict_all
from pupila.batch.job import NAMES
from pupila.batch.sorting import UNKNOWN, UNSURE, Sorting
from pupila.data import load_dataset
from pupila.data.sources.download import download
from pupila.errors import DataError, DownloadError, TrainingError
from pupila.evaluation.pages.data_report import TABLE, Mislabelled, write_mislabelled
from pupila.evaluation.pages.report import _plot
from pupila.progress import LOG, printing_to
from pupila.training import run_folder

MINE = b"of the user\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.write_bytes(MINE)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_job_does_not_write_through_a_link_beside_its_output(name: str, mine: Path, tmp_path: Path) -> None:
    photos, model = fill(tmp_path / "photos", 1), write_model(tmp_path / "colours.onnx")
    (photos / "out.csv.unfinished").mkdir()
    (photos / "out.csv.unfinished" / name).symlink_to(mine)
    with pytest.raises(DataError, match=f"out.csv.unfinished/{name}: {name} is a link"):
        predict_all(model, [photos], photos / "out.csv")
    assert mine.read_bytes() == MINE


def test_folder_of_a_job_is_no_link(tmp_path: Path) -> None:
    photos, model = fill(tmp_path / "photos", 1), write_model(tmp_path / "colours.onnx")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result").write_bytes(MINE)
    (photos / "out.csv.unfinished").symlink_to(tmp_path / "other")
    with pytest.raises(DataError, match=r"out.csv.unfinished is a link"):
        predict_all(model, [photos], photos / "out.csv")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["result"]


@pytest.mark.parametrize("names", [("",), (*CLASSES, UNKNOWN, UNSURE)], ids=["the folder", "its folders"])
def test_sorting_copies_nothing_through_a_link(names: tuple[str, ...], tmp_path: Path) -> None:
    photos, model = fill(tmp_path / "photos", 1), write_model(tmp_path / "colours.onnx")
    (tmp_path / "other").mkdir()
    for name in names:
        link = photos / "sorted" / name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "other")
    for applies in (False, True):
        with pytest.raises(DataError, match=r"is a link, and nothing is written through it"):
            predict_all(model, [photos], sorting=Sorting(photos / "sorted", apply=applies), say=[].append)
    assert list((tmp_path / "other").iterdir()) == []


def hold_run(folder: Path) -> None:
    with run_folder.locked(folder):
        pass


def hold_lock(folder: Path) -> None:
    with locked(folder / ".lock"):
        pass


def print_there(folder: Path) -> None:
    with printing_to(folder):
        print("a line")


@pytest.mark.parametrize(("name", "write"), [(".lock", hold_run), (".lock", hold_lock), (LOG, print_there)])
@pytest.mark.parametrize("exists", [True, False])
def test_locks_and_logs_are_no_links(
    name: str, write: Callable[[Path], None], exists: bool, mine: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(mine if exists else tmp_path / "nothing")
    with pytest.raises((OSError, TrainingError), match=f"{name} is a link, and nothing is written through it"):
        write(tmp_path / "run")
    assert mine.read_bytes() == MINE and not (tmp_path / "nothing").exists()


def test_log_that_is_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOG)
    with pytest.raises(OSError, match="No such device"):
        print_there(tmp_path)


def test_decoded_pictures_are_for_their_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUPILA_CACHE", str(tmp_path / "cache"))
    load_dataset(str(make_folder(tmp_path / "photos", {"cat": 2, "dog": 2})))
    (kept,) = (tmp_path / "cache" / "datasets").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in kept.glob("*.db")} == {0}


def test_plot_takes_the_place_of_a_link(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "curves.png").symlink_to(mine)
    _plot(tmp_path, "curves.png", b"\x89PNG", "Training curves")
    assert mine.read_bytes() == MINE and (tmp_path / "curves.png").read_bytes() == b"\x89PNG"


def test_table_of_doubts_is_not_written_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / TABLE).symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match="is there already"):
        write_mislabelled(tmp_path, Mislabelled("photos", (), (), 0, 0, 0.0, "nothing"))
    assert not (tmp_path / "nothing").exists()


def test_download_does_not_go_on_through_a_link(mine: Path, tmp_path: Path) -> None:
    before = mine.read_bytes()
    (tmp_path / "x.bin.part").symlink_to(mine)
    with serving(before + b"more") as server, pytest.raises(DownloadError, match="is a link"):
        download(server.url, tmp_path / "x.bin", sha256="0" * 64)
    assert mine.read_bytes() == before
