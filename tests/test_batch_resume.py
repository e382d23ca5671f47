"""A job that is killed goes on where it stopped, with exactly one row a file; or says what is not as it was."""

import csv
import os
import random
import signal
import time
from pathlib import Path

import pytest
from batch_kit import children_of, count_lines, fill, fill_with_links, kill_after, start, wait_for_answers
from hypothesis import given
from hypothesis import strategies as st
from server_kit import CLASSES, picture, write_model

from pupila.batch import predict_all
from pupila.batch.job import from_line, to_line
from pupila.batch.run import CHUNK
from pupila.errors import DataError, ImageError
from pupila.prediction import Choice, Prediction

FILES = 3_000
KILLS = 5
MEMORY_GROWTH_KIB = 12 * 1024


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


def paths_in(out: Path) -> list[str]:
    with out.open(newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file)]


def begun(model: Path, tmp_path: Path, lines: int = 1) -> tuple[Path, Path, int]:
    """Return a folder of pictures, the output of a job on it that was killed, and how many answers it has."""
    targets = sorted(fill(tmp_path / "pictures", 4).iterdir())
    folder = fill_with_links(tmp_path / "photos", 1_500, targets)
    out = tmp_path / "out.csv"
    answered = kill_after(start(model, folder, out), out, lines)
    assert lines <= answered < 1_500 and not out.exists()
    return folder, out, answered


