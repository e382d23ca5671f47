"""Reading a body takes time by its length, in calls that let other threads run, and ends at the deadline."""

import contextlib
import gzip
import json
import os
import signal
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_from_bytes
from wsgiref.simple_server import make_server

import pytest
from flask import Flask
from hypothesis import example, given
from hypothesis import strategies as st
from server_kit import picture, serving, write_model

from pupila._arguments import whole_number
from pupila.images.limits import WINDOW, find_marker
from pupila.images.strip import strip
from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api import body as bodies
from pupila.server.api.errors import DeadlineError, RequestError
from pupila.server.api.multipart import read_upload
from pupila.server.api.other_protocols import flat, read_body

EMPTY_BLOCK = bytes.fromhex("04c0810800000000207feb47001c880000000000f2b77e")
"""Of deflate: with tables of codes, and nothing in it."""
FORM = "multipart/form-data; boundary="
MIB = 2**20


def longest_wait(work: Callable[[], object]) -> float:
    """Return for how many seconds at most no other thread ran meanwhile."""
    waits, ended = [0.0], threading.Event()

    def look() -> None:
        last = time.monotonic()
        while not ended.is_set():
            time.sleep(0.001)
            waits.append(time.monotonic() - last)
            last = time.monotonic()

    thread = threading.Thread(target=look)
    thread.start()
    work()
    ended.set()
    thread.join()
    return max(waits)


def test_blocks_that_hold_nothing_are_not_inflated_to_their_end() -> None:
    """Eight mebibytes of them took a second, 64 eight: two threads inflate for all clients."""
    body = EMPTY_BLOCK * (16 * MIB // len(EMPTY_BLOCK)) + b"\x03\x00"
    begun = time.thread_time()
    with pytest.raises(RequestError, match="it takes too long for what it holds") as caught:
        bodies.decoded({"HTTP_CONTENT_ENCODING": "deflate"}, body, 64 * MIB)
    assert caught.value.code == "content_encoding_malformed"
    assert time.thread_time() - begun < 0.5


def test_nothing_is_inflated_or_searched_beyond_the_deadline() -> None:
    with bodies.until(time.monotonic() - 1), pytest.raises(DeadlineError):
        bodies.decoded({"HTTP_CONTENT_ENCODING": "deflate"}, EMPTY_BLOCK + b"\x03\x00", MIB)
    with bodies.until(time.monotonic() - 1), pytest.raises(DeadlineError):
        bodies.from_base64("QUJD")
    with bodies.until(time.monotonic() - 1), pytest.raises(DeadlineError):
        read_upload(FORM + "XX", b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n--XX--', Settings())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", b'{"images": ["?"]}'),
        ("/v2/models/colours/infer", zlib.compress(b'{"inputs": 1}')),
        ("/feedback", zlib.compress(b"{}")),
    ],
)
def test_no_other_server_reads_a_body_beyond_the_deadline(tmp_path: Path, path: str, body: bytes) -> None:
    """Only threads of Pupila's own transport knew it: under others a form of 336 kB was read for 34 s."""
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    app = create_app(predictor, Settings(request_timeout=0.5, feedback_dir=tmp_path / "kept"))
    coding = "identity" if body[:1] == b"{" else "deflate"
    headers = f"Content-Type: application/json\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}"
    with make_server("127.0.0.1", 0, app) as server, socket.create_connection(server.server_address) as client:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n\r\n".encode() + body[:3])
        time.sleep(1)
        client.sendall(body[3:])
        client.settimeout(10)
        assert client.recv(12) == b"HTTP/1.0 504"
        thread.join()


