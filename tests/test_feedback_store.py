"""The store of collected pictures: what is kept, for how long, and that nothing but the picture is kept."""

import contextlib
import io
import json
import resource
import sqlite3
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from feedback_kit import correct, first
from PIL import Image, ImageCms
from server_kit import COLOURS, encode, picture, wait_until

from pupila import images
from pupila.cli import main
from pupila.errors import DataError, SettingsError
from pupila.feedback import Answered, Store, schema
from pupila.feedback.schema import BLOCK_BYTES, LOG_BYTES, LOG_MOST, ROW_BYTES, on_disk, row_bytes
from pupila.feedback.store import EVICTED_TOGETHER, SAME_PICTURE
from pupila.images.strip import clean, strip
from pupila.server import Settings
from pupila.server.api.feedback_writer import prepare

SECRET = b"Rua das Flores 1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "collected", create=True)
    yield opened
    opened.close()


def noise(seed: int, size: int = 24) -> bytes:
    """A picture file that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return images.encode_png(pixels)


EACH = on_disk(len(noise(1))) + ROW_BYTES
LARGE = """CREATE TABLE large AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i <= ? / 32768)
SELECT zeroblob(32768) FROM n"""
"""Makes at least so many bytes of the log."""
"""What a picture with its answer is counted as."""


def answered(seed: int, request: str = "", confidence: float = 0.5, **other: object) -> Answered:
    values = {"picture": 0, "category": "red", "unknown": False, "model": "m1", "time": float(seed), **other}
    data = values.pop("data", None) or noise(seed)
    return Answered(request=request or f"r{seed}", data=data, confidence=confidence, **values)  # type: ignore[arg-type]


def files(store: Store) -> set[str]:
    return {path.stem for path in store.pictures.rglob("*") if path.is_file()}


# What is kept


def test_kept_picture_is_found_by_request_and_place_with_its_answer(store: Store) -> None:
    store.add([answered(1, "a"), answered(2, "a", picture=1, category="blue", unknown=True)])
    kept = first(store, "a", 1)
    assert kept is not None
    assert (kept.category, kept.confidence, kept.unknown, kept.model, kept.time) == ("blue", 0.5, True, "m1", 2.0)
    assert kept.corrected is None
    assert store.read(kept) == noise(2)
    assert first(store, "a", 2) is None
    assert first(store, "b", 0) is None


def test_what_one_process_keeps_another_reads(store: Store) -> None:
    store.add([answered(1, "a")])
    code = "import sys, pathlib; from pupila.feedback import Store; print(Store(pathlib.Path(sys.argv[1])).counts())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "answers=1, pictures=1, corrected=0" in done.stdout


def test_same_picture_is_one_file_however_often_it_is_sent(store: Store) -> None:
    store.add([answered(1, "a"), answered(1, "b")])
    store.add([answered(1, "c")])
    assert len(files(store)) == 1
    assert store.counts().answers == 3
    assert store.counts().pictures == 1


def test_last_correction_counts(store: Store) -> None:
    store.add([answered(1, "a")])
    correct(store, "a", 0, "blue", 10.0)
    before = correct(store, "a", 0, None, 11.0)
    assert before is not None
    assert (before.corrected, before.correction) == (10.0, "blue")
    kept = first(store, "a", 0)
    assert kept is not None
    assert (kept.corrected, kept.correction) == (11.0, None)
    assert (store.counts().corrected, store.counts().none) == (1, 1)


def test_correction_of_what_is_not_here_says_so(store: Store) -> None:
    assert correct(store, "a", 0, "blue", 1.0) is None


def test_second_request_with_the_same_id_does_not_take_the_first_ones_place(store: Store) -> None:
    store.add([answered(1, "same")])
    store.add([answered(2, "same"), answered(3, "same", owner="other")])
    assert [store.read(kept) for kept in store.of_request("same", 0, "")] == [noise(1), noise(2)]
    assert [store.read(kept) for kept in store.of_request("same", 0, "other")] == [noise(3)]


def test_owner_finds_counts_and_deletes_no_more_than_its_own(store: Store) -> None:
    store.add([answered(1, "a", owner="anna"), answered(1, "b", owner="ben"), answered(2, "c", owner="ben")])
    mine, same, other = (kept.id for request in "abc" for kept in store.of_request(request, 0))
    store.correct(same, "blue", 1.0)
    assert [kept.id for kept in store.uncertain(10, owner="anna")] == [mine]
    assert store.corrected(owner="anna") == []
    assert [kept.id for kept in store.corrected(owner="ben")] == [same]
    assert store.find(other, "anna") is None
    assert store.counts("anna").answers == 1
    assert store.delete(number=other, owner="anna") == 0
    assert store.delete(number=mine, owner="anna") == 1
    assert [kept.id for kept in store.uncertain(10)] == [other]
    assert len(files(store)) == 2  # the other owner has sent the same picture
    assert store.delete(number=same) == 1
    assert len(files(store)) == 1


def test_store_of_version_1_is_migrated_and_its_pictures_have_no_owner(tmp_path: Path) -> None:
    """The archive was made by version 0.1: four answers about three pictures, two of them corrected."""
    with zipfile.ZipFile(Path(__file__).with_name("store_version1.zip")) as archive:
        archive.extractall(tmp_path)
    for _ in range(2):  # the second time there is nothing to do
        store = Store(tmp_path)
        assert (store.counts().answers, store.counts().corrected) == (4, 2)
        assert {kept.owner for kept in [*store.uncertain(10), *store.corrected()]} == {None}
        assert store.uncertain(10, owner="") == store.corrected(owner="") == []
        store.close()
    fresh = Store(tmp_path / "fresh", create=True)
    old = Store(tmp_path)
    assert schema_of(old).keys() == schema_of(fresh).keys()
    assert old.counts().bytes == 3 * EACH + ROW_BYTES
    assert old._database.execute("SELECT corrected FROM size").fetchone() == (2 * ROW_BYTES + size_of_corrected(old),)
    assert told(old, None) == expected(old, None)
    old.delete()
    assert old._database.execute("SELECT bytes, corrected FROM size").fetchone() == (0, 0)


OWNERS = ("", "anna", "ben")
Listed = tuple[list[int], list[int], tuple[int, int, int, int]]
"""The ids in both lists, and the counts of answers, pictures, corrected ones and those of no class."""


def expected(store: Store, owner: str | None) -> Listed:
    """Return what must be told to an owner, or of all, by a look at all rows."""
    query = "SELECT id, sha256, owner, corrected, correction, unknown, confidence FROM answers"
    rows = [row for row in store._database.execute(query) if owner in (None, row[2])]
    by_picture: dict[str, list[Any]] = {}
    for row in rows:
        by_picture.setdefault(row[1], []).append(row)
    last = [max(same, key=lambda row: (row[3] is not None, row[3], row[0])) for same in by_picture.values()]
    uncertain = sorted((row for row in last if row[3] is None), key=lambda row: (-row[5], row[6], row[0]))
    corrected = sorted((row for row in last if row[3] is not None), key=lambda row: (-row[3], -row[0]))
    none = [row[4] is None for row in rows if row[3] is not None]
    return [row[0] for row in uncertain], [row[0] for row in corrected], (len(rows), len(last), len(none), sum(none))


def told(store: Store, owner: str | None) -> Listed:
    counts = store.counts(owner)
    uncertain, corrected = store.uncertain(1000, owner=owner), store.corrected(owner=owner)
    counted = counts.answers, counts.pictures, counts.corrected, counts.none
    return [kept.id for kept in uncertain], [kept.id for kept in corrected], counted


def change(store: Store, draw: np.random.Generator) -> None:
    """Send, correct or delete one of a few pictures, or make room."""
    ids = [number for (number,) in store._database.execute("SELECT id FROM answers")]
    number, owner, act = int(draw.choice(ids)) if ids else 0, str(draw.choice(OWNERS)), int(draw.integers(12))
    if act < 6:
        sure = {"confidence": float(draw.integers(3)) / 4, "unknown": bool(draw.integers(2))}
        store.add([answered(int(draw.integers(5)), owner=owner, **sure)])
    elif act < 10:
        store.correct(number, "blue" if draw.integers(2) else None, float(draw.integers(5)))
    elif act == 10:
        store.add([], max_bytes=8 * EACH)
    else:
        store.delete(number=number, owner=owner if draw.integers(2) else None)


def send_without_owner(store: Store) -> None:
    """Put in what is as if version 0.1 had kept it."""
    store.add([answered(0), answered(1)])
    store._database.execute(
        "INSERT INTO answers (request, picture, sha256, category, confidence, unknown, model, time)"
        " SELECT 'old', 0, sha256, category, 0.25, 1, model, time FROM answers"
    )


def test_lists_and_counts_are_those_of_a_look_at_all_rows_whatever_happens(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pupila.feedback.store.SAME_PICTURE", 3)
    send_without_owner(store)
    draw, lengths = np.random.default_rng(0), set()
    for _ in range(200):
        change(store, draw)
        for owner in (None, *OWNERS, "nobody"):
            found = told(store, owner)
            assert found == expected(store, owner)
            lengths.add((len(found[0]), len(found[1])))
    assert len(lengths) > 10
    store.delete()
    assert store._database.execute("SELECT * FROM counts").fetchall() == []


def test_store_of_version_5_lists_and_counts_the_same_once_it_is_migrated(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pupila.feedback.store.SAME_PICTURE", 3)
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "VERSION", 5)
        old = Store(tmp_path / "old", create=True)
    draw = np.random.default_rng(1)
    send_without_owner(old)
    for _ in range(60):
        change(old, draw)
    before = {owner: expected(old, owner) for owner in (None, *OWNERS)}
    assert all(sum(len(found[place]) for found in before.values()) > 2 for place in (0, 1))
    old.close()
    migrated = Store(old.path)
    assert schema_of(migrated) == schema_of(store)
    assert {owner: told(migrated, owner) for owner in before} == before
    for _ in range(60):
        change(migrated, draw)
        assert all(told(migrated, owner) == expected(migrated, owner) for owner in before)
    migrated.close()


def test_large_store_is_migrated_with_a_word_in_the_log_and_others_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever opened it meanwhile was told after five seconds to restore it."""
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "VERSION", 5)
        old = Store(tmp_path, create=True)
    old.add([answered(1), answered(2)])
    old.close()
    monkeypatch.setattr(schema, "WAIT", 0.05)
    monkeypatch.setattr(schema, "PER_SECOND", 2)
    database = sqlite3.connect(tmp_path / "feedback.sqlite", isolation_level=None, check_same_thread=False)
    with contextlib.closing(database), ThreadPoolExecutor() as pool:
        database.execute("BEGIN IMMEDIATE")
        opened = pool.submit(Store, tmp_path)
        time.sleep(0.5)
        assert not opened.done()
        database.execute("ROLLBACK")
        migrated = opened.result()
    assert migrated.counts().answers == 2
    migrated.close()
    assert "2 kept answers of version 5 are brought to the next one: some 1 s" in caplog.text


