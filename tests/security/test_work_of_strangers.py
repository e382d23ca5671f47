"""What a stranger sends costs little before it is refused: heads, boxes, lists and pickles made to cost much."""

import contextlib
import gzip
import io
import itertools
import json
import os
import random
import resource
import signal
import socket
import ssl
import struct
import time
import tomllib
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
from data_kit import make_zip
from flask import Flask
from heif_kit import box, full
from PIL import Image
from proxy_kit import make_certificate
from server_kit import picture, serving, wait_until, write_model
from werkzeug.http import parse_etags
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response

from pupila import images
from pupila.data.layouts import arrays, class_folders, labelled, masks, tables
from pupila.data.sources import archive, files
from pupila.data.sources.files import SourceFile
from pupila.errors import DataError, ImageError, RecipeError
from pupila.images import tiff
from pupila.predictor import Predictor
from pupila.recipe import MAX_BYTES, load_recipe
from pupila.server.addresses import TrustedProxies
from pupila.server.api.body import Base64Error, decoded, from_base64, in_turn
from pupila.server.api.errors import RequestError, request_error_of
from pupila.server.api.multipart import Part, Query, read_upload
from pupila.server.api.predict import listed
from pupila.server.api.request_context import RequestContext
from pupila.server.app import create_app
from pupila.server.inference import BatchKey, Classifier, interpret
from pupila.server.observability.tracing import Tracer
from pupila.server.settings import Settings
from pupila.server.transport.connection import ConnectionTable
from pupila.server.transport.parser import ProtocolError, parse_head
from pupila.server.transport.tls import TlsSocket, context_of

SOON = 0.25
"""Seconds of processor time."""


def test_head_of_blanks_is_refused_at_once() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nA:" + b" " * 16_000 + b"\x01\r\n\r\n"
    begun = time.process_time()
    with pytest.raises(ProtocolError):
        parse_head(head, len(head) - 2)
    assert time.process_time() - begun < SOON


def test_forwarded_header_of_blanks_takes_no_time() -> None:
    head = parse_head(b"GET / HTTP/1.1\r\nHost: a\r\nForwarded: x" + b" " * 16_000 + b"x\r\n\r\n", 16_040)
    begun = time.process_time()
    assert TrustedProxies(["10.0.0.1"]).apply(head, "10.0.0.1") == "10.0.0.1"
    assert time.process_time() - begun < SOON


def boxes(*parts: bytes) -> bytes:
    return box(b"ftyp", b"heic\0\0\0\0") + full(b"meta", b"".join(parts))


EMPTY = {
    "references of HEIC": boxes(full(b"iref", box(b"free", b"\0\1\0\0") * 500_000)),
    "references of HEIC, in many boxes": boxes(full(b"iref", box(b"free", b"\0\1\0\0") * 4_000) * 125),
    "properties of HEIC": boxes(box(b"iprp", full(b"ipma", struct.pack(">I", 1_000_000) + b"\0\1\0" * 1_000_000))),
    "places of HEIC": boxes(full(b"iloc", b"\0\0\xff\xff" + b"\0\1\0\0\0\0" * 65_535)),
    "comment of PPM": b"P6\n#" + b"x" * 4_000_000 + b"\n1 1 255\nabc",
    "comments of PPM within a number": b"P6 1#\n1#\n1#\n#" + b"x" * 4_000_000 + b"\n 1 255\nabc",
    "blanks of PPM": b"P5 1" + b" " * 4_000_000 + b"1 255\na",
}


@pytest.mark.parametrize("name", EMPTY)
def test_parts_that_say_nothing_count_too(name: str) -> None:
    begun = time.process_time()
    with pytest.raises(ImageError, match="more than") as caught:
        images.decode(EMPTY[name], 32)
    assert caught.value.code == "image_too_complex"
    assert time.process_time() - begun < SOON


@pytest.mark.parametrize("head", [b"P6\n# by a program\n40 50\n# and more\n255\n", b"P6 40\t50 255 "])
def test_ppm_as_programs_write_it_is_read(head: bytes) -> None:
    assert images.decode(head + bytes(40 * 50 * 3), 8).max() == 0