@pytest.mark.parametrize("letters", [b"A\n" * MIB + b"-" * 17 * MIB, b"AAA-" * 4 * MIB, b"%2B%2F\\/" * (MIB // 4)])
def test_a_data_url_is_read_in_little_time(letters: bytes) -> None:
    """Each of thirty signs was looked for in all of it: 60 MiB in a form took over two seconds."""
    text = "data:;base64," + letters.decode()
    begun = time.thread_time()
    assert bodies.from_base64(text)
    assert time.thread_time() - begun < 0.6


def test_data_urls_of_a_form_have_a_limit_together() -> None:
    """A form of 654 kB, compressed, took one of the two threads for large requests 1.3 s for each 60 MiB of them."""
    piece = b"data:image/png;base64," + b"AAAAAAAAAAAAAA " * (4 * MIB // 15 - 2)
    part = b'--XX\r\nContent-Disposition: form-data; name="file"%b\r\n\r\n' + piece + b"\r\n"
    begun = time.thread_time()
    assert len(read_upload(FORM + "XX", part % b"" * 2 + b"--XX--", Settings()).parts) == 2
    with pytest.raises(RequestError, match=r"data: URLs of a form are over the limit of 8,388,608 bytes") as caught:
        read_upload(FORM + "XX", part % b"" * 15 + b"--XX--", Settings())
    assert caught.value.status == 413
    assert time.thread_time() - begun < 0.7
    files = read_upload(FORM + "XX", part % b"; filename=a" * 15 + b"--XX--", Settings()).parts
    assert {file.data for file in files} == {piece}


@pytest.mark.parametrize("letters", ["%", "%41", "%4", "=%41"])
def test_percent_signs_take_no_longer_than_other_letters(letters: str) -> None:
    """Python's own reader takes 0.5 us for each: 500 kB kept the compute thread for 0.25 s, 32 MiB took 16 s."""
    data = (letters * 2**18)[: 2**18 // 12 * 12]
    head = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\ndata:image/gif,'
    form = b"".join(head + data.encode() + b"\r\n" for _ in range(128)) + b"--XX--"
    begun = time.thread_time()
    with contextlib.suppress(RequestError):
        read_upload(FORM + "XX", form, Settings())
    with contextlib.suppress(RequestError):
        read_upload("application/json", json.dumps({"images": [f"data:image/gif,{data}"] * 126}).encode(), Settings())
    assert time.thread_time() - begun < 4


@example(b"%", b"")
@given(st.binary(max_size=40), st.binary(max_size=20).map(lambda safe: safe.replace(b"%", b"")))
def test_percent_encoded_data_url_is_read_as_it_was_written(data: bytes, safe: bytes) -> None:
    written = quote_from_bytes(data, safe)
    assert bodies.from_base64(f"data:image/gif,{written}") == data
    if "%" in written:
        with pytest.raises(bodies.Base64Error, match="is not followed by two hexadecimal digits"):
            bodies.from_base64(f"data:image/gif,{written.replace('%', '%%', 1)}")


def test_pause_after_a_document_is_short_however_long_that_took() -> None:
    """What kept one waiting for ten seconds kept it waiting for twenty."""
    with bodies.in_turn():
        time.sleep(2 * bodies.MAX_PAUSE)
    begun = time.monotonic()
    with bodies.in_turn():
        assert 0.8 * bodies.MAX_PAUSE < time.monotonic() - begun < 1.5 * bodies.MAX_PAUSE


def test_padding_without_end_is_no_base64() -> None:
    """Python took 0.3 s to take 32 MiB of it off, in one call."""
    text = "A-" + "=" * 32 * MIB

    def read() -> None:
        with pytest.raises(bodies.Base64Error, match="The character '=' is not of base64"):
            bodies.from_base64(text)

    assert bodies.from_base64("QQ-_=======") == bodies.from_base64("QQ+/")
    assert longest_wait(read) < 0.25


def test_boundary_is_searched_for_while_other_threads_run() -> None:
    """It was one call for the whole body, of 0.35 s."""
    boundary = b"a" * 35 + b"b" + b"a" * 34
    head = b"--%b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n" % boundary
    body = head + b"\r\n--" + b"a" * 60 * MIB + b"\r\n--%b--" % boundary
    settings = Settings(max_part_bytes=64 * MIB)
    assert longest_wait(lambda: read_upload(FORM + boundary.decode(), body, settings)) < 0.2


@pytest.mark.parametrize("letters", ["A" * 32, "A" * 18 + "%2B", "A" * 30 + "\\/", "\t" + "A" * 31])
def test_base64_is_decoded_while_other_threads_run(letters: str) -> None:
    """Decoding was one call of 0.15 s for 32 MiB, replacing each escape another of 0.07 s."""
    text = letters * (30 * MIB // len(letters))
    assert min(longest_wait(lambda: bodies.from_base64(text)) for _ in range(3)) < 0.1


def test_zeros_behind_a_body_are_passed_over_while_other_threads_run() -> None:
    body = gzip.compress(b"") + bytes(192 * MIB)
    assert bodies.inflate(body, bodies.WINDOW["gzip"], MIB) == b""
    assert min(longest_wait(lambda: bodies.inflate(body, bodies.WINDOW["gzip"], MIB)) for _ in range(3)) < 0.1


def test_scan_of_a_picture_is_searched_while_other_threads_run() -> None:
    """One call looked for its end in all of it: 32 MiB of 0xFF took 0.35 s."""
    data = picture("red", "JPEG")
    data = data[:-2] + b"\xff" * (32 * MIB) + data[-2:]
    assert min(longest_wait(lambda: strip(data)) for _ in range(3)) < 0.1


@pytest.mark.parametrize("place", range(WINDOW - 3, WINDOW + 3))
def test_marker_is_found_wherever_a_window_ends(place: int) -> None:
    assert find_marker(b"\0" * 5 + b"\xff" * place + b"\xd9" + bytes(WINDOW), 5) == 4 + place
    assert find_marker(b"\xff" * place + b"\0", 0) == -1


def test_binary_tensor_is_copied_once() -> None:
    """All of it was copied before it was cut into files: 60 MiB took 120 more."""
    head = b'{"inputs": [{"name": "files", "datatype": "BYTES", "shape": [2]}]}'
    body = head + (struct.pack("<I", 10 * MIB) + bytes(10 * MIB)) * 2
    with Flask("here").test_request_context(headers={"Inference-Header-Content-Length": str(len(head))}):
        tracemalloc.start()
        try:
            _, (_, files) = read_body(body, 2)
            assert tracemalloc.get_traced_memory()[1] < 21 * MIB
        finally:
            tracemalloc.stop()
    assert files == [bytes(10 * MIB)] * 2


def test_pixels_do_not_keep_the_body_that_they_came_in() -> None:
    """They were a view of it: 96 kB, compressed, held 8 MiB that no reservation knew of while the request waited."""
    head = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3]}]}'.ljust(8 * MIB)
    with Flask("here").test_request_context(headers={"Inference-Header-Content-Length": str(len(head))}):
        tracemalloc.start()
        try:
            _, (_, pixels) = read_body(head + bytes(3072), 1)
            assert len(pixels) == 1 and tracemalloc.get_traced_memory()[0] < MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("within", ["%b", "[%b]", "[0, %b]", "[[0], [%b]]"])
def test_text_in_place_of_numbers_is_refused_without_writing_it_out(within: str) -> None:
    """NumPy's error held all of it, in its own words: one call of 0.45 s and 224 MB for 32 MiB."""
    head = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [2], "data": '
    body = head + within.encode() % (b'"' + b"\x7f" * 31 * MIB + b'"') + b"}]}"

    def read() -> None:
        with Flask("here").test_request_context(), pytest.raises(RequestError, match="is not a list of numbers"):
            read_body(body, 2)

    tracemalloc.start()
    try:
        assert longest_wait(read) < 0.2
        assert tracemalloc.get_traced_memory()[1] < 70 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("data", "numbers"), [([[1, 2.0]], [1, 2]), ([1, True], [1, 1]), ([[[3], [4]]], [3, 4])])
def test_numbers_are_read_however_their_lists_are_nested(data: list[object], numbers: list[int]) -> None:
    assert flat(data) == numbers


@pytest.mark.parametrize(
    "data", ["12", ["1", "2"], 12, None, {}, {"1": 2}, [[1], [2, 3]], [[1], 2], [1, [2]], [None, 1]]
)
def test_what_is_no_list_of_numbers_is_refused(data: object) -> None:
    """Texts of digits counted as numbers."""
    with pytest.raises(RequestError, match="is not a list of numbers"):
        flat(data)


def test_a_million_numbers_are_looked_at_in_little_time() -> None:
    deep: list[object] = [0]
    for _ in range(900):
        deep = [deep]
    assert flat(deep) == [0]
    begun = time.thread_time()
    assert len(flat([[[1, 2, 3]] * 1_000] * 300)) == 900_000
    assert time.thread_time() - begun < 0.3


@pytest.mark.parametrize("text", ["data:image/png;base64,QUI\u00e9", "data:image/gif,GIF\u00e9"])
def test_data_url_of_letters_beyond_ascii_is_refused_in_our_words(text: str) -> None:
    """It was Python's own sentence, of its codec and of a range."""
    part = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + text.encode() + b"\r\n--XX--"
    with pytest.raises(RequestError, match=r"is not of base64 there|has letters beyond ASCII") as caught:
        read_upload(FORM + "XX", part, Settings())
    assert caught.value.code == "base64_malformed" and "codec" not in str(caught.value)


def test_parameters_of_a_part_are_read_up_to_a_few() -> None:
    """Two thousand in each of 63 parts, 500 kB together, kept the compute thread for 0.07 s."""
    head = b'--XX\r\nContent-Disposition: form-data; name="file"; filename=a' + b";a=b" * 2_000
    body = b"".join(head + b"\r\n\r\nx\r\n" for _ in range(63)) + b"--XX--\r\n"
    begun = time.thread_time()
    assert len(read_upload(FORM + "XX", body, Settings()).parts) == 63
    assert time.thread_time() - begun < 0.03


def test_lines_that_begin_as_the_boundary_have_a_limit_in_a_form() -> None:
    """It was one of each part: 545 kB in 63 of them kept the compute thread for 0.1 s."""
    part = b'--a\r\nContent-Disposition: form-data; name="file"; filename=a\r\n\r\n%b\r\n'
    assert len(read_upload(FORM + "a", part % (b"\r\n--ax" * 900) + part % b"" + b"--a--", Settings()).parts) == 2
    begun = time.thread_time()
    with pytest.raises(RequestError, match="lines of its data begin as its boundary does"):
        read_upload(FORM + "a", part % (b"\r\n--ax" * 990) * 63 + b"--a--", Settings())
    assert time.thread_time() - begun < 0.02


def test_padding_behind_the_first_boundary_has_an_end() -> None:
    """It was searched in one call of 0.23 s for 64 MiB."""
    body = b"--XX" + b"\r" * 64 * MIB
    begun = time.thread_time()
    with pytest.raises(RequestError, match="part 0 has no end of its header"):
        read_upload(FORM + "XX", body, Settings())
    assert time.thread_time() - begun < 0.05
    part = b'--XX  \t\r\nContent-Disposition: form-data; name="file"; filename=a\r\n\r\na\r\n--XX--'
    assert read_upload(FORM + "XX", part, Settings()).parts[0].data == b"a"


def test_long_numbers_are_refused_by_their_length() -> None:
    """Each digit of the `top` of a JSON was looked at: 0.16 s for 32 MiB."""
    digits = "1" * 31 * MIB
    fields = read_upload("application/json", b'{"images": ["QQ=="], "top": "%b"}' % digits.encode(), Settings()).fields
    assert len(fields["top"]) == 100
    begun = time.thread_time()
    assert whole_number(digits) is None
    assert time.thread_time() - begun < 0.05


TOKENS = st.sampled_from(["QUJD", "A", "+/", "-_", "%2B", "%2f", "%0D%0a", "\\n", "\\/", "\n", "=", "é"])


@given(st.lists(TOKENS, max_size=12).map("".join))
def test_base64_is_read_alike_in_pieces(text: str) -> None:
    def outcome(piece: int) -> bytes | str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bodies, "PIECE", piece)
            try:
                return bodies.from_base64(text)
            except bodies.Base64Error as error:
                return str(error)

    assert outcome(8) == outcome(4) == outcome(MIB)


