"""The limits that docs/security.md names are those of the code."""

from pathlib import Path

import pytest

from pupila import _files, manifest, predictor, recipe
from pupila.data import cache, dataset
from pupila.data.layouts import arrays, labelled, parquet, tables
from pupila.data.sources import archive, files
from pupila.feedback import store
from pupila.images import boxes, decoder, formats, limits, tiff
from pupila.model_file import cost as costs
from pupila.model_file import reader
from pupila.server import Settings, inference
from pupila.server.api import feedback, predict
from pupila.server.transport import event_loop, parser
from pupila.training import state_file, weights
from pupila.training.loop import checkpoint

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
ROWS = {line.split(" | ")[0].lstrip("| "): line for line in PAGE.splitlines() if line.startswith("| ")}
MIB, GIB = 2**20, 2**30
NAMED = {
    "picture, sent to a server": [
        f"{Settings().max_part_bytes // MIB} MiB", f"{limits.MAX_SCANS} scans", f"{limits.MAX_SEGMENTS:,} segments",
        f"{limits.MAX_BLOCKS:,} chunks", f"{limits.FILLING} filling bytes", f"{limits.MAX_PACKED} packed texts",
        f"{formats.LONG['PNG'] // MIB} MiB, a JPEG of {formats.LONG['JPEG'] / 1e6:g} MB, and",
        f"and {inference.SMALL:,} pixels", f"up to {inference.MODERATE:,}, some 0.2 s",
        f"counts {limits.CODES // decoder.USUAL_SCANS} times", f"{limits.DEEP // decoder.USUAL_SCANS} times of a PNG",
        f"{limits.COLOURED // decoder.USUAL_SCANS} times of others",
        f"{limits.DEFLATED} of a PNG, {limits.LOSSLESS} of a WebP that is", f"{limits.LOSSY} of others",
        f"{boxes.MAX_BOXES:,} boxes", f"{boxes.MAX_ITEMS:,} items", f"{boxes.MAX_BOXES:,} parts of parts",
        f"{tiff.MAX_BITS} bits", f"{tiff.MAX_SHARED} times the file", f"{decoder.MAX_SIDE:,} pixels; ",
        f"{limits.MAX_SLOW_PIXELS:,} pixels of a BMP packed as runs",
        f"{limits.MAX_SLOW // MIB} MiB of one or of a PPM's numbers",
    ],
    "archive (tar, zip)": [
        f"{archive.TOTAL_BYTES // GIB} GiB", f"{archive.RATIO} times", f"{archive.MEMBERS:,} members",
        f"{archive.MEMBER_BYTES // MIB} MiB a member", f"{archive.HEADER_BYTES // 1024} KiB of header records",
        f"{archive.DIRECTORY_BYTES // MIB} MiB of a zip's directory", f"names of {files.LONGEST} letters",
        f"{archive.LONGEST_PATH:,} with their folders", f"{files.DEEPEST_FOLDER} folders", f"{archive.PART_BYTES} more",
        f"{archive.MEMBER_OBJECT_BYTES} for each member of a zip",
        f"{archive.EXTRA_BYTES // 1024} KiB of extra fields",
        f"{archive.GLOBAL_RECORDS} such records and {archive.GLOBAL_LETTERS:,} letters",
    ],
    "table (CSV, JSON)": [
        f"{tables.MAX_BYTES // MIB} MiB", f"JSON {tables.MAX_JSON_BYTES // MIB} MiB", f"{tables.MAX_ROWS:,} rows",
        f"{tables.MAX_COLUMNS:,} columns", f"{tables.MAX_LINE // MIB} MiB a line",
        f"{tables.MAX_KEPT // MIB} MiB of memory in all tables",
        f"each picture {tables.MAX_NESTED} times", f"{tables.FEW_CELLS:,} in all tables",
    ],
    "arrays (`.npz`, idx)": [
        f"idx {arrays.MAX_BYTES // GIB} GiB", f"CIFAR {arrays.MAX_CIFAR_BYTES // MIB} MiB",
        f"{parquet.MAX_ROWS:,} pictures",
        f"names of {arrays.LONGEST_KEY} letters",
        f"headers of {arrays.MAX_HEADER:,} bytes", f"{arrays.MAX_INSTRUCTIONS:,} instructions",
    ],
    "weights to start from (`.pth`, `.safetensors`)": [
        f"{weights.MAX_BYTES // MIB} MiB", f"{state_file.MAX_RECORDS:,} records",
        f"{state_file.MAX_INSTRUCTIONS:,} instructions", f"{state_file.MAX_DEPTH} deep",
        f"{weights.MAX_HEADER // MIB} MiB of names",
    ],
    "run, sweep, their records and metrics (JSON)": [
        f"{_files.SMALL // MIB} MiB a file", f"checkpoint {checkpoint.MAX_BYTES // GIB} GiB",
        f"{_files.DEEPEST_JSON} levels",
    ],
    "recipe (TOML)": [f"{recipe.MAX_BYTES // 1024} KiB", f"{recipe.MOST_DOTS} dots in a line"],
    "table (parquet)": [
        f"{archive.RATIO} times", f"{parquet.LEAST_BYTES // GIB} GiB left", f"{archive.TOTAL_BYTES // GIB} GiB where",
        f"{parquet.MAX_ROWS:,} rows", f"{parquet.BATCH} rows",
    ],
    "lists of what is kept": [f"looks at {store.SAME_REQUEST} answers"],
    "memory for answers": [f"{predict.MAX_LISTED:,} probabilities"],
    "classes of a data set": [f"{manifest.MAX_CLASSES:,}, with names of {manifest.MAX_TEXT:,} letters"],
    "picture, of a data set": [
        f"{archive.MEMBER_BYTES // MIB} MiB in", f"{labelled.NAME_BYTES} bytes for each letter",
        f"{tables.INDEX_BYTES} while a table",
        f"{dataset.MAX_LISTED:,} are listed", f"{dataset.MAX_LISTED_LETTERS:,} letters of names",
        f"{cache.ROOM // GIB} GiB of the disk",
    ],
    "JSON, sent to a server": [f"feedback {feedback.MAX_BODY // 1024} KiB"],
    "request head": [
        f"{parser.MAX_HEAD // 1024} KiB", f"{parser.MAX_HEADERS} headers", f"{event_loop.HEAD_TIMEOUT:g} seconds",
    ],
    "model file": [
        f"{reader.MAX_BYTES // MIB} MiB", f"{manifest.MAX_JSON_BYTES // MIB} MiB of manifest",
        f"{reader.MAX_FIELDS:,} fields, {reader.SMALL} numbers in an attribute",
        f"but the manifest of {reader.MAX_NAME_BYTES} bytes",
        f"{costs.MAX_NODES:,} operators with {2 * costs.MAX_NODES:,} results",
        f"2^{costs.MAX_TOGETHER.bit_length() - 1} numbers",
        f"{costs.MAX_SIDE:,} pixels", f"{predictor.MAX_MAP} numbers a side", f"{manifest.MAX_GOLDEN} golden pictures",
        f"{costs.MAX_WORK // 10**6:,} million", f"{costs.MAX_FIXED_WORK // 10**6:,} million",
        f"written counting as {costs.NUMBER_WORK}", f"resize give as {costs.PLANE_WORK:,}",
    ],
}  # fmt: skip


@pytest.mark.parametrize("row", NAMED)
def test_row_names_the_limits_of_the_code(row: str) -> None:
    assert [text for text in NAMED[row] if text not in ROWS[row]] == []


def test_share_of_corrected_pictures_is_as_the_page_says() -> None:
    assert store.CORRECTED_SHARE == 0.75
    assert "three quarters" in ROWS["kept pictures that fill the disk"]


def test_answers_about_one_picture_are_as_many_as_the_page_says() -> None:
    assert f"its last {store.SAME_PICTURE} answers" in ROWS["one picture sent for ever"]