def test_numbers_of_tiff_that_nobody_looks_at_take_no_memory() -> None:
    entries, values = 100, 10_000
    at = 8 + 2 + 12 * entries + 4
    rows = b"".join(struct.pack("<HHII", 40_000 + i, 3, values, at + 2 * values * i) for i in range(entries))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + rows + bytes(4) + b"\1\2" * (values * entries)
    tracemalloc.start()
    tiff.directory(data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < len(data)


def zip_of(count: int, comment: bytes = b"") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        for number in range(count):
            info = zipfile.ZipInfo(f"a/{number}.png")
            info.comment = comment if number == count - 1 else b""
            packed.writestr(info, picture())
    return made.getvalue()


def test_members_of_zip_are_counted_in_the_list_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MEMBERS", 10)
    plain = zip_of(20)
    end_in_end = plain[:-18] + b"PK\5\6" + plain[-14:-6] + bytes(6)
    locator = zip_of(20, bytes(60) + b"PK\6\7" + struct.pack("<LQL", 0, 0, 1))
    for name, data in {"plain": plain, "end in the end": end_in_end, "locator": locator}.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(data)
        with zipfile.ZipFile(path) as packed:
            assert len(packed.infolist()) == 20
        with pytest.raises(DataError, match="over 10 files"):
            archive.read_archive(path)


def test_pickle_makes_no_room_for_what_it_only_announces() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    announced = b"\x80\x02}r" + struct.pack("<I", 2**26) + b"."
    assert arrays.read_pickle(SourceFile(("data_batch_1",), announced)) == {}
    with pytest.raises(ValueError, match="text of over 4,096 bytes"):
        arrays.read_pickle(SourceFile(("data_batch_1",), b"\x80\x05\x96" + struct.pack("<Q", 2**30) + b"."))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_no_key_of_a_pickle_is_made() -> None:
    """A few bytes can be a tuple of 2**40 numbers, which Python would count one by one, and heed no Ctrl-C."""
    for put in (b"}" + b"K\1" + b"2\x86" * 40 + b"K\1s.", b"}(" + b"K\1" + b"2\x86" * 40 + b"K\1u.",
                b"(" + b"K\1" + b"2\x86" * 40 + b"K\1d.", b"\x8f(" + b"K\1" + b"2\x86" * 40 + b"\x90."):  # fmt: skip
        assert arrays.read_pickle(SourceFile(("data_batch_1",), b"\x80\x04" + put)) == {}


def test_pickle_of_endless_numbers_is_read_in_part() -> None:
    values = arrays.read_pickle(SourceFile(("data_batch_1",), b"\x80\x02}(U\x06labels](" + b"K\1" * 25_000_000))
    assert len(values["labels"]) < arrays.MAX_INSTRUCTIONS


MARKS = "\u0300" * 30_000 + "\u0327" * 30_000
"""Of two classes: to put them in order takes the square of their number."""


def test_names_and_labels_of_any_length_take_no_time() -> None:
    begun = time.process_time()
    assert files.parts_of(f"a/{MARKS}/b.png") == ("a", MARKS, "b.png")
    assert files.utf8_name(MARKS.encode()) == MARKS
    marked = labelled.LabelledFile(MARKS, "a", SourceFile(("a",), b""))
    assert labelled.sort_labelled({"train": [marked]})["train"][0].category == MARKS
    assert labelled.split_of(MARKS) is None and labelled.alike([MARKS, f"{MARKS}2"]) == []
    assert files.name_readings([(b"\x87" * 60_000).decode("utf-8", "surrogateescape")])
    assert time.process_time() - begun < SOON


def test_names_that_no_folder_could_hold_are_left_out(tmp_path: Path) -> None:
    """What looks at names takes the square of their length: a few kilobytes of tar.gz took days."""
    long = "_" * 65_000
    members = {
        "a/" + "_" * 251 + ".png": b"1",
        f"a/{long}.png": b"2",
        f"{long}/1.png": b"3",
        "a/" * 2_100 + "1.png": b"4",
    }
    found = archive.read_archive(make_zip(tmp_path / "long.zip", members))
    assert [entry.source for entry in found.entries] == [b"1"]
    assert {(len(item.name) > 4_096, item.reason) for item in found.skipped} == {
        (False, "Its name is longer than file systems take.")
    }


def test_files_deep_in_folders_are_left_out_of_archives_and_folders(tmp_path: Path) -> None:
    shallow, deep = "a/" * files.DEEPEST_FOLDER + "1.png", "a/" * files.DEEPEST_FOLDER + "b/1.png"
    packed = archive.read_archive(make_zip(tmp_path / "deep.zip", {shallow: b"1", deep: b"2"}))
    path = tmp_path / "data" / deep
    path.parent.mkdir(parents=True)
    (tmp_path / "data" / shallow).write_bytes(b"1")
    path.write_bytes(b"2")
    listed = files.list_folder(tmp_path / "data")
    assert [entry.name for entry in packed.entries] == [entry.name for entry in listed.entries] == [shallow]
    assert [(item.name, item.reason) for item in packed.skipped] == [(deep, files.TOO_DEEP)]
    assert [(item.name, item.reason) for item in listed.skipped] == [(deep.removesuffix("/1.png"), files.TOO_DEEP)]


def test_names_of_members_are_counted_as_what_they_take() -> None:
    budget = archive.UnpackBudget("x.tar", 1)
    with pytest.raises(DataError, match="unpacks to over"):
        for _ in range(100_000):  # of 32 letters each, and 16 objects
            budget.take_name("\u0101/" * 16)


def test_names_of_marks_alone_are_searched_for_those_of_masks_once() -> None:
    begun = time.process_time()
    assert not any(masks.MASK_NAME.fullmatch("_" * 250) for _ in range(1000))
    assert time.process_time() - begun < 0.5
    assert masks.MASK_NAME.fullmatch("cat_1__mask_2")[1] == "cat_1"


def test_names_that_nearly_share_their_ends_are_compared_once() -> None:
    names = ["x" + "_" * 40 + f"{number}" + "_" * 40 for number in range(10_000)]
    names += [
        "x" + "_" * i + split + "_" * j for i in range(1, 41) for j in range(1, 41) for split in ("train", "test")
    ]
    begun = time.process_time()
    assert labelled.splits_among(names) == {"x_train_": "train", "x_test_": "test"}
    assert time.process_time() - begun < 3
    assert labelled.splits_among(["a_train_b", "a_test_b", "ab"]) == {}
    assert labelled.splits_among(["a_train_b", "a_test_b"]) == {"a_train_b": "train", "a_test_b": "test"}


def test_folders_that_hold_all_others_are_left_out_in_one_go() -> None:
    above = ("a",) * (files.DEEPEST_FOLDER - 2)
    found = {(*above, f"{number}", "b"): [SourceFile((f"{number}",), b"")] for number in range(40_000)}
    begun = time.process_time()
    assert class_folders.unwrap(found).keys() == {(f"{number}", "b") for number in range(40_000)}
    assert time.process_time() - begun < 2


def test_folders_are_compared_with_those_beside_them_once() -> None:
    """Each of so many holds two of the others: to ask that takes no square of their number."""
    count = 20_000
    found = {(f"{n}", f"{(n + k) % count}"): [SourceFile((f"{n}",), b"")] for n in range(count) for k in (1, 2)}
    begun = time.process_time()
    with pytest.raises(DataError, match="in no class folder"):
        class_folders.by_class_folders(found, "x")
    assert time.process_time() - begun < 5


def test_long_cell_of_a_table_is_looked_through_once() -> None:
    """Where an address could begin at each letter, one of 8 MB took hours."""
    content = json.dumps({"a" * 200_000 + ".png": "cat", "b.png": "dog"}).encode()
    begun = time.process_time()
    tables.find_tables([SourceFile(("labels.json",), content), SourceFile(("b.png",), b"")])
    assert time.process_time() - begun < SOON


def test_texts_that_nearly_say_that_they_are_base64_take_no_time() -> None:
    begun = time.process_time()
    for text in (";base64" * 600, ";base64;" * 500, "," + ";base64;" * 500):
        with pytest.raises(Base64Error):
            from_base64(text)
    assert from_base64("data:image/png;name=a,b.png;base64;x=y,aGk=") == b"hi"
    assert time.process_time() - begun < SOON / 10


def test_lines_that_begin_as_the_boundary_does_are_counted() -> None:
    """Each was looked at, in a body of 64 MB of them for five seconds."""
    head = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    few, many = (head + b"\r\n--XXY" * count + b"\r\n--XX--\r\n" for count in (900, 1_100))
    assert len(read_upload("multipart/form-data; boundary=XX", few, Settings()).parts[0].data) == 900 * 7
    with pytest.raises(RequestError, match="lines of its data begin as its boundary does") as caught:
        read_upload("multipart/form-data; boundary=XX", many, Settings())
    assert caught.value.code == "multipart_malformed"


BLANKS = " " * 2**21


@pytest.mark.parametrize("text", [".gif?" * 40 + BLANKS + "x", BLANKS + "x?", BLANKS + "'x", "'" * 2**21 + "x"])
def test_texts_that_nearly_name_a_file_let_other_threads_run(text: str) -> None:
    """A run of blanks was gone through forty times within one call: 32 MB stopped a worker for 6 s, which ended it."""
    begun = time.process_time()
    with pytest.raises(Base64Error, match=r"is not of base64|Over 1,500,000"):
        from_base64(text)
    assert time.process_time() - begun < SOON


@pytest.mark.parametrize("text", [" \n https://example.org/a.jpg \n", ' "https://example.org/a.jpg"', "b' s3://a/b '"])
def test_blanks_around_an_address_do_not_hide_it(text: str) -> None:
    with pytest.raises(Base64Error, match="This is an address"):
        from_base64(text)


def test_inputs_without_a_file_are_counted_too() -> None:
    part = b'--XX\r\nContent-Disposition: form-data; name="file"; filename=""\r\n\r\n\r\n'
    with pytest.raises(RequestError) as caught:
        read_upload("multipart/form-data; boundary=XX", part * 1_000 + b"--XX--\r\n", Settings())
    assert caught.value.code == "too_many_parts"


PLAIN = random.Random(1).randbytes(32 * 2**20)


@pytest.mark.parametrize(
    ("coding", "packed"),
    [("deflate", zlib.compress(PLAIN, 0)), ("gzip", gzip.compress(b"") * 90 + gzip.compress(PLAIN, 0))],
)
def test_large_body_that_hardly_shrinks_is_unpacked_in_one_go(coding: str, packed: bytes) -> None:
    """What was left of it was copied for each piece: 64 MB took 20 seconds."""
    begun = time.process_time()
    assert decoded({"HTTP_CONTENT_ENCODING": coding}, packed, 64 * 2**20) == PLAIN
    assert time.process_time() - begun < 1


def test_run_folders_by_the_thousand_are_found_at_once() -> None:
    entries = [SourceFile((f"run{i}", name), b"") for i in range(20_000) for name in ("feedback.sqlite", "1.png")]
    entries += [SourceFile(("run1", "below", "feedback.sqlite"), b""), SourceFile(("run", "1.png"), b"")]
    begun = time.process_time()
    kept, notes = files.without_run_folders(entries)
    assert [entry.name for entry in kept] == ["run/1.png"] and "20,001" in notes[0]
    assert time.process_time() - begun < 2


def test_text_with_half_a_letter_is_no_fault_of_the_server() -> None:
    with pytest.raises(Base64Error, match="letters beyond ASCII"):
        from_base64("data:,\ud800")


def test_who_leaves_answers_unread_longest_is_dropped() -> None:
    pool = ConnectionTable(memoryview(bytearray(64)).cast("d"), 60, 1000, max_buffered=3_000_000)
    with ExitStack() as stack:
        for number in range(5):
            ours, _ = map(stack.enter_context, socket.socketpair())
            pool.add(ours, "127.0.0.1")
            pool.open[ours.fileno()].out = bytes(1_000_000)
            pool.open[ours.fileno()].since = float(number)
        pool.limit_unsent()
        assert [connection.since for connection in pool.open.values()] == [2, 3, 4]
        for connection in pool.open.values():
            pool.selector.unregister(connection.sock)
    pool.selector.close()


def test_who_leaves_many_answers_unread_throws_out_nobody_elses() -> None:
    """The oldest of all went first: who asked for many ended the answers that others were still reading."""
    pool = ConnectionTable(memoryview(bytearray(64)).cast("d"), 60, 1000, max_buffered=3_000_000)
    with ExitStack() as stack:
        for number, peer in enumerate(("10.0.0.1", *["10.0.0.2"] * 5)):
            ours, _ = map(stack.enter_context, socket.socketpair())
            pool.add(ours, peer)
            pool.open[ours.fileno()].out = bytes(1_000_000)
            pool.open[ours.fileno()].since = float(number)
        pool.limit_unsent()
        assert [connection.since for connection in pool.open.values()] == [0, 4, 5]
        for connection in pool.open.values():
            pool.selector.unregister(connection.sock)
    pool.selector.close()


HALF_BODY = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 50000\r\n\r\n"


def test_half_sent_bodies_of_one_address_keep_nobody_out(tmp_path: Path) -> None:
    settings = json.dumps({"port": 0, "workers": 1, "max_connections": 24})
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server, ExitStack() as stack:
        for _ in range(40):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 9))
            sock.sendall(HALF_BODY)
        begun = time.monotonic()
        assert requests.get(server.url + "/healthz", timeout=20).status_code == 200
        assert time.monotonic() - begun < 5  # at the uploads' deadline, after 10 s, it would be no feat


