"""Tables of a stranger take time by their bytes: never by rows times columns, folders or pictures."""

import gc
import json
import time
import tracemalloc

import pytest

from pupila.data.layouts import tables
from pupila.data.layouts.tables import find_tables
from pupila.data.sources import archive
from pupila.data.sources.files import SourceFile
from pupila.errors import DataError


def pictures(*paths: str) -> list[SourceFile]:
    return [SourceFile(tuple(path.split("/")), "") for path in paths]


def table(path: str, *rows: str, head: str = "path,label") -> SourceFile:
    return SourceFile(tuple(path.split("/")), "\n".join([head, *rows, ""]).encode())


def reasons(*entries: SourceFile, seconds: float = 6) -> list[str]:
    """Look for tables, and fail if that takes more of the processor's time."""
    begun = time.process_time()
    found = find_tables(entries)[1]
    assert time.process_time() - begun < seconds
    return found


def test_objects_that_lack_the_keys_of_the_first_are_no_table() -> None:
    first = json.dumps({"path": "0", "label": "a", **{f"{key:x}": 0 for key in range(9_000)}})
    lines = table("t.jsonl", *['{"":0}'] * 20_000, head=first)
    [reason] = reasons(*pictures("p/0.png", "p/1.png"), lines)
    assert reason == "t.jsonl is not used: most of its objects lack most keys of the first."


def test_keys_that_objects_lack_are_counted_in_all_tables_together() -> None:
    """Three tables are looked at, of some 2 s each on a slow machine, and not all twenty."""
    first = json.dumps({"path": "0", "label": "a", **{f"{key:x}": 0 for key in range(9_000)}})
    found = [table(f"{number}.jsonl", *['{"":0}'] * 2_000, head=first) for number in range(20)]
    assert len(reasons(*pictures("p/0.png", "p/1.png"), *found, seconds=15)) == 4  # three, and how many more


def test_objects_that_lack_some_keys_are_read() -> None:
    rows = [json.dumps({"path": f"{number}.png", "label": "cat"}) for number in range(5)]
    first = json.dumps({"path": "0.png", "label": "cat", "by": "Ana", "note": "", "camera": "x"})
    [found], _ = find_tables(
        [*pictures(*(f"{number}.png" for number in range(5))), table("t.jsonl", *rows, head=first)]
    )
    assert len(found.rows) == 6


@pytest.mark.parametrize("row", ["z/x.jpg,a", "z{n}/x.jpg,a"])
def test_ends_of_paths_that_fit_thousands_of_pictures_are_not_compared_with_each(row: str) -> None:
    found = pictures(*(f"p{number}/x.jpg" for number in range(1_000)))
    [reason] = reasons(*found, table("t.csv", *(row.format(n=number) for number in range(5_000))))
    assert "can be p" in reason


def test_paths_that_fit_a_few_deep_pictures_alike_are_compared_with_so_many_for_each_picture() -> None:
    deep = "/".join(["d"] * 60)
    found = pictures(*(f"p{number}/{deep}/1.jpg" for number in range(20)))
    rows = [f"k{number}/{deep}/1.jpg,{'ab'[number % 2]}" for number in range(5_000)]
    [reason] = reasons(*found, table("t.csv", *rows), seconds=1.5)
    assert "pictures of one name in too many folders" in reason


def test_paths_that_fit_pictures_alike_are_told_apart_by_capitals() -> None:
    found = pictures(*(f"{name}/in/{number}.jpg" for number in range(20) for name in ("p", "P", "q")))
    rows = [f"/home/{name}/in/{number}.jpg,{name}" for number in range(20) for name in ("p", "P")]
    [made], _ = find_tables([*found, table("t.csv", *rows)])
    keys = [tables._key(row.file) for row in made.rows]
    assert {made.pictures[key].parts[0] == row.label for key, row in zip(keys, made.rows, strict=True)} == {True}


def test_ends_of_paths_find_one_of_thousands_of_pictures() -> None:
    found = pictures(*(f"p{number}/in/x.jpg" for number in range(1_000)), "P7/in/x.jpg", "Q/x.JPG")
    rows = ["/home/ana/p7/in/x.jpg,a", "/home/ana/P7/in/x.jpg,b", "/home/ana/p8/In/X.jpg,a", "C:\\q\\x.jpeg,b"]
    [made], _ = find_tables([*found, table("t.csv", *rows)])
    keys = [tables._key(row.file) for row in made.rows]
    assert [made.pictures[key].name for key in keys] == ["p7/in/x.jpg", "P7/in/x.jpg", "p8/in/x.jpg", "Q/x.JPG"]