@pytest.mark.slow
def test_job_killed_five_times_at_random_ends_with_exactly_one_row_a_file(model: Path, tmp_path: Path) -> None:
    targets = sorted(fill(tmp_path / "pictures", 4).iterdir())
    (tmp_path / "pictures" / "bad.png").write_text("bad")
    folder = fill_with_links(tmp_path / "photos", FILES, [*targets, tmp_path / "pictures" / "bad.png"])
    out = tmp_path / "out.csv"
    answered = 0
    for share in sorted(random.uniform(0, 0.7) for _ in range(KILLS)):
        now = kill_after(start(model, folder, out), out, int(share * FILES))
        assert answered <= now + CHUNK, "answers were lost"
        answered = now
    assert not out.exists()
    summary = predict_all(model, [folder], out)
    assert summary.resumed == answered
    assert paths_in(out) == sorted(str(path) for path in folder.rglob("*.png"))
    assert list(summary.categories.values()) == [FILES // 5] * 4 and summary.failed == FILES // 5
    assert not (tmp_path / "out.csv.unfinished").exists()


@pytest.mark.slow
def test_job_killed_at_any_moment_of_its_first_second_can_be_begun_again(model: Path, tmp_path: Path) -> None:
    targets = sorted(fill(tmp_path / "pictures", 4).iterdir())
    folder = fill_with_links(tmp_path / "photos", 300, targets)
    for _ in range(KILLS):
        process = start(model, folder, tmp_path / "out.csv")
        time.sleep(random.uniform(0.2, 1.0))
        process.kill()
        process.communicate()
    if not (tmp_path / "out.csv").exists() or (tmp_path / "out.csv.unfinished").exists():
        predict_all(model, [folder], tmp_path / "out.csv")
    assert paths_in(tmp_path / "out.csv") == sorted(str(path) for path in folder.rglob("*.png"))


def test_job_says_how_another_model_or_file_list_differs(model: Path, tmp_path: Path) -> None:
    folder, out, _ = begun(model, tmp_path)
    other = write_model(tmp_path / "other.onnx", "others")
    with pytest.raises(DataError, match=r"model: 'colours' \w{12} then, 'others' \w{12} now"):
        predict_all(other, [folder], out)
    with pytest.raises(DataError, match=r"choices a row \(--top\): 1 then, 3 now"):
        predict_all(model, [folder], out, top=3)
    (folder / "new.png").write_bytes(picture())
    (folder / "0000" / "000000.png").unlink()
    changed = folder / "0000" / "000001.png"
    changed.unlink()
    changed.write_bytes(picture() + b"\0")
    with pytest.raises(DataError) as caught:
        predict_all(model, [folder], out)
    told = str(caught.value)
    for kind, name in (
        ("new files", "new.png"),
        ("files that are gone", "000000.png"),
        ("changed files", "000001.png"),
    ):
        assert f"{kind}: '" in told and f"{name}'" in told
    assert "remove that folder to begin anew" in str(caught.value)


def test_damaged_database_is_named_with_what_to_do(model: Path, tmp_path: Path) -> None:
    folder, out, _ = begun(model, tmp_path)
    work = tmp_path / "out.csv.unfinished"
    (work / "job.sqlite-wal").unlink(missing_ok=True)
    (work / "job.sqlite").write_bytes(b"no database" * 1_000)
    with pytest.raises(DataError, match=r"out.csv.unfinished: .*remove it to begin anew"):
        predict_all(model, [folder], out)
    assert (work / "job.sqlite").exists()


def test_two_processes_cannot_do_one_job(model: Path, tmp_path: Path) -> None:
    targets = sorted(fill(tmp_path / "pictures", 4).iterdir())
    folder = fill_with_links(tmp_path / "photos", 1_500, targets)
    process = start(model, folder, tmp_path / "out.csv")
    wait_for_answers(process, tmp_path / "out.csv", 1)
    with pytest.raises(DataError, match="another process works on it"):
        predict_all(model, [folder], tmp_path / "out.csv")
    process.kill()
    process.communicate()


def test_killed_worker_costs_no_row(model: Path, tmp_path: Path) -> None:
    targets = sorted(fill(tmp_path / "pictures", 4).iterdir())
    folder = fill_with_links(tmp_path / "photos", 3_000, targets)
    process = start(model, folder, tmp_path / "out.csv")
    wait_for_answers(process, tmp_path / "out.csv", CHUNK)
    for child in children_of(process.pid):
        os.kill(child, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["category"] for row in table] == [CLASSES[index % 4] for index in range(3_000)]


def test_stopped_after_its_table_got_its_name_a_job_only_cleans_up(model: Path, tmp_path: Path) -> None:
    folder, out = fill(tmp_path / "photos", 3), tmp_path / "out.csv"
    work = tmp_path / "out.csv.unfinished"
    predict_all(model, [folder], out)
    work.mkdir()
    os.link(out, work / "result")
    before = out.stat()
    predict_all(model, [folder], out)
    assert out.stat().st_ino == before.st_ino and not work.exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(model: Path, tmp_path: Path) -> None:
    targets = sorted(fill(tmp_path / "pictures", 4).iterdir())
    taken = []
    for count in (1_000, 20_000):
        folder = fill_with_links(tmp_path / f"photos-{count}", count, targets)
        process = start(model, folder, tmp_path / f"{count}.csv")
        printed, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert count_lines(tmp_path / f"{count}.csv") == count + 1
        taken.append([int(number) for number in printed.split()])
    (parent, child), (parent_of_many, child_of_many) = taken
    assert parent_of_many - parent < MEMORY_GROWTH_KIB and child_of_many - child < MEMORY_GROWTH_KIB, taken


choices = st.builds(
    lambda index, millionths: Choice(CLASSES[index], index, millionths / 1e6),
    st.integers(0, len(CLASSES) - 1),
    st.integers(0, 10**6),
)
predictions = st.builds(Prediction, st.lists(choices, min_size=1, max_size=3).map(tuple), st.booleans())


@given(predictions | st.builds(ImageError, st.just("image_empty"), st.text()))
def test_line_says_the_whole_answer(answer: Prediction | ImageError) -> None:
    line = to_line(answer)
    read = from_line(line, CLASSES)
    assert line.count(b"\n") == 1 and (type(read), str(read)) == (type(answer), str(answer))
    assert isinstance(answer, ImageError) or read == answer