@pytest.mark.parametrize(("named", "asks"), [("*", "127.0.0.1"), ("127.0.0.1", "1.2.3.4")])
def test_limits_by_address_go_by_the_word_of_named_proxies_only(named: str, asks: str) -> None:
    """Of a half-sent body each: whoever may say anything has one address, and a named proxy as many as it says."""
    proxies = TrustedProxies([named])
    pool = ConnectionTable(memoryview(bytearray(64)).cast("d"), 60, 1000, proxies, share=2)
    with ExitStack() as stack:
        for number in range(5):
            ours, _ = map(stack.enter_context, socket.socketpair())
            pool.add(ours, "127.0.0.1")
            connection = pool.open[ours.fileno()]
            connection.begin(number + 1.0, 60)
            connection.buffer += HALF_BODY.replace(b"Host: a", b"Host: a\r\nX-Forwarded-For: 1.2.3.%d" % number)
            connection.head_arrived()
        assert len(pool.held()) == (5 if asks == "1.2.3.4" else 1)
        assert {connection.address for connection in pool.open.values()} == {f"1.2.3.{n}" for n in range(5)}
        for connection in pool.open.values():
            pool.selector.unregister(connection.sock)
    pool.selector.close()


def test_inference_does_not_repeat_a_long_id(tmp_path: Path) -> None:
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log") as server:
        url = f"{server.url}/v2/models/colours/infer"
        nested = "[" * 900 + "]" * 900
        for given in (f'"{"a" * 1_001}"', nested, '{"a": 1}'):
            answer = requests.post(url, data=f'{{"id": {given}, "inputs": []}}', timeout=20)
            assert answer.status_code == 400 and "its id" in answer.json()["error"]
        wrong = f'{{"inputs": [{{"name": {nested}, "datatype": {nested}, "shape": [1]}}]}}'
        assert requests.post(url, data=wrong, timeout=20).status_code == 400