def test_tables_beside_thousands_of_folders_do_not_look_into_each() -> None:
    found = pictures(*(f"p{number}/1.jpg" for number in range(20_000)))
    rows = [f"a{number}/1.jpg,a" for number in range(1_000)]
    assert len(reasons(*found, *(table(f"{number}.csv", *rows) for number in range(20)))) == 4


def test_tables_in_folders_within_each_other_are_bounded() -> None:
    chain = ["/".join(["d"] * depth) for depth in range(1, 301)]
    found = pictures(*(f"{chain[-1]}/{number}.jpg" for number in range(1_000)))
    said = reasons(*found, *(table(f"{folder}/t.csv", "1.jpg,a", "2.jpg,b") for folder in chain))
    assert any("too many folders within each other" in reason for reason in said)


def test_tables_of_a_name_that_thousands_of_folders_hold_are_bounded() -> None:
    found = pictures(*(f"p{number}/1.jpg" for number in range(2_000)))
    said = reasons(*found, *(table(f"{number}.csv", "1.jpg,a", "2.jpg,b") for number in range(2_000)), seconds=1.5)
    assert any("pictures of one name in too many folders" in reason for reason in said)


def test_labels_of_many_pieces_are_looked_at_one_by_one() -> None:
    label = "|".join(["ab"] * 40_000)
    rows = [tables.LabelRow("a.jpg", f"{number}{label}", "") for number in range(20)]
    tracemalloc.start()
    tables._unfit(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_table_beside_deep_folders_takes_little_memory() -> None:
    found = pictures(*(f"p{number}/{'d/' * 1_500}{number}.jpg" for number in range(60)))
    tracemalloc.start()
    find_tables([*found, table("t.csv", "1.jpg,a")])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def long_names(letter: str) -> list[SourceFile]:
    """Return 200 pictures with names of 3,800 letters, and a table that names 40 of them by the end of their paths."""
    folders = "/".join(["a", *[letter * 250] * 15])
    rows = [f"x/{number}{letter * 60}.png,{'ab'[number % 2]}" for number in range(40)]
    return [*pictures(*(f"{folders}/{number}{letter * 60}.png" for number in range(200))), table("t.csv", *rows)]


def test_long_names_beside_a_table_take_as_much_as_is_asked_for_and_are_let_go() -> None:
    found = long_names("\U0001f431")
    letters = sum(len(entry.name) for entry in found)
    gc.disable()
    tracemalloc.start()
    try:
        made = len(find_tables(found)[0])
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert made == 1 and peak < tables.INDEX_BYTES * letters and kept < letters


def test_memory_for_long_names_is_asked_for_before_a_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "free_memory", lambda: 25 * 200 * 3_800)
    with pytest.raises(DataError, match=r"^The names of 200 pictures need .* GiB of memory"):
        find_tables(long_names("x"))


def test_rows_of_all_tables_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 10)
    rows = [f"{number}.jpg,{'ab'[number % 2]}" for number in range(6)]
    found = pictures(*(f"{number}.jpg" for number in range(6)))
    unread = SourceFile(("deep", "valid.csv"), "/nowhere")
    made, said = find_tables([*found, unread, table("train.csv", *rows), table("z.csv", *rows)])
    assert [one.name for one in made] == ["train.csv"]
    names = ("deep/valid", "z")
    assert said == [f"{name}.csv is not used: the tables have over 10 rows together." for name in names]


def test_rows_of_tables_that_are_not_used_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 10)
    lost = [f"gone/{number}.jpg,{'ab'[number % 2]}" for number in range(8)]
    found = [table(f"{name}.csv", *lost) for name in "abc"]
    said = find_tables([*pictures("1.jpg"), *found])[1]
    assert [text.partition(": ")[2] for text in said[1:]] == ["the tables have over 10 rows together."] * 2
    assert "pictures that are not there" in said[0]


