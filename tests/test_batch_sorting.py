"""Pictures in a folder a class: a dry run first, nothing overwritten, the originals as they were."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server_kit import picture, write_model

from pupila.batch import Sorting, Summary, predict_all
from pupila.batch.job import About, BatchJob, to_line
from pupila.batch.sorting import UNKNOWN, UNSURE, folders_of, placements
from pupila.errors import DataError, ImageError
from pupila.prediction import Choice, Prediction


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "colours.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders whose pictures have the same names, and a broken one."""
    root = tmp_path / "photos"
    for name, colour in [("a/1.png", "red"), ("a/2.png", "blue"), ("b/1.png", "red"), ("b/2.png", "green")]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(colour))
    (root / "b" / "1.png").write_bytes(picture("red") + b"\0")
    (root / "broken.png").write_text("broken")
    return root


def sort(model: Path, photos: Path, said: list[str] | None = None, **options: object) -> Summary:
    sorting = Sorting(photos.parent / "sorted", **options)  # type: ignore[arg-type]
    return predict_all(model, [photos], sorting=sorting, say=[].append if said is None else said.append)


def state_of(root: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def names_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


def test_dry_run_says_what_it_would_do_and_does_nothing(model: Path, photos: Path) -> None:
    said: list[str] = []
    summary = sort(model, photos, said)
    assert not (photos.parent / "sorted").exists() and not summary.applied
    assert said[0] == f"would copy {photos}/a/2.png to {photos.parent}/sorted/blue/2.png" and len(said) == 4
    assert summary.folders == {"blue": 1, "green": 1, "red": 2}
    assert "A dry run: nothing was sorted." in summary.to_text()


def test_apply_does_what_the_dry_run_said_without_predicting_again(model: Path, photos: Path) -> None:
    before = state_of(photos)
    said: list[str] = []
    sort(model, photos, said)
    summary = sort(model, photos, apply=True)
    assert summary.resumed == summary.files == 5 and summary.applied
    promised = [line.split(" to ")[1].removeprefix(f"{photos.parent}/sorted/") for line in said]
    assert names_in(photos.parent / "sorted") == sorted(promised)
    assert state_of(photos) == before
    assert sorted(path.name for path in photos.parent.iterdir()) == ["photos", "sorted"]


def test_taken_name_gets_the_hash_of_its_path_and_nothing_is_overwritten(model: Path, photos: Path) -> None:
    target = photos.parent / "sorted"
    (target / "green").mkdir(parents=True)
    (target / "green" / "2.png").write_text("mine")
    sort(model, photos, apply=True)
    names = names_in(target)
    assert (target / "green" / "2.png").read_text() == "mine"
    assert len(names) == 5 and {"blue/2.png", "red/1.png", "green/2.png"} <= set(names)
    hashed = next(name for name in names if name.startswith("red/1."))
    assert (target / hashed).read_bytes() == (photos / "b" / "1.png").read_bytes()
    assert (target / "red" / "1.png").read_bytes() == (photos / "a" / "1.png").read_bytes()


def test_sorting_again_changes_nothing(model: Path, photos: Path) -> None:
    sort(model, photos, apply=True)
    before = state_of(photos.parent / "sorted")
    said: list[str] = []
    sort(model, photos, apply=True)
    sort(model, photos, said)
    assert state_of(photos.parent / "sorted") == before and said == []


def test_links_are_the_originals(model: Path, photos: Path) -> None:
    (photos / "link.png").symlink_to(photos / "a" / "2.png")
    sort(model, photos, apply=True, link=True)
    target = photos.parent / "sorted"
    assert (target / "blue" / "2.png").samefile(photos / "a" / "2.png")
    assert (target / "blue" / "link.png").samefile(photos / "a" / "2.png")
    assert not (target / "blue" / "link.png").is_symlink()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")  # noqa: S108
def test_links_to_another_file_system_are_symbolic(model: Path, photos: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as target:
        into = Path(target) / "sorted"
        sorting = Sorting(into, link=True, apply=True)
        for _ in range(2):
            predict_all(model, [photos], sorting=sorting)
        links = list(into.rglob("*.png"))
        assert len(links) == 4 and all(path.is_symlink() and path.resolve().is_relative_to(photos) for path in links)


def test_unsure_pictures_are_set_aside(model: Path, photos: Path) -> None:
    assert sort(model, photos, min_confidence=1.1).folders == {UNSURE: 4}


def test_table_and_folders_come_from_one_job(model: Path, photos: Path) -> None:
    out, into = photos.parent / "out.csv", photos / "sorted"
    predict_all(model, [photos], out, sorting=Sorting(into), say=[].append)
    written = out.read_bytes()
    summary = predict_all(model, [photos], out, sorting=Sorting(into, apply=True))
    assert out.read_bytes() == written and summary.resumed == 5 and len(names_in(into)) == 4


def test_unknown_pictures_are_set_aside(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]
    cat = (Choice("cat", 0, 1.0),)
    answers = [Prediction(cat, True), Prediction(cat, False), ImageError("image_empty", "y")]
    with begun(tmp_path, paths) as job:
        job.answer(paths, b"".join(to_line(answer) for answer in answers))
        found = list(placements(job, ["cat"], Sorting(tmp_path / "sorted")))
    assert [(folder.decode(), name) for folder, name, _ in found] == [(UNKNOWN, b"a.png"), ("cat", b"b.png")]


@pytest.mark.parametrize("page", ["guides/many-pictures.md", "guides/many-pictures.pt-BR.md", "reference/commands.md"])
def test_pages_name_the_folders_of_pictures_that_get_no_class(page: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    assert UNKNOWN in text and UNSURE in text


@contextmanager
def begun(folder: Path, paths: Sequence[str]) -> Iterator[BatchJob]:
    """A job with these files, none of which is answered."""
    for path in paths:
        Path(path).touch()
    with BatchJob(folder / "out.csv") as job:
        job.begin([*map(Path, paths)], [], About("m", "v", 1))
        yield job


@given(st.lists(st.text(st.sampled_from("aA/._\\-12"), max_size=4), min_size=1, max_size=6))
def test_folder_names_are_harmless_and_different(classes: Sequence[str]) -> None:
    names = folders_of(classes)
    assert len({name.lower() for name in names}) == len(classes)
    assert all(name and "/" not in name and not name.startswith((".", "_")) for name in names)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.one_of(st.none(), st.binary()), min_size=1, max_size=9))
def test_files_come_sorted_by_any_key(tmp_path_factory: pytest.TempPathFactory, keys: Sequence[bytes | None]) -> None:
    folder = tmp_path_factory.mktemp("job")
    names = [folder / f"{number}.png" for number in range(len(keys))]
    known = dict(zip(map(os.fsencode, names), keys, strict=True))
    with begun(folder, [*map(str, names)]) as job:
        found = [(key, path) for key, path, _ in job.sorted_by(lambda path, _: known[path])]
    assert found == sorted((key, path) for path, key in known.items() if key is not None)


def test_longest_names_are_cut_where_they_are_taken(model: Path, tmp_path: Path) -> None:
    name = "é" * 125 + "x.png"
    assert len(name.encode()) == 255
    for folder, end in (("a", b""), ("b", b"\0")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / name).write_bytes(picture("red") + end)
    sort(model, tmp_path / "photos", apply=True)
    names = [path.name for path in (tmp_path / "sorted" / "red").iterdir()]
    names.remove(name)
    assert len(names) == 1 and names[0].startswith("é" * 121 + ".") and len(names[0].encode()) == 255


def test_longest_endings_are_cut_where_names_are_taken(model: Path, tmp_path: Path) -> None:
    name = "c." + "x" * 250
    for folder, end in (("a", b""), ("b", b"\0"), ("c", b"\0\0")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / name).write_bytes(picture("red") + end)
    sort(model, tmp_path / "photos", apply=True)
    names = [path.name for path in (tmp_path / "sorted" / "red").iterdir()]
    assert len(names) == 3 and name in names and all(name.startswith("c.") for name in names)


def test_picture_that_cannot_be_placed_is_named_and_stops_no_other(model: Path, photos: Path) -> None:
    (photos.parent / "sorted").mkdir()
    (photos.parent / "sorted" / "blue").write_text("no folder")
    with pytest.raises(DataError, match=r"^1 picture could not be placed in .*photos/a/2.png: File exists\)"):
        sort(model, photos, apply=True)
    assert [len(names_in(photos.parent / "sorted" / name)) for name in ("red", "green")] == [2, 1]
    (photos.parent / "sorted" / "blue").unlink()
    summary = sort(model, photos, apply=True)
    assert summary.resumed == 5 and len(names_in(photos.parent / "sorted" / "blue")) == 1


def test_names_that_steer_a_terminal_are_written_out(model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a\n\x1b[2J\u202egnp.png").write_bytes(picture("red"))
    (tmp_path / "photos" / "bad\r\U0001f408.png").write_text("broken")
    said: list[str] = []
    summary = sort(model, tmp_path / "photos", said)
    assert "photos/a\\n\\x1b[2J\\u202egnp.png to " in said[0]
    assert "bad\\r\U0001f408.png: " in summary.to_text()


def test_many_classes_have_folders_at_once() -> None:
    begun = time.process_time()
    assert len(set(folders_of([f"class {number}" for number in range(20_000)]))) == 20_000
    assert time.process_time() - begun < 3