def test_request_to_explain_keeps_the_maps_of_the_answered_classes_alone(tmp_path: Path) -> None:
    """Those of 20,000 classes are 4 MB a picture, until all of a request are computed."""
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    pictures = list(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8))
    context = RequestContext("predict", time.monotonic() + 60)
    rows = Classifier(predictor, Settings()).compute(pictures, BatchKey(predictor, True), context)
    held = {id(row.cam.base): row.cam.base.nbytes for row in rows if row.cam is not None and row.cam.base is not None}
    assert sum(held.values()) == 8 * 2 * 2 * 4
    assert [found.explanation for found in interpret(predictor, rows, 1)] == [
        found.explanation for found in predictor.predict(pictures, explain=True)
    ]


def test_numbers_of_maps_in_an_answer_are_counted(tmp_path: Path) -> None:
    """Maps of 64 x 64 for 128 pictures are half a million numbers."""
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    assert predictor.map_size == 2 * 2
    predictor.map_size = 64 * 64
    client = create_app(predictor).test_client()
    for count, status in ((31, 200), (32, 400)):
        files = [(io.BytesIO(picture()), "a.png") for _ in range(count)]
        answer = client.post("/predict?explain=1", data={"file": files})
        assert (answer.status_code, "131,072" in answer.text) == (status, status == 400)