def test_paths_in_the_rows_of_all_tables_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter takes up to four bytes, and rows are kept: those of an archive of 16 MiB took over 4 GiB."""
    monkeypatch.setattr(tables, "MAX_KEPT", 2**20)
    rows = [f"https://{number}.png?\U0001f431{'a' * 4_000},{'ab'[number % 2]}" for number in range(40)]
    found = pictures(*(f"{number}.png" for number in range(40)))
    made, said = find_tables([*found, table("t.csv", *rows), table("z.csv", *rows)])
    assert [one.name for one in made] == ["t.csv"]
    assert said == ["z.csv is not used: the paths and labels in the tables take over 1 MiB of memory."]


def test_labels_in_rows_are_counted_once_each() -> None:
    spare, long = tables.Spare(kept=100_000), "\U0001f431" * 1_000
    assert len(tables._rows(table("t.csv", *[f"1.png,{long}"] * 200), spare)[0]) == 200
    with pytest.raises(tables.TableError, match="the paths and labels in the tables take over"):
        tables._rows(table("t.csv", *(f"1.png,{number}{long}" for number in range(200))), spare)


@pytest.mark.parametrize(("ending", "line"), [("csv", ""), ("csv", "#"), ("txt", ""), ("jsonl", ""), ("jsonl", "{}")])
def test_lines_that_hold_nothing_are_counted(ending: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 10)
    found = [SourceFile((f"{name}.{ending}",), f"{line}\n".encode() * 8) for name in "abc"]
    said = find_tables([*pictures("1.jpg"), *found])[1]
    assert [text.partition(": ")[2] for text in said] == ["the tables have over 10 rows together."] * 2


@pytest.mark.parametrize(
    ("ending", "first"),
    [("csv", "a,b,c\nq,r\n"), ("jsonl", '{"a":1,"b":2,"c":3}\n{"a":"q","b":"r","c":"s"}\n')],
)
def test_lines_that_hold_nothing_are_counted_where_a_table_is_read_again(
    ending: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is left after two lines was read once more, through all that are empty, and so was each."""
    monkeypatch.setattr(tables, "MAX_ROWS", 10)
    found = [SourceFile((f"{name}.{ending}",), first.encode() + b"\n" * 8) for name in "abc"]
    said = find_tables([*pictures("1.jpg"), *found])[1]
    assert said[-1:] == [f"c.{ending} is not used: the tables have over 10 rows together."]


def test_lines_above_headings_are_counted_where_pixels_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 10)
    found = [SourceFile((f"{name}.csv",), b"# notes\n" * 8 + b"pixel0,pixel1\n") for name in "ab"]
    assert tables.pixels_in(found[:1]).startswith("a.csv holds pixels as numbers")
    found[0] = SourceFile(("a.csv",), b"# notes\n" * 8)
    assert tables.pixels_in(found).startswith("b.csv is not read: the tables have over 10 rows together.")


@pytest.mark.parametrize("rows", [["a" + ",a" * 100_000], ["ab" + ",ab" * 100_000] * 49])
def test_columns_of_any_table_are_bounded(rows: list[str]) -> None:
    wide = table("t.csv", *rows, head="suggested" + ",x" * 100_000)
    assert reasons(*pictures("cat/a.jpg"), wide, seconds=0.5) == [
        "t.csv is not used: it has over 2,000,000 rows or 10,000 columns."
    ]


def test_paths_of_many_parts_are_compared_in_as_many_as_a_picture_has() -> None:
    found = pictures(*(f"f{number}/1.png" for number in range(20)))
    rows = [f"{number}/{'a/' * 60_000}1.png,{'ab'[number % 2]}" for number in range(40)]
    assert len(reasons(*found, table("t.csv", *rows), seconds=3)) == 1


def test_cells_that_name_no_split_are_not_read_letter_by_letter() -> None:
    rows = [f"{number}.png,{'ab'[number % 2]},t{'é' * 120_000}" for number in range(100)]
    found = find_tables(
        [*pictures(*(f"{number}.png" for number in range(100))), table("t.csv", *rows, head="path,label,split")]
    )
    begun = time.process_time()
    with pytest.raises(DataError, match="has a column of splits that says"):
        tables.by_tables(found[0], [], "pets")
    assert time.process_time() - begun < 1


def test_tables_without_labels_are_looked_at_in_few_columns() -> None:
    row = "a" + ",a" * 9_000
    found = [table(f"{number}.csv", *[row] * 50, head="x" + ",x" * 9_000) for number in range(20)]
    assert reasons(*pictures("cat/b.jpg"), *found, seconds=3) == []


def test_headings_are_compared_once() -> None:
    row = "a" + ",a" * 9_000
    assert reasons(*pictures("cat/a.jpg"), table("t.csv", row, head="suggested" + ",x" * 9_000), seconds=0.5) == []


def test_quotes_do_not_join_lines_to_one_beyond_the_limit() -> None:
    text = b"path,label\n" + (b"," * 400_000 + b'"\n"') * 4
    with pytest.raises(tables.csv.Error, match="a line is too long"):
        list(tables.csv_lines(text))
    assert len(list(tables.csv_lines(b'path,label\n"a\nb.jpg",c\n' * 200_000))) == 400_000


