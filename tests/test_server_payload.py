"""The body parser: finds the pictures that are there, whatever surrounds them, and refuses the rest with a reason."""

import base64
import gc
import json
import threading
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pupila.server.api import body as bodies
from pupila.server.api.body import MAX_BYTES, MAX_BYTES_BEYOND_ASCII, MAX_DIGITS, count
from pupila.server.api.errors import BadPart, RequestError
from pupila.server.api.multipart import Part, read_upload
from pupila.server.settings import Settings

SMALL = Settings(max_parts=4, max_part_bytes=1000, max_body_bytes=10_000)
FORM = "multipart/form-data; boundary=XX"


def read_pictures(content_type: str, body: bytes, settings: Settings) -> list[Part]:
    return read_upload(content_type, body, settings).parts


def form(*parts: tuple[str, bytes], boundary: bytes = b"XX") -> bytes:
    """Write a multipart body."""
    pieces = [
        b"--" + boundary + b"\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    ]
    return b"".join(pieces) + b"--" + boundary + b"--\r\n"


def refusal(content_type: str, body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_pictures(content_type, body, SMALL)
    return caught.value


def test_parts_come_in_order_with_their_names() -> None:
    body = form(('name="file"; filename="a.jpg"', b"one"), ('name="file"; filename="b.jpg"', b"two"))
    assert read_pictures(FORM, body, SMALL) == [Part("a.jpg", b"one"), Part("b.jpg", b"two")]


def test_parts_of_other_names_are_passed_over() -> None:
    body = form(('name="note"', b"hello"), ('name="file"', b"one"))
    assert read_pictures(FORM, body, SMALL) == [Part("", b"one")]


def test_quoted_boundary_preamble_epilogue_and_padding_are_read() -> None:
    body = b"preamble\r\n--XX \t\r\n" + form(('name="file"', b"one"))[6:] + b"epilogue"
    assert read_pictures('multipart/form-data; charset=utf-8; boundary="XX"', body, SMALL) == [Part("", b"one")]


def test_boundary_inside_the_data_is_data() -> None:
    data = b"\r\n--XXY and --XX and \r\n--X"
    assert read_pictures(FORM, form(('name="file"', data)), SMALL) == [Part("", data)]


def test_file_name_is_not_mistaken_for_the_field_name() -> None:
    body = form(('filename="x; name=other"; name="file"', b"one"))
    assert read_pictures(FORM, body, SMALL) == [Part("x; name=other", b"one")]


def test_encoded_file_name_is_decoded() -> None:
    body = form(("name=\"file\"; filename*=UTF-8''%C3%A3o.jpg", b"one"))
    assert read_pictures(FORM, body, SMALL) == [Part("ão.jpg", b"one")]


def test_empty_part_is_kept_for_the_decoder_to_name() -> None:
    assert read_pictures(FORM, form(('name="file"', b"")), SMALL) == [Part("", b"")]


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        (FORM, b"", 400, "multipart_malformed"),
        (FORM, form(('name="file"', b"x"), boundary=b"YY"), 400, "multipart_malformed"),
        (FORM, form(('name="file"', b"x"))[:-8], 400, "multipart_malformed"),
        (FORM, b"--XX\r\n" + b"a" * 9000, 400, "multipart_malformed"),
        ("multipart/form-data", form(('name="file"', b"x")), 400, "multipart_malformed"),
        ("multipart/form-data; boundary=" + "x" * 80, b"", 400, "multipart_malformed"),
        (FORM, b"--XX--\r\n", 400, "no_picture"),
        (FORM, form(('name="image"', b"x")), 400, "no_picture"),
        (FORM, form(*[('name="file"', b"x")] * 5), 413, "too_many_parts"),
        (FORM, form(*[('name="other"', b"x")] * 5), 413, "too_many_parts"),
        (FORM, form(('name="file"', b"x" * 1001)), 413, "image_too_many_bytes"),
        ("image/png", b"", 400, "no_picture"),
        ("text/plain", b"hello", 415, "content_type_unsupported"),
        ("application/json", b"{", 400, "json_malformed"),
        ("application/json", b"[" * 9_999, 400, "json_malformed"),
        ("application/json", b"[" * 100_000, 413, "json_too_many_values"),
        ("application/json", b"\xff\xfe", 400, "json_malformed"),
        ("application/json", b'{"pictures": []}', 400, "json_malformed"),
        ("application/json", b'{"images": "abc"}', 400, "json_malformed"),
        ("application/json", b'{"images": []}', 400, "no_picture"),
        ("application/json", b'{"images": ["!!"]}', 400, "base64_malformed"),
        ("application/json", b'{"images": [7]}', 400, "base64_malformed"),
        ("application/json", b'{"images": ["","","","",""]}', 413, "too_many_parts"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(content_type: str, body: bytes, status: int, code: str) -> None:
    error = refusal(content_type, body)
    assert (error.status, error.code) == (status, code)


def test_refusal_of_a_wrong_name_shows_the_names_that_were_sent() -> None:
    assert "'image'" in str(refusal(FORM, form(('name="image"', b"x"))))


def test_too_big_part_is_named() -> None:
    body = form(('name="file"; filename="ok.png"', b"x"), ('name="file"; filename="big.png"', b"x" * 1001))
    assert [(part.index, part.filename) for part in refusal(FORM, body).parts] == [(1, "big.png")]


def test_raw_body_is_one_picture() -> None:
    assert read_pictures("image/webp", b"raw", SMALL) == [Part("", b"raw")]
    assert read_pictures("application/octet-stream", b"raw", SMALL) == [Part("", b"raw")]


def test_json_takes_base64_and_data_urls() -> None:
    text = base64.b64encode(b"one").decode()
    body = json.dumps({"images": [text, "data:image/png;base64," + text]}).encode()
    assert read_pictures("application/json; charset=utf-8", body, SMALL) == [Part("", b"one")] * 2


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_bytes_come_back_as_they_were_sent(contents: list[bytes]) -> None:
    boundary = b"a-boundary-that-random-bytes-will-not-hold"
    body = form(*[('name="file"; filename="a"', data) for data in contents], boundary=boundary)
    parts = read_pictures(f"multipart/form-data; boundary={boundary.decode()}", body, SMALL)
    assert [part.data for part in parts] == contents  # of a part without a file's name a data: URL is decoded


@given(st.binary(max_size=300), st.sampled_from([FORM, "application/json", "image/png", ""]))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_parser_fail_otherwise_than_by_refusing(body: bytes, content_type: str) -> None:
    try:
        assert read_pictures(content_type, body, SMALL)
    except RequestError as error:
        assert 400 <= error.status < 500


def test_reasons_are_counted_where_they_differ() -> None:
    bad = [
        BadPart(0, "a.png", "image_empty", "It is empty."),
        BadPart(2, "b.png", "image_truncated", "It is cut off."),
        BadPart(5, "", "image_empty", "It is empty."),
    ]
    error = RequestError.of_parts(bad, 6)
    assert (error.status, error.code) == (400, "images_rejected")
    assert str(error) == (
        "3 of 6 pictures cannot be used: part 0 (a.png), part 2 (b.png), part 5. "
        "2 of them: It is empty. 1 of them: It is cut off."
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"images":[' + b"{}," * 1_000_000 + b"{}]}", "json_too_many_values"),
        (b'{"images":["' + b"A" * MAX_BYTES + b'"]}', "body_too_large"),
        (b'{"images":["' + b"A" * MAX_BYTES_BEYOND_ASCII + '"], "name": "é"}'.encode(), "body_too_large"),
        (b'{"images":["' + b"A" * MAX_BYTES_BEYOND_ASCII + rb'"], "name": "\uD83d\ude00"}', "body_too_large"),
    ],
)
def test_json_that_would_take_much_memory_is_refused_before_it_is_parsed(body: bytes, code: str) -> None:
    tracemalloc.start()
    try:
        error = refusal("application/json", body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (error.status, error.code) == (413, code)
    assert peak < 100_000


V2, PREDICT = 1_000_000, 10_000


def worst_of_v2() -> bytes:
    """Return a document that is near each limit of /v2 at once, and holds no number."""
    nested, names = b"[" * 900 + b"]" * 900, b",".join(b'"%d":null' % number for number in range(19_900))
    long = b"a\\n" * 1_490_000
    text = long + b"a" * (MAX_BYTES - len(long) - 5_000_000)
    return b'["%s",{%s},%s%s]' % (text, names, (nested + b",") * 270, b"null," * 730_000 + b"null")


def worst_of_predict() -> bytes:
    """Return a document that is near each limit of /predict at once."""
    return b"{%s}" % b",".join(b'"%d":"%s"' % (n, b"a\\n" * 149 + b"a" * 2_800) for n in range(9_990))


@pytest.mark.parametrize(("make", "most"), [(worst_of_v2, V2), (worst_of_predict, PREDICT)])
def test_json_that_is_accepted_is_read_in_a_moment(make: Callable[[], bytes], most: int) -> None:
    body = make()
    start = time.thread_time()
    bodies.parse(body, most, "")
    assert time.thread_time() - start < 1.0  # 0.13 s and 0.10 s; a million names took 1.1 s, 7,800 long numbers 1.6 s


@pytest.mark.parametrize(
    "large",
    [
        b'["%s"]' % (b"A" * 2**23),
        b'["%s"]' % (b"\\n" * 300_000),
        b"[%s]" % (b"[]," * 200_000 + b"0"),
        b"[%s]" % (b"1," * 30_000 + b"1"),
    ],
    ids=len,
)
def test_large_documents_are_read_one_at_a_time_and_small_ones_do_not_wait_for_them(large: bytes) -> None:
    read: list[bytes] = []

    def other() -> None:
        bodies.parse(large, V2, "")
        read.append(large)

    thread = threading.Thread(target=other)
    with bodies.ONE_AT_A_TIME:
        thread.start()
        thread.join(0.5)
        assert bodies.parse(b'["small"]', V2, "") == ["small"]
        assert not read
    thread.join(60)
    assert read
    assert gc.isenabled()


def test_large_document_keeps_its_turn_until_it_has_been_worked_on() -> None:
    with bodies.parsed(b"[%s]" % (b"1," * 30_000 + b"1"), V2, "") as document:
        assert len(document) == 30_001 and bodies.ONE_AT_A_TIME.locked()
    assert not bodies.ONE_AT_A_TIME.locked()


@pytest.mark.parametrize("number", [b"1", b"0.12345678901234567e-300", b"7" * MAX_DIGITS], ids=len)
def test_other_threads_run_while_many_numbers_are_read(number: bytes) -> None:
    turns, done = [0.0], threading.Event()

    def other() -> None:
        while not done.wait(0.001):
            turns.append(time.perf_counter())

    thread = threading.Thread(target=other)
    thread.start()
    try:
        bodies.parse(b"[%s]" % b",".join([number] * 300_000), V2, "")
        seen = len(turns)
    finally:
        done.set()
        thread.join()
    assert seen > 5  # one or two where they waited for the whole document


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{%s}" % b",".join(b'"%d":0' % n for n in range(20_001)), "more than 40,000 quotation marks"),
        (b'["%s"]' % (b"\\n" * 1_500_001), "more than 1,500,000 backslashes"),
        (b"[%s]" % (b"{}," * 260_000 + b"{}"), "more than 260,000 lists and objects"),
        (b"[%s]" % (b"7" * 101), "A number of 101 characters is over the limit of 100"),
        (b"[-0.%s]" % (b"7" * 98), "A number of 101 characters is over the limit of 100"),
        (("[%s]" % ("7" * 4_300)).encode("utf-16"), "A number of 4,300 characters"),
    ],
    ids=["names", "escapes", "objects", "digits", "digits of a fraction", "digits in UTF-16"],
)
def test_json_that_would_take_long_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        bodies.parse(body, V2, "")


def test_json_with_every_slash_escaped_and_lines_wrapped_is_read_at_the_limit_of_a_picture() -> None:
    letters = 4 * Settings().max_part_bytes // 3
    body = b'["' + (b"A" * 62 + b"\\/" + b"A" * 13 + b"\\r\\n") * (letters // 76) + b'"]'
    assert len(bodies.from_base64(bodies.parse(body, PREDICT, "")[0])) == letters // 76 * 57


@pytest.mark.parametrize("sign", ["%2B", "A ", "\\/"])
def test_base64_that_is_hardly_any_is_refused(sign: str) -> None:
    with pytest.raises(bodies.Base64Error, match="blanks, percent signs or backslashes"):
        bodies.from_base64(sign * 1_500_001)


def test_the_character_that_is_not_of_base64_is_found_wherever_it_is() -> None:
    for at in (0, bodies.PIECE - 1, bodies.PIECE, 2 * bodies.PIECE + 5):
        with pytest.raises(bodies.Base64Error, match="character '!'"):
            bodies.from_base64("A" * at + "!AAA")


def test_a_parameter_that_is_a_list_in_json_is_named_as_that() -> None:
    body = json.dumps({"images": [""], "top": [[1, 2]]}).encode()
    assert read_upload("application/json", body, SMALL).fields == {"top": "a list of numbers (pixels)"}


def test_base64_may_have_blanks_anywhere_and_these_cost_no_memory() -> None:
    text = "\r\n".join(["QUJD"] * 50_000)
    tracemalloc.start()
    try:
        assert bodies.from_base64(text + "\t") == b"ABC" * 50_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(text)


@pytest.mark.parametrize("text", [b"", b",", b"a" * 5_000 + b",", b",a" * 999, b"a,," * 501, b"," * 3_000 + b"a"])
def test_signs_are_counted_whether_few_or_many(text: bytes) -> None:
    assert count(text, b",") == text.count(b",")