@pytest.mark.parametrize("path", ["/predict?top=20000", "/v2/models/colours/infer"])
def test_answer_lists_so_many_classes_of_all_its_pictures(tmp_path: Path, path: str) -> None:
    """Of 20,000 classes those of a request of 9 KB took 1.3 GiB and eight seconds."""
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    predictor.manifest = replace(predictor.manifest, classes=tuple(map(str, range(20_000))))
    entry = {"name": "images", "datatype": "UINT8", "shape": [7, 32, 32, 3], "data": [0] * (7 * 32 * 32 * 3)}
    files = {"data": {"file": [(io.BytesIO(picture()), "a.png") for _ in range(7)]}}
    body = files if "predict" in path else {"json": {"inputs": [entry]}}
    answer = create_app(predictor).test_client().post(path, **body)
    assert answer.status_code == 400 and "131,072" in answer.text


def test_long_names_of_classes_count_several_times(tmp_path: Path) -> None:
    """2,000 names of 1,000 letters of four bytes each, for 63 pictures, were an answer of half a gigabyte."""
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    names = tuple(f"{place:04d}" + "🐸" * 996 for place in range(2_000))
    predictor.manifest = replace(predictor.manifest, classes=names)
    files = [(io.BytesIO(picture()), "a.png") for _ in range(7)]
    answer = create_app(predictor).test_client().post("/predict?top=2000", data={"file": files})
    assert answer.status_code == 400 and "131,072" in answer.text
    predictor.manifest = replace(predictor.manifest, classes=tuple(name[:90] for name in names))
    assert listed([Part("a.png", b"")] * 7, Query.parse("top=2000"), predictor) == 7 * 2_000