def schema_of(store: Store) -> dict[str, str]:
    return dict(store._database.execute("SELECT name, sql FROM sqlite_master"))


def size_of_corrected(store: Store) -> int:
    return sum(on_disk(len(store.read(kept) or b"")) for kept in store.corrected())


def test_review_begins_with_unknown_and_least_sure_pictures_each_once(store: Store) -> None:
    store.add([answered(1, confidence=0.9), answered(2, confidence=0.3), answered(3, confidence=0.99, unknown=True)])
    store.add([answered(2, "again", confidence=0.3), answered(4, confidence=0.2)])
    correct(store, "r4", 0, "blue", 1.0)
    assert [kept.request for kept in store.uncertain(10)] == ["r3", "again", "r1"]
    assert [kept.request for kept in store.uncertain(1, 1)] == ["again"]
    correct(store, "r2", 0, "blue", 2.0)  # the same picture as in "again"
    assert [kept.request for kept in store.uncertain(10)] == ["r3", "r1"]
    assert [kept.request for kept in store.corrected()] == ["r2", "r4"]


# Only the picture is kept


def with_metadata(kind: str, mode: str = "RGB", turned: bool = False) -> bytes:
    """A picture with a place, a comment, a profile and a thumbnail in it, as far as its format has room."""
    pixels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    if turned:
        exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + SECRET
    options: dict[str, object] = {"exif": exif, "icc_profile": profile}
    if kind in ("JPEG", "WEBP"):
        options["xmp"] = b"<x>" + SECRET + b"</x>"
    if kind in ("JPEG", "GIF"):
        options["comment"] = SECRET
    if kind in ("GIF", "BMP"):
        options.pop("exif"), options.pop("icc_profile")
    return encode(Image.fromarray(pixels).convert(mode), kind, **options)