def test_document_in_utf_16_has_the_smaller_limit() -> None:
    """Its escapes look like ASCII, but not like pairs of \\u."""
    body = ('{"images": ["\\ud83d\\ude00", "' + "A" * (bodies.MAX_BYTES_BEYOND_ASCII // 2) + '"]}').encode("utf-16-le")
    with pytest.raises(RequestError, match="has letters beyond ASCII") as caught:
        bodies.parse(body, 10_000, "")
    assert caught.value.status == 413


@pytest.mark.alone
def test_half_sent_bodies_do_not_make_a_busy_worker_look_like_one_that_hangs(tmp_path: Path) -> None:
    """One that fell due while the worker was silent for 0.6 s had it killed: anybody can hold bodies by the dozen."""
    settings = '{"port": 0, "workers": 1, "request_timeout": 3}'
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        (worker,) = server.workers()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\n")
            time.sleep(2.6)
            os.kill(worker, signal.SIGSTOP)
            time.sleep(1.2)
            os.kill(worker, signal.SIGCONT)
            client.settimeout(10)
            assert client.recv(100).startswith(b"HTTP/1.1 408")
        assert server.workers() == [worker] and "no heartbeat" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("limit", [bodies.MAX_BYTES_BEYOND_ASCII, 500_000])
def test_half_surrogate_pairs_are_refused_at_the_first(encoding: str, limit: int) -> None:
    """Decoded one by one, eight megabytes of them kept all threads waiting for two seconds."""
    one = "\ud800".encode(encoding, "surrogatepass")
    body = '{"images": ["'.encode(encoding) + one * (limit // len(one) - 30) + '"]}'.encode(encoding)
    begun = time.process_time()
    with pytest.raises(ValueError, match=r"decode|surrogate"):
        bodies.parse(body, 10_000, "")
    assert time.process_time() - begun < 0.2


def test_byte_order_marks_and_written_half_pairs_are_read_as_before() -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-32", "utf-8"):
        assert bodies.parse('{"a": "\\ud800é"}'.encode(encoding), 10_000, "") == {"a": "\ud800é"}