def test_a_jpeg_one_pixel_wide_counts_as_what_is_decoded_of_it() -> None:
    """Its units of 8 to 32 pixels a side are decoded whole, at each of its scans."""
    file = io.BytesIO()
    Image.new("RGB", (1, 65_500)).save(file, "JPEG", progressive=True)
    counted: list[int] = []

    def lock(pixels: int) -> AbstractContextManager[None]:
        counted.append(pixels)
        return nullcontext()

    images.decode(file.getvalue(), 32, lock=lock)
    assert counted[-1] >= 32 * 65_500


def test_after_a_document_that_took_long_others_have_as_long_for_themselves() -> None:
    """A quarter of a million lists come in 1 kB of gzip, and no other thread runs while they are read and let go."""
    with in_turn():
        time.sleep(0.2)
    begun = time.monotonic()
    for least in (0.15, 0.0):
        with in_turn():
            assert least <= time.monotonic() - begun < least + 0.15
        begun = time.monotonic()


def test_two_reloads_at_once_replace_every_worker(tmp_path: Path) -> None:
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log") as server:
        wait_until(lambda: server.get("/readyz").json()["workers"] == 2)
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 4)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) == 2 and not before & set(server.workers()), 30)


def test_many_unknown_names_are_refused_before_any_is_compared(tmp_path: Path) -> None:
    """They are anagrams of a known one, whose likeness takes longest to rule out."""
    names = ["rorre_no" + "".join(ends) for ends in itertools.product("0123456789abcdefghijk", repeat=3)]
    begun = time.process_time()
    body = json.dumps({"images": [], **dict.fromkeys(names, 0)}).encode()
    with pytest.raises(RequestError, match="unknown fields are over the limit") as caught:
        read_upload("application/json", body, Settings())
    assert caught.value.status == 400
    recipe = tmp_path / "r.toml"
    recipe.write_text("\n".join(f"{name}=1" for name in names[:1_000]))
    with pytest.raises(RecipeError, match="1,000 unknown keys"):
        load_recipe(recipe)
    assert time.process_time() - begun < SOON
    with pytest.raises(RequestError, match="Did you mean 'on_error'"):
        read_upload("application/json", b'{"images": [], "onerror": 0}', Settings())