FORMS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: with_metadata("JPEG"),
    "jpeg on its side": lambda: with_metadata("JPEG", turned=True),
    "progressive": lambda: picture("green", "JPEG", (70, 50), progressive=True, comment=SECRET),
    "cmyk": lambda: with_metadata("JPEG", "CMYK"),
    "gray": lambda: with_metadata("JPEG", "L"),
    "with restarts": lambda: picture("green", "JPEG", (70, 50), restart_marker_blocks=1, comment=SECRET),
    "jpeg and a film behind it": lambda: with_metadata("JPEG") + b"\0\0\0\x18ftypmp42" + SECRET,
    "png": lambda: with_metadata("PNG"),
    "png on its side": lambda: with_metadata("PNG", turned=True),
    "png with alpha": lambda: with_metadata("PNG", "RGBA"),
    "png with a palette": lambda: with_metadata("PNG", "P"),
    "png and more behind it": lambda: with_metadata("PNG") + SECRET,
    "webp": lambda: with_metadata("WEBP"),
    "webp on its side": lambda: with_metadata("WEBP", turned=True),
    "webp with alpha": lambda: with_metadata("WEBP", "RGBA"),
    "gif": lambda: with_metadata("GIF"),
    "tiff": lambda: with_metadata("TIFF"),
    "tiff on its side": lambda: with_metadata("TIFF", turned=True),
    "bmp": lambda: with_metadata("BMP") + SECRET,
    "avif": lambda: with_metadata("AVIF"),
}


@pytest.mark.parametrize("form", FORMS)
def test_metadata_goes_and_pixels_stay(form: str) -> None:
    data = FORMS[form]()
    assert form == "avif" or SECRET in data or SECRET[:8] in data
    cleaned = clean(data, images.DEFAULT_LIMITS)
    assert cleaned is not None
    assert SECRET[:8] not in cleaned.data
    with Image.open(io.BytesIO(cleaned.data)) as opened:
        assert set(opened.getexif()) <= {0x0112}
        assert not opened.info.keys() & {"icc_profile", "xmp", "comment", "Comment", "XML:com.adobe.xmp"}
    for size in (16, 32):
        assert np.array_equal(images.decode(data, size), images.decode(cleaned.data, size))


@pytest.mark.parametrize("form", ["jpeg", "progressive", "webp"])
def test_common_formats_keep_their_own_coded_data(form: str) -> None:
    stripped = strip(FORMS[form]())
    assert stripped is not None
    assert len(stripped.data) < len(FORMS[form]())