LONG = "x" * 100_000
QUOTED = {
    "a row that is lost": table("t.csv", f"gone/{LONG}.jpg,a", "gone/2.jpg,b"),
    "an address": table("t.csv", f"https://example.org/{LONG}.jpg,a", "https://example.org/b.jpg,b"),
    "a path that fits two": table("t.csv", f"{LONG}/1.jpg,a", f"z{LONG}/1.jpg,b"),
    "a path that fits": table("t.csv", f"/{LONG}/cat/1.jpg,a", "/home/dog/1.jpg,b"),
    "a heading": table("t.csv", "cat/1.jpg,1,2", "dog/1.jpg,2,3", head=f"{LONG},b,c"),
}


@pytest.mark.parametrize("kind", QUOTED)
def test_of_what_a_table_holds_few_letters_are_quoted(kind: str) -> None:
    made, said = find_tables([*pictures("cat/1.jpg", "dog/1.jpg"), QUOTED[kind]])
    [sentence] = [*said, *(one.note for one in made)]
    assert "xxx" in sentence and len(sentence) < 1_000


@pytest.mark.parametrize("kind", ["label", "split"])
def test_of_labels_and_splits_few_letters_are_quoted(kind: str) -> None:
    rows = ["1.jpg,a,", f"1.jpg,{LONG},"] if kind == "label" else [f"1.jpg,a,{LONG}"]
    made, _ = find_tables([*pictures("1.jpg"), table("t.csv", *rows, head="path,label,split")])
    with pytest.raises(DataError) as refused:
        tables.by_tables(made, [], "pets")
    assert "xxx" in str(refused.value) and len(str(refused.value)) < 1_000


def test_names_of_pictures_that_are_missing_are_listed_as_long_as_paths_are() -> None:
    rows = [*(f"{number}.jpg,{'ab'[number % 2]}" for number in range(4)), f"{LONG}.jpg,a"]
    found = pictures(*(f"{number}.jpg" for number in range(4)))
    made, _ = find_tables([*found, table("t.csv", *rows)])
    [missing] = tables.by_tables(made, found, "pets").skipped
    assert len(missing.name) == archive.LONGEST_PATH


def test_long_paths_are_normalised_as_far_as_a_pictures_goes() -> None:
    marks = "\u0345" * 63 + "\u0301" * 64 + "\u0323" * 64 + "\u0334" * 62
    rows = [
        f"{'/'.join(chr(97 + row) + chr(0x100 + part) + marks for part in range(255))}/{row}.jpg,cat"
        for row in range(20)
    ]
    seen = pictures(*(f"{row}.jpg" for row in range(20)))
    assert reasons(*seen, table("labels.csv", *rows), seconds=0.5) == []


def test_of_rows_is_kept_what_can_name_a_picture_or_a_class() -> None:
    """A letter of a cell takes up to four bytes, and rows of all tables are kept."""
    found = pictures(*(f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(3)))
    cell = "\U0001f431" + "a" * 99_000
    rows = [f"{cell}/{'./' * 70}{kind}/{number}.png,{kind},{cell}" for kind in ("cat", "dog") for number in range(3)]
    [made], _ = find_tables([*found, table("t.csv", *rows, head="path,label,split")])
    assert max(len(text) for row in made.rows for text in row) <= archive.LONGEST_PATH + 1


def test_headings_of_classes_are_cut_once() -> None:
    head = f"image,{' c' * 60_000},d"
    found = table("t.csv", *(f"{number}.png,1,0" for number in range(20_000)), head=head)
    rows, _ = tables._rows(found, tables.Spare())
    assert len({id(row.label) for row in rows}) == 1 and len(rows[0].label) == 1_001


@pytest.mark.parametrize("cell", ["0", "0.0", "00"])
def test_columns_of_classes_take_little_time_a_cell(cell: str) -> None:
    row = "i.png" + f",{cell}" * 9_000
    found = [table(f"{n}.csv", *[row] * 500, head="image," + ",".join(map(str, range(9_000)))) for n in range(2)]
    assert reasons(*pictures("i.png"), *found, seconds=6) == []


def test_odd_cells_of_classes_are_counted_in_all_tables_together() -> None:
    spare = tables.Spare(left=25)
    found = table("t.csv", *(f"{number}.png,yes,no" for number in range(10)), head="image,cat,dog")
    assert len(tables._rows(found, spare)[0]) == 10
    with pytest.raises(tables.TableError, match="no plain 0 or 1"):
        tables._rows(found, spare)