DOTS = MAX_BYTES // 4 - 3
BENEATH = ".".join(["epochs", *["a"] * 90])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("epochs = " + "[" * 15_000, "not valid TOML"),
        ("a = 1\n" + "#" * MAX_BYTES, "over the limit of 16,384"),
        ("a" + ".a" * DOTS + "=1", "over 100 dots in a line"),
        ("'a'" + ".'a'" * DOTS + "=1", "over 100 dots in a line"),
        ("[a" + ".a" * DOTS + "]", "over 100 dots in a line"),
        ("b={a" + ".a" * DOTS + "=1}", "over 100 dots in a line"),
        (f"[{BENEATH}]\n" + "".join(f"{'a.' * 50}b{number}=1\n" for number in range(140)), "a whole number"),
        ("epochs = " + ("[\n{a" + ".a" * 99 + "=") * 12 + "1" + "}]" * 12, "a whole number, not "),
    ],
    ids=["deep", "long", "key", "quoted", "header", "inline", "beneath", "nested"],
)
def test_recipe_that_is_none_is_refused_in_a_sentence(tmp_path: Path, text: str, why: str) -> None:
    """A key of 40 KB of dots took 1.5 GiB and five seconds; tables within each other ended in a traceback."""
    path = tmp_path / "r.toml"
    path.write_text(text)
    begun = time.process_time()
    with pytest.raises(RecipeError, match=why):
        load_recipe(path)
    assert time.process_time() - begun < SOON
    tracemalloc.start()
    try:
        with pytest.raises(RecipeError):
            load_recipe(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_recipe_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    os.mkfifo(path)
    with pytest.raises(RecipeError, match="it is no file"):
        load_recipe(path)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    path = write_model(tmp_path_factory.mktemp("model") / "colours.onnx")
    return create_app(Predictor.load(path), Settings())


@pytest.mark.parametrize("date", ["1 Jan 99999999999 00:00:00 GMT", "1 Jan 2020 00:00:00 +99999999999999999999"])
def test_dates_in_headers_of_pages_are_not_read(app: Flask, date: str) -> None:
    client = app.test_client()
    given = {"If-Modified-Since": date, "Accept-Encoding": "gzip"}
    page = client.get("/page/style.css", headers=given)
    assert (page.status_code, page.headers["Content-Encoding"]) == (200, "gzip")
    assert client.get("/page/style.css", headers={**given, "If-None-Match": page.headers["ETag"]}).status_code == 304


def test_headers_of_pages_are_looked_at_in_part(app: Flask) -> None:
    environ = EnvironBuilder("/page/style.css").get_environ()
    environ |= {"HTTP_ACCEPT_ENCODING": "a;q=1," * 100_000, "HTTP_IF_NONE_MATCH": '"a",' * 100_000}
    begun = time.process_time()
    assert Response.from_app(app, environ).status_code == 200
    assert time.process_time() - begun < SOON


def test_headers_of_blanks_are_read_at_once_by_the_lowest_werkzeug_too() -> None:
    begun = time.process_time()
    parse_etags("x" + " " * 15_900 + "x")
    assert time.process_time() - begun < SOON / 2
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "werkzeug>=3.1.9" in project["dependencies"]  # 3.1.8 takes their square


def test_prefix_of_a_proxy_may_have_any_letters(app: Flask) -> None:
    raw = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\nX-Forwarded-Prefix: /%E2%82%AC\r\n\r\n"
    head = parse_head(raw, len(raw) - 2)
    TrustedProxies(["10.0.0.1"]).apply(head, "10.0.0.1")
    answer = app.test_client().get("/openapi.json", environ_overrides={"SCRIPT_NAME": head.prefix})
    assert (answer.status_code, answer.json["servers"]) == (200, [{"url": "/\u20ac"}])


def test_fault_that_comes_again_is_logged_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        for given in ({}, []):
            try:
                given[0]
            except Exception as error:
                assert request_error_of(error).status == 500
    assert [record.exc_info is None for record in caplog.records] == [False, False, True, True, True, True]


def test_damaged_headers_of_traces_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    request = RequestContext("predict", 0.0)
    for request.parent in ((parent, "\x9b2J"), (parent, "A=" + "b" * 9_000), ("0" * 600, "")):
        Tracer(trace.TracerProvider()).record(request, "POST", "/predict", 200, 0.0, 1.0)
    assert caplog.records == []


def test_long_state_of_a_trace_never_reaches_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.27 takes 0.1 s for 16 KB of blanks, in which all else waits."""
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    propagation = pytest.importorskip("opentelemetry.trace.propagation.tracecontext")
    seen, plain = [], propagation.TraceContextTextMapPropagator.extract

    def extract(self: object, carrier: dict[str, str], context: object) -> object:
        seen.append(len(carrier["tracestate"]))
        return plain(self, carrier, context)

    monkeypatch.setattr(propagation.TraceContextTextMapPropagator, "extract", extract)
    request = RequestContext("predict", 0.0)
    for state in ("a=" + "b" * 200, "a=b" + " " * 15_900 + "c"):
        request.parent = f"00-{'a' * 32}-{'b' * 16}-01", state
        Tracer(trace.TracerProvider()).record(request, "POST", "/predict", 401, 0.0, 1.0)
    assert seen == [202, 0]


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[socket.socket, TlsSocket, Path]]:
    """Yield the two ends of a connection, none of which has said anything, and the server's certificate."""
    certificate, key = make_certificate(tmp_path)
    client, server = socket.socketpair()
    client.setblocking(False)
    server.setblocking(False)
    with client, contextlib.closing(TlsSocket(server, context_of(certificate, key))) as sock:
        yield client, sock, certificate


def test_tls_records_without_data_end_a_connection(tls: tuple[socket.socket, TlsSocket, Path]) -> None:
    """OpenSSL reads on while nothing else comes: requests for new keys, or here pieces of a long first message."""
    client, sock, _ = tls
    hello = b"\1\1\xff\0" + bytes(7_000)
    client.send(b"".join(b"\x16\3\1\0\1%c" % byte for byte in hello))
    with pytest.raises(ConnectionResetError):
        sock.recv_into(memoryview(bytearray(2**18)), 2**18)


def test_all_tls_records_that_are_received_are_read(tls: tuple[socket.socket, TlsSocket, Path]) -> None:
    """What waited in OpenSSL's memory would be reported by no selector."""
    client, sock, certificate = tls
    buffer, received, sent = memoryview(bytearray(2**18)), ssl.MemoryBIO(), ssl.MemoryBIO()
    speaks = ssl.create_default_context(cafile=certificate).wrap_bio(received, sent, server_hostname="localhost")
    for _ in range(3):
        with contextlib.suppress(ssl.SSLWantReadError):
            speaks.do_handshake()
        client.send(sent.read())
        with contextlib.suppress(BlockingIOError):
            sock.recv_into(buffer, 2**18)
        with contextlib.suppress(BlockingIOError):
            received.write(client.recv(2**16))
    for _ in range(2_000):
        speaks.write(b"x")
    client.send(sent.read())
    assert sock.recv_into(buffer, 2**18) == 2_000
    assert sock.send(memoryview(b"answer")) == 6
    received.write(client.recv(2**16))
    assert speaks.read() == b"answer"