@pytest.mark.parametrize("form", FORMS)
def test_file_that_breaks_off_anywhere_is_left_to_the_decoder_and_never_raises(form: str) -> None:
    data = FORMS[form]()
    for end in range(0, len(data), max(1, len(data) // 60)):
        clean(data[:end], images.DEFAULT_LIMITS)


def test_large_picture_that_must_be_written_anew_is_scaled_down() -> None:
    cleaned = clean(encode(Image.new("RGB", (5000, 100), COLOURS["red"]), "BMP"), images.DEFAULT_LIMITS)
    assert cleaned is not None
    assert (cleaned.kind, images.header(cleaned.data).width) == ("png", 1024)


def test_picture_that_cannot_be_read_is_left_out_and_the_others_are_kept(store: Store) -> None:
    assert store.add([answered(1), answered(2, data=b"no picture")]) == 1
    assert store.counts().answers == 1


@pytest.mark.parametrize("confidence", [float("nan"), float("inf")])
def test_answer_whose_confidence_is_no_number_is_left_out_and_the_others_are_kept(
    store: Store, confidence: float
) -> None:
    assert store.add([answered(1, confidence=confidence), answered(2)]) == 1
    assert [kept.request for kept in store.uncertain(10)] == ["r2"]
    assert len(files(store)) == 1


def test_name_of_file_and_client_are_nowhere_in_the_store(store: Store) -> None:
    assert {column[1] for column in store._database.execute("PRAGMA table_info(answers)")}.isdisjoint(
        {"filename", "name", "client", "address"}
    )


def test_folder_is_its_owners_alone(store: Store) -> None:
    store.add([answered(1)])
    for path in [store.path, *store.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="holds other files"):
        Store(tmp_path, create=True)


def test_folder_without_a_store_is_refused_where_none_is_to_be_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pupila serve --feedback-dir"):
        Store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_database_and_one_of_another_version_are_refused(store: Store, tmp_path: Path) -> None:
    store._database.execute("PRAGMA user_version = 99")
    with pytest.raises(DataError, match="version 99"):
        Store(store.path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "feedback.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 40)
    with pytest.raises(DataError, match="cannot be used"):
        Store(other)


# How much is kept


def test_oldest_uncorrected_pictures_make_room(store: Store) -> None:
    for seed in range(6):
        store.add([answered(seed)], max_bytes=4 * EACH + EACH // 2)
        if seed == 0:
            correct(store, "r0", 0, "blue", 1.0)
    assert {kept.request for kept in [*store.uncertain(10), *store.corrected()]} == {"r0", "r3", "r4", "r5"}
    assert len(files(store)) == 4
    assert store.counts().bytes <= 4 * EACH + EACH // 2


def test_corrected_pictures_are_not_deleted_for_new_ones(store: Store) -> None:
    store.add([answered(1)])
    correct(store, "r1", 0, "blue", 1.0)
    for seed in range(2, 6):
        store.add([answered(seed)], max_bytes=2 * EACH)
    assert {kept.request for kept in [*store.uncertain(10), *store.corrected()]} == {"r1", "r5"}


def test_corrected_pictures_have_a_share_and_who_sends_most_of_them_loses_them_first(store: Store) -> None:
    store.add([answered(0, owner="anna")])
    correct(store, "r0", 0, "blue", 1.0)
    for seed in range(1, 20):
        store.add([answered(seed, owner="flood")], max_bytes=8 * EACH)
        correct(store, f"r{seed}", 0, "blue", 1.0 + seed)
    store.add([answered(20, owner="anna")], max_bytes=8 * EACH)
    assert [kept.request for kept in store.corrected()] == ["r19", "r18", "r17", "r16", "r15", "r0"]
    assert [kept.request for kept in store.uncertain(10)] == ["r20"]


def sizes(store: Store) -> dict[str | None, int]:
    """Return what the corrected answers of each owner are counted as."""
    return dict(store._database.execute("SELECT owner, bytes FROM owners"))


def test_correction_costs_no_more_where_its_key_has_thousands(store: Store) -> None:
    """Counted in SQLite's steps: some 200 of them, and several for each correction where all are looked at."""
    with store._writing() as database:
        names = [(f"{number:064x}",) for number in range(3000)]
        database.executemany("INSERT INTO pictures VALUES (?, 'png', 4608)", names)
        database.executemany(
            "INSERT INTO answers (request, picture, sha256, category, confidence, unknown, model, time, owner)"
            " VALUES ('r', 0, ?, 'red', 0.5, 0, 'm1', 1.0, '')",
            names,
        )
        database.execute("UPDATE answers SET corrected = id WHERE id != 7")
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 100

    store._database.set_progress_handler(count, 100)
    store.correct(7, "blue", 1.0)
    corrected = steps
    store.add([], max_bytes=int(2999 * EACH / 0.75) + 1)  # one goes
    store._database.set_progress_handler(None, 0)
    assert store.counts().corrected == 2999
    assert corrected < 2000
    assert steps < 4000


def test_one_large_picture_corrected_often_takes_no_place_of_another_key(store: Store) -> None:
    room = 84 * EACH
    store.add([answered(seed, f"v{seed}", owner="victim") for seed in range(50)], max_bytes=room)
    large = noise(99, 120)
    store.add([answered(99, f"a{i}", data=large, owner="attacker") for i in range(20)], max_bytes=room)
    for seed in range(50):
        correct(store, f"v{seed}", 0, "blue", 1.0)
    for i in range(20):
        correct(store, f"a{i}", 0, "blue", 2.0)
    store.add([], max_bytes=room)
    assert (store.counts("victim").answers, store.counts("attacker").answers) == (50, 20)
    assert sizes(store) == {"victim": 50 * EACH, "attacker": 20 * ROW_BYTES + on_disk(len(large))}


def test_who_takes_more_bytes_loses_corrections_and_only_until_it_takes_no_more_than_others(store: Store) -> None:
    each = on_disk(len(noise(0, 120))) + ROW_BYTES
    for seed in range(20):
        store.add([answered(seed, owner="many")])
        correct(store, f"r{seed}", 0, "blue", 1.0)
    for seed in range(20, 26):
        store.add([answered(seed, data=noise(seed, 120), owner="large")])
        correct(store, f"r{seed}", 0, "blue", 1.0)
    assert sizes(store) == {"many": 20 * EACH, "large": 6 * each}
    assert 5 * each > 20 * EACH
    store.add([], max_bytes=int((5 * each + 20 * EACH) / 0.75) + 1)
    assert sizes(store) == {"many": 20 * EACH, "large": 5 * each}
    store.add([], max_bytes=int(20 * EACH / 0.75))
    assert abs(sizes(store)["many"] - sizes(store)["large"]) <= each
    store.delete()
    assert sizes(store) == {}
    assert store._database.execute("SELECT bytes, corrected FROM size").fetchone() == (0, 0)


def test_store_whose_corrections_counted_a_picture_for_each_answer_counts_it_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(schema, "VERSION", 3)
    old = Store(tmp_path / "old", create=True)
    monkeypatch.undo()
    for each in (old, store):
        each.add([answered(1, f"a{i}", owner="anna") for i in range(3)])
        each.add([answered(1, "b", owner="ben"), answered(2, "c", owner="ben")])
        for request in ("a0", "a1", "b"):
            correct(each, request, 0, "blue", 1.0)
    assert old._database.execute("SELECT corrected FROM size").fetchone() == (3 * EACH,)
    old.close()
    migrated = Store(old.path)
    for each in (migrated, store):
        assert sizes(each) == {"anna": EACH + ROW_BYTES, "ben": EACH}
        correct(each, "a2", 0, "blue", 2.0)
        correct(each, "c", 0, "blue", 2.0)
        assert sizes(each) == {"anna": EACH + 2 * ROW_BYTES, "ben": 2 * EACH}
        each.delete("c")
        assert sizes(each) == {"anna": EACH + 2 * ROW_BYTES, "ben": EACH}
        assert each._database.execute("SELECT corrected FROM size").fetchone() == (2 * EACH + 2 * ROW_BYTES,)
    migrated.close()


def test_picture_for_which_there_can_be_no_room_is_left_out_and_deletes_no_other(store: Store) -> None:
    large = noise(9, 60)
    room = on_disk(len(large)) + ROW_BYTES
    assert room > 2 * EACH
    store.add([answered(1), answered(2)])
    assert store.add([answered(9, data=large), answered(3)], max_bytes=room - 1) == 1  # larger than the limit
    assert {kept.request for kept in store.uncertain(10)} == {"r2", "r3"}
    correct(store, "r2", 0, "blue", 1.0)
    assert store.add([answered(9, data=large)], max_bytes=room + EACH - 1) == 0  # than a corrected one leaves
    assert {kept.request for kept in store.uncertain(10)} == {"r3"}
    assert len(files(store)) == 2
    assert store.add([answered(9, data=large)], max_bytes=room + EACH) == 1
    assert {kept.request for kept in store.uncertain(10)} == {"r9"}


def fill(store: Store, pictures: int, answers: int = 1, corrected: bool = False) -> int:
    """Put in small pictures with so many answers each, without files; return how many bytes are counted then."""
    with store._writing() as database:
        first = database.execute("SELECT count(*) FROM pictures").fetchone()[0]
        names = [(f"{number:064x}",) for number in range(first, first + pictures)]
        database.executemany("INSERT INTO pictures VALUES (?, 'png', 4608)", names)
        database.executemany(
            "INSERT INTO answers (request, picture, sha256, category, confidence, unknown, model, time, owner)"
            " VALUES ('r', 0, ?, 'red', 0.5, 0, 'm1', 1.0, '')",
            [name for name in names for _ in range(answers)],
        )
        if corrected:
            database.execute("UPDATE answers SET corrected = id WHERE corrected IS NULL")
    return store.counts().bytes


def deletions(store: Store, act: Callable[[], object]) -> list[int]:
    """Return how many answers each transaction deletes for want of room."""
    found: list[int] = []

    def note(statement: str) -> None:
        if statement.startswith("BEGIN"):
            found.append(0)
        elif statement.startswith("UPDATE size SET evicted"):
            found[-1] += 1

    store._database.set_trace_callback(note)
    try:
        act()
    finally:
        store._database.set_trace_callback(None)
    return found


def test_room_for_a_large_picture_is_made_in_several_transactions(store: Store) -> None:
    """One transaction deleted 34,591 answers for one picture of 20 MiB: others waited for two seconds."""
    most, large = fill(store, 60, SAME_PICTURE), noise(9, 600)
    found = deletions(store, lambda: store.add([answered(1, data=large)], max_bytes=most))
    assert [kept.request for kept in store.uncertain(100)][-1] == "r1"
    assert store.counts().bytes <= most and len(files(store)) == 1
    assert sum(found) > 1500
    assert max(found) <= EVICTED_TOGETHER


def test_picture_for_which_too_many_answers_would_go_is_not_kept_and_nothing_of_it_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pupila.feedback.store.ROOM_STEPS", 2)
    most = fill(store, 60, SAME_PICTURE)
    assert store.add([answered(1, data=noise(9, 600))], max_bytes=most) == 0
    assert store.counts().answers == 60 * SAME_PICTURE - 2 * EVICTED_TOGETHER
    assert files(store) == set() and first(store, "r1", 0) is None
    assert store.add([answered(2)], max_bytes=most) == 1


def test_each_correction_makes_room_for_itself(store: Store) -> None:
    """All of it fell on the next picture: up to a quarter of the store in one transaction, of eight seconds."""
    most = fill(store, 200)
    numbers = [kept.id for kept in store.uncertain(200)]
    for number in numbers:
        found = deletions(store, lambda number=number: store.correct(number, "blue", 1.0 + number, most))
        assert max(found) <= 1
    assert sum(sizes(store).values()) <= 0.75 * most
    assert [kept.id for kept in store.corrected()] == numbers[:-151:-1]


def test_corrections_by_long_names_stay_within_the_limit(store: Store) -> None:
    most = fill(store, 10, 20)
    for kept in store._rows(""):
        store.correct(kept.id, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 1000, 1.0 + kept.id, most)
        assert store.counts().bytes <= most


def test_correction_of_a_large_picture_deletes_no_more_at_once_than_others_wait_for(store: Store) -> None:
    store.add([answered(1, data=noise(9, 600))])
    with store._writing() as database:
        database.execute("UPDATE answers SET id = 1000000")
    fill(store, 200, SAME_PICTURE, corrected=True)
    store._database.execute("UPDATE answers SET corrected = NULL WHERE id = 1000000")
    most = int(sum(sizes(store).values()) / 0.75) + 1
    assert max(deletions(store, lambda: store.correct(1000000, "blue", 1e9, most))) == EVICTED_TOGETHER
    for _ in range(4):
        assert max(deletions(store, lambda: store.add([], max_bytes=most))) <= EVICTED_TOGETHER
    assert sum(sizes(store).values()) <= 0.75 * most


def test_oldest_uncorrected_picture_is_found_behind_thousands_of_corrected_ones(store: Store) -> None:
    fill(store, 20, SAME_PICTURE, corrected=True)
    most, steps = fill(store, 200), 0

    def count() -> None:
        nonlocal steps
        steps += 100

    store._database.set_progress_handler(count, 100)
    store.add([], max_bytes=most - 10 * EACH)
    store._database.set_progress_handler(None, 0)
    assert store.counts().answers == 20 * SAME_PICTURE + 190
    assert steps < 4000


def test_picture_that_another_answer_needs_stays_when_one_goes(store: Store) -> None:
    store.add([answered(1, "old"), answered(2), answered(1, "new")])
    store.add([], max_bytes=2 * EACH + 100)
    kept = first(store, "new", 0)
    assert first(store, "old", 0) is None
    assert kept is not None
    assert store.read(kept) == noise(1)


def test_one_picture_sent_for_ever_does_not_grow_without_end(store: Store) -> None:
    for seed in range(50):
        store.add([answered(1, f"a{seed}")], max_bytes=5 * ROW_BYTES + on_disk(len(noise(1))))
    assert store.counts().answers == 5


def test_size_is_that_of_files_and_rows(store: Store) -> None:
    store.add([answered(1), answered(2), answered(1, "again")])
    store.delete("r2")
    assert store.counts().bytes == EACH + ROW_BYTES


def taken(path: Path) -> int:
    """Return the bytes that files and folders take on the disk."""
    return sum(512 * one.stat().st_blocks for one in [path, *path.rglob("*")])


def test_what_is_counted_is_what_the_folder_takes_on_the_disk_without_its_log(store: Store) -> None:
    room = 2**19
    for start in (0, 100):
        store.add([answered(seed, data=noise(seed, 4)) for seed in range(start, start + 100)], max_bytes=room)
    store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert room - EACH < store.counts().bytes <= room
    assert room / 2 < taken(store.path) <= room + 40 * BLOCK_BYTES  # nine times that where files' lengths were counted


def test_long_names_of_classes_count_as_what_they_take(store: Store) -> None:
    """An answer was 512 bytes: with names of 1,000 letters its row took eight times as much."""
    long, short = "\N{LATIN SMALL LETTER E WITH ACUTE}" * 1000, "red"
    store.add([answered(0, f"r{i}", owner=f"o{i // 40}", category=long) for i in range(150)])
    ids = range(1, 151)
    for number in ids:
        store.correct(number, long if number % 2 else short, 1.0)
    store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert taken(store.path) - 40 * BLOCK_BYTES < store.counts().bytes < 3 * taken(store.path)
    corrected = sum(sizes(store).values())
    for number in ids:
        store.correct(number, short if number % 2 else long, 2.0)
    assert sum(sizes(store).values()) == corrected
    for number in ids:
        store.correct(number, None, 3.0)
    assert store.counts().bytes == on_disk(len(noise(0))) + 150 * row_bytes(long)
    store.delete()
    assert store._database.execute("SELECT bytes, corrected FROM size").fetchone() == (0, 0)


def test_log_is_cut_back_once_it_is_in_the_database(store: Store) -> None:
    log = store.path / "feedback.sqlite-wal"
    with store._writing() as database:
        database.execute(LARGE, (3 * LOG_BYTES,))
    assert log.stat().st_size > 3 * LOG_BYTES
    for seed in range(2):
        store.add([answered(seed)])
    assert log.stat().st_size <= LOG_BYTES


def test_lists_end_when_the_log_becomes_too_long(store: Store) -> None:
    """While one was read the log could not begin anew: two clients that listed without pause let it grow for ever."""
    log = store.path / "feedback.sqlite-wal"
    store.add([answered(1)])
    endless = "WHERE (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n)"
    lists, until = Store(store.path), time.monotonic() + 30
    with ThreadPoolExecutor() as pool:
        listed = pool.submit(lists._rows, endless, until)
        time.sleep(0.5)
        assert not listed.done()
        with store._writing() as database:
            database.execute(LARGE, (LOG_MOST,))
        with pytest.raises(sqlite3.OperationalError):
            listed.result(10)
    lists.empty_log()  # as every list and every worker does: the writer may have kept the first one from it
    assert log.stat().st_size <= LOG_BYTES
    lists.close()


def test_no_list_begins_beside_a_reader_while_the_log_is_too_long(store: Store) -> None:
    store.add([answered(1)])
    with contextlib.closing(sqlite3.connect(store.path / "feedback.sqlite", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM answers").fetchone()
        with store._writing() as database:
            database.execute(LARGE, (LOG_MOST,))
        with pytest.raises(sqlite3.OperationalError):
            store.uncertain(1, until=time.monotonic() + 5)
        assert first(store, "r1", 0) is not None
    assert len(store.uncertain(1, until=time.monotonic() + 5)) == 1


# Deleting


def test_deleting_one_answer_does_not_look_at_all_files(store: Store) -> None:
    store.add([answered(1, "a"), answered(2, "b")])
    left = store.pictures / ("ab" * 32 + ".png")
    left.write_bytes(noise(9))
    kept = first(store, "a", 0)
    assert kept is not None
    assert store.delete(number=kept.id) == 1
    assert len(files(store)) == 2  # only a look at all files finds the one without a row
    store.delete("b")
    assert files(store) == set()


def test_one_picture_is_deleted_wherever_it_was_sent(store: Store) -> None:
    store.add([answered(1, "a"), answered(1, "b"), answered(2, "a", picture=1)])
    assert store.delete("a", 0) == 2
    assert [kept.request for kept in store.uncertain(10)] == ["a"]
    assert len(files(store)) == 1


def test_everything_is_deleted_and_leaves_no_trace_in_the_files(store: Store) -> None:
    store.add([answered(1, "the-secret-request"), answered(2)])
    assert store.delete() == 2
    assert files(store) == set()
    for path in store.path.iterdir():
        assert path.is_dir() or b"the-secret-request" not in path.read_bytes()


def test_deletion_beside_a_reader_waits_for_nobody_and_its_traces_go_once_that_is_over(store: Store) -> None:
    """SQLite had taken the writers' lock and waited for the reader; after five seconds the log was left as it was."""
    log, secret = store.path / "feedback.sqlite-wal", b"the-secret-request"
    store.add([answered(1, secret.decode()), answered(2)])
    with contextlib.closing(sqlite3.connect(store.path / "feedback.sqlite", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM answers").fetchone()
        begun = time.monotonic()
        assert store.delete(secret.decode()) == 1
        correct(store, "r2", 0, "blue", 1.0)
        assert time.monotonic() - begun < 1
        assert secret in log.read_bytes()
    other = Store(store.path)
    other.uncertain(1, until=time.monotonic() + 5)
    assert secret not in log.read_bytes()
    other.close()


def test_damaged_database_is_a_data_error_whatever_meets_it(tmp_path: Path) -> None:
    """Only its head was looked at: counting, deleting and the start of a server ended in tracebacks."""
    store = Store(tmp_path, create=True)
    store.add([answered(seed) for seed in range(200)])
    roots = store._database.execute("SELECT rootpage FROM sqlite_master WHERE rootpage > 0").fetchall()
    store.close()
    with (tmp_path / "feedback.sqlite").open("r+b") as file:
        for (page,) in roots:
            file.seek((page - 1) * BLOCK_BYTES)
            file.write(b"\xa5" * BLOCK_BYTES)
    for asked in (["show"], ["delete", "--everything"]):
        done = CliRunner().invoke(main, ["feedback", asked[0], str(tmp_path), *asked[1:]])
        assert done.exit_code == 1 and "database is damaged" in done.output, done.output
    with pytest.raises(SettingsError, match="database is damaged"):
        prepare(Settings(feedback_dir=tmp_path))
    store = Store(tmp_path)
    for call in (store.models, lambda: store.served("m1", 5), lambda: store.add([answered(1)]), store.recover):
        with pytest.raises(DataError):
            call()
    store.close()


# After a crash


def test_whatever_is_deleted_what_an_interrupted_write_has_left_goes_too(store: Store) -> None:
    store.add([answered(1, "a"), answered(2, "b")])
    (store.pictures / ("ab" * 32 + ".png")).write_bytes(noise(9))
    assert store.delete("a") == 1
    assert len(files(store)) == 1


def test_recovery_deletes_files_without_rows_and_rows_without_files(store: Store) -> None:
    store.add([answered(1), answered(2)])
    kept = first(store, "r1", 0)
    assert kept is not None
    lost = store.file(kept.sha256, kept.kind)
    lost.unlink()
    (store.pictures / ".abcd.png").write_bytes(b"half")
    (store.pictures / ("ab" * 32 + ".png")).write_bytes(noise(9))
    assert store.recover() == (2, 1)
    assert [kept.request for kept in store.uncertain(10)] == ["r2"]
    assert len(files(store)) == 1
    assert store.recover() == (0, 0)


def test_failed_write_leaves_neither_rows_nor_files(store: Store) -> None:
    store._database.execute("CREATE TRIGGER full BEFORE INSERT ON answers BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(sqlite3.Error, match="disk full"):
        store.add([answered(1)])
    assert files(store) == set()
    assert store.counts().answers == 0


def test_disk_that_fills_up_keeps_no_unfinished_picture(store: Store) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(noise(1)) // 2, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.add([answered(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(store) == set()


def test_sample_for_drift_has_each_picture_once_and_none_that_eviction_left_over(store: Store) -> None:
    for seed in range(5):
        store.add([answered(seed)], max_bytes=3 * EACH + EACH // 2)
        if seed == 0:
            correct(store, "r0", 0, "blue", 1.0)
    store.add([answered(4, "again"), answered(7, model="m2")])
    assert [kept.request for kept in store.served("m1", 10)] == ["again", "r3"]
    assert store.models() == {"m2": 1, "m1": 4}


# The command


def test_command_counts_and_deletes(store: Store) -> None:
    store.add([answered(1, "a"), answered(2, "a", picture=1), answered(3, "b")])
    correct(store, "a", 0, None, 1.0)
    folder = str(store.path)
    shown = CliRunner().invoke(main, ["feedback", "show", folder])
    assert "3 pictures kept, 3 answers" in shown.output
    assert "1 answer corrected, 1 of them as none of the classes" in shown.output
    assert json.loads(CliRunner().invoke(main, ["feedback", "show", folder, "--json"]).output)["models"] == {"m1": 3}
    one = CliRunner().invoke(main, ["feedback", "delete", folder, "--request", "a", "--picture", "1"])
    assert one.output == "deleted 1 answer, pictures included\n"
    for wrong in (["--request", "a1"], ["--request", "b", "--picture", "1"]):
        nothing = CliRunner().invoke(main, ["feedback", "delete", folder, *wrong])
        assert nothing.exit_code == 1
        assert f"holds no picture of a request '{wrong[1]}'" in nothing.output
    assert CliRunner().invoke(main, ["feedback", "delete", folder]).exit_code == 2
    assert CliRunner().invoke(main, ["feedback", "delete", folder, "--everything"]).exit_code == 0
    assert store.counts().answers == 0


ADDING = """
import os, sys, time
from pathlib import Path
import pupila._files as files
import pupila.feedback.store as store
from pupila.feedback import Answered
from pupila.images.strip import Clean

def slowly(path, sync=files.sync):
    time.sleep(0.004)  # a disk that takes as long
    sync(path)

files.sync = store.sync = slowly
own = store.Store(Path(sys.argv[1]))
until = time.monotonic() + 60
while time.monotonic() < until:
    answered = [Answered(f"r{i}", 0, os.urandom(400), "cat", 0.9, False, "m", time.time()) for i in range(64)]
    try:
        own.add(answered, 2**30, lambda data: Clean(data, "png"))
    except store.sqlite3.Error:
        pass
"""


def test_corrections_find_their_turn_beside_many_processes_that_add(store: Store) -> None:
    """SQLite's lock has no queue: beside many workers some waited for 5 s, and were given up."""
    store.add([answered(1)])
    kept = first(store, "r1", 0)
    assert kept is not None
    adding = [subprocess.Popen([sys.executable, "-c", ADDING, str(store.path)]) for _ in range(16)]
    try:
        wait_until(lambda: store.counts().answers > 500, 60)
        waited = []
        for place in range(6):
            begun = time.monotonic()
            store.correct(kept.id, "dog", float(place), 2**30)
            waited.append(time.monotonic() - begun)
    finally:
        for process in adding:
            process.kill()
            process.wait()
    assert max(waited) < 3.0, waited
