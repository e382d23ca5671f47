"""Request bodies as clients write them: base64 in all its forms, compressed bodies, forgotten headers and signs."""

import base64
import contextlib
import gzip
import json
import random
import re
import shlex
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from server_kit import picture, write_model
from werkzeug.test import TestResponse

from pupila.predictor import Predictor
from pupila.server import Settings, create_app
from pupila.server.api import body as bodies
from pupila.server.api import multipart

PNG = picture("red")
TEXT = base64.b64encode(bytes(range(248, 256)) * 6 + PNG).decode()
"""Holds every letter of the alphabet that is written in another way: + and /."""
CONTENT = base64.b64decode(TEXT)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    path = write_model(tmp_path_factory.mktemp("model") / "colours.onnx")
    return create_app(Predictor.load(path), Settings(max_body_bytes=2**22)).test_client()


def said(response: TestResponse) -> tuple[int, str, str]:
    error = response.get_json()["error"]
    return response.status_code, error["code"], error["message"]


def ask(client: FlaskClient, body: bytes | str, kind: str | None = "application/json", **headers: str) -> TestResponse:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/predict", data=body, content_type=kind, headers=names)


def categories(response: TestResponse) -> list[str]:
    assert response.status_code == 200, response.text
    return [entry["category"] for entry in response.get_json()["predictions"]]


# Base64


def lines(text: str, end: str) -> str:
    return end.join(text[at : at + 76] for at in range(0, len(text), 76))


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("+", "-").replace("/", "_"),
        TEXT.rstrip("="),
        TEXT.replace("+", " "),
        TEXT.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
        lines(TEXT, "\n"),
        lines(TEXT, "\r\n") + "\r\n",
        lines(TEXT.replace("+", "-"), " "),
        lines(TEXT, "\\n"),
        TEXT.replace("/", "\\/"),
        f"b'{TEXT}'",
        f'"{TEXT}"',
        f"data:image/jpeg;base64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:image/jpeg;name=x.jpg;base64,{TEXT}",
        f"data:image/jpeg;name=f%C3%A9rias%202.jpg;charset=utf-8;base64,{TEXT}",
        f"DATA:IMAGE/JPEG;CHARSET=UTF-8;BASE64,{TEXT}",
        f"data:image/png;base64,{quote(TEXT, safe='')}",
        f" data:image/png; base64,\n{lines(TEXT, chr(10))}",
        f"image/png;base64,{TEXT}",
        f"data:image/jpeg;name=a,b.jpg;base64,{TEXT}",
        f'data:image/jpeg;name="a;b, c.jpg";base64,{TEXT}',
        f"data:image/jpeg;base64;name=x.jpg,{TEXT}",
        f"base64,{TEXT}",
        f"data:image/png,{quote(CONTENT)}",
        {"b64": TEXT},
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_way_to_write_base64_gives_the_same_bytes(text: Any) -> None:
    assert bodies.from_base64(text) == CONTENT


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("https://example.org/horse.jpg", "This is an address"),
        ("s3://bucket/horse.jpg", "This is an address"),
        ("fotos/horse.JPG", "This is the name of a file"),
        ("horse.ppm", "This is the name of a file"),
        ("horse.jpg?w=500", "This is the name of a file"),
        (True, "true or false"),
        (r"b'\xff\xd8\xff\xe0'", "how Python prints bytes"),
        ([[[255, 0, 0]]], "a list of numbers"),
        ({"image": TEXT}, 'an object with "image"'),
        (None, "null"),
        (5, "a number"),
        ("[object Object]", "This is '[object Object]', what a program writes in place of a value it lacks"),
        ("data:image/jpeg;base64,undefined", "This is 'undefined', what a program writes in place of a value it lacks"),
        ("None", "This is 'None', what a program writes in place of a value it lacks"),
        (PNG.hex(), "This is hexadecimal"),
        ("data:image/png;base64", "no comma"),
        ("nonsense, really", "not marked as base64"),
        ("QUJDé", "'é' is not of base64"),
        ("QUJ=QUJD", "'=' is not of base64"),
        (TEXT.rstrip("=")[:-3][: len(TEXT) // 4 * 4 - 7], "cut off"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_base64_is_named_for_what_it_is(client: FlaskClient, value: Any, reason: str) -> None:
    status, code, message = said(ask(client, json.dumps({"images": [value]})))
    assert (status, code) == (400, "base64_malformed")
    assert reason in message


@given(st.binary(min_size=1, max_size=300), st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_spaces_are_taken_for_what_they_are(data: bytes, quarter: int) -> None:
    text = base64.b64encode(data).decode()
    wrapped = " ".join(re.findall(f".{{1,{4 * quarter}}}", text))
    assert bodies.from_base64(wrapped) == data
    if text.count("+") % 4:
        assert bodies.from_base64(text.replace("+", " ")) == data


@given(st.text(max_size=100) | st.from_regex(r"(data:)?[a-z;=]{0,9}(;base64)?,?[A-Za-z0-9+/=_%' -]{0,40}"))
@settings(max_examples=200, deadline=None)
def test_no_text_makes_the_decoder_fail_otherwise_than_by_saying_so(text: str) -> None:
    try:
        bodies.from_base64(text)
    except bodies.Base64Error as error:
        assert str(error).endswith((".", ")"))


@pytest.mark.parametrize("piece", ["A ", "%2B", "%41", "A\n", "-", "\\n"])
def test_no_writing_of_base64_takes_many_times_its_memory(piece: str) -> None:
    text = "data:," + piece * 2**16 if piece == "%41" else piece * 2**20
    tracemalloc.start()
    try:
        with contextlib.suppress(bodies.Base64Error):
            bodies.from_base64(text)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text) + 2**24
    finally:
        tracemalloc.stop()


# Compressed bodies


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKED = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("gzip", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("identity", bytes),
]


@pytest.mark.parametrize(("coding", "pack"), PACKED, ids=[f"{i}-{name}" for i, (name, _) in enumerate(PACKED)])
def test_a_compressed_body_is_read_on_every_route(client: FlaskClient, coding: str, pack: Any) -> None:
    headers = {"Content-Encoding": coding}
    encoded = base64.b64encode(PNG).decode()
    form, form_type = form_of(PNG)
    tensor = {"name": "files", "datatype": "BYTES", "shape": [1], "data": [encoded]}
    infer = json.dumps({"inputs": [tensor], "outputs": [{"name": "category"}]}).encode()
    assert categories(ask(client, pack(PNG), "image/png", Content_Encoding=coding)) == ["red"]
    assert categories(ask(client, pack(json.dumps({"images": [encoded]}).encode()), Content_Encoding=coding)) == ["red"]
    assert categories(ask(client, pack(form), form_type, Content_Encoding=coding)) == ["red"]
    answer = client.post("/v2/models/colours/infer", data=pack(infer), headers=headers)
    assert answer.get_json()["outputs"][0]["data"] == ["red"]
    answer = client.post("/predictions/colours", data=pack(PNG), headers=headers)
    assert next(iter(answer.get_json())) == "red"


def test_feedback_is_read_compressed(tmp_path: Path) -> None:
    predictor = Predictor.load(write_model(tmp_path / "colours.onnx"))
    client = create_app(predictor, Settings(feedback_dir=tmp_path / "kept")).test_client()
    body = gzip.compress(json.dumps({"request_id": "x", "picture": 0, "category": "red"}).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    assert said(client.post("/feedback", data=body, headers=headers))[:2] == (404, "picture_unknown")


def test_tritons_binary_tensor_is_read_compressed(client: FlaskClient) -> None:
    pixels = bytes([200, 20, 20]) * 32 * 32
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(pixels)}}]}).encode()
    headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(head))}
    answer = client.post("/v2/models/colours/infer", data=gzip.compress(head + pixels), headers=headers).get_json()
    assert {output["name"]: output["data"] for output in answer["outputs"]}["category"] == ["red"]


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "x" * 500])
def test_other_encodings_are_named(client: FlaskClient, coding: str) -> None:
    response = ask(client, PNG, "image/png", Content_Encoding=coding)
    assert said(response)[:2] == (415, "content_encoding_unsupported")
    assert coding[:40] in said(response)[2]
    assert response.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    "body", [b"", PNG, gzip.compress(PNG)[:-20], gzip.compress(PNG) + b"more", gzip.compress(PNG)[:20] + b"x" * 40]
)
def test_a_body_that_is_not_what_it_says_is_refused(client: FlaskClient, body: bytes) -> None:
    assert said(ask(client, body, "image/png", Content_Encoding="gzip"))[:2] == (400, "content_encoding_malformed")


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
@pytest.mark.parametrize("size", [2**23, 2**26])
def test_a_bomb_is_refused_in_bounded_time_and_memory(client: FlaskClient, pack: Any, size: int) -> None:
    coding = "gzip" if pack is gzip.compress else "deflate"
    bomb = pack(bytes(size))
    tracemalloc.start()
    try:
        begun = time.monotonic()
        response = ask(client, bomb, "image/png", Content_Encoding=coding)
        assert time.monotonic() - begun < 5
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert said(response)[:2] == (413, "body_too_large")


def test_ten_thousand_empty_members_are_refused(client: FlaskClient) -> None:
    body = gzip.compress(b"") * 10_000
    assert said(ask(client, body, "image/png", Content_Encoding="gzip"))[0] == 400


def test_a_body_of_a_high_ratio_that_is_small_is_read(client: FlaskClient) -> None:
    padded = gzip.compress(PNG + bytes(500_000))
    assert categories(ask(client, padded, "image/png", Content_Encoding="gzip")) == ["red"]


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_inflating_fail_otherwise_than_by_refusing(client: FlaskClient, body: bytes, coding: str) -> None:
    assert ask(client, body, "image/png", Content_Encoding=coding).status_code in (400, 413, 415, 422)


# Forgotten headers and signs


def form_of(*files: bytes, **fields: str) -> tuple[bytes, str]:
    """Write a form as curl -F does: files with a name, fields without."""
    pieces = [
        b'--XX\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value.encode())
        for name, value in fields.items()
    ]
    for data in files:
        head = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        pieces.append(head + data + b"\r\n")
    return b"".join(pieces) + b"--XX--\r\n", "multipart/form-data; boundary=XX"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream", None])
def test_json_without_its_header_is_told_which_to_add(client: FlaskClient, kind: str | None) -> None:
    status, code, message = said(ask(client, json.dumps({"images": [TEXT]}), kind))
    assert (status, code) == (415, "content_type_unsupported")
    assert "Add -H 'Content-Type: application/json'" in message


BLANKS = ["", " \t\r\n", "\n" * 100_000, "\x0b", "\xa0"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("blanks", BLANKS, ids=["none", "all kinds", "many", "of no JSON", "of no JSON either"])
@pytest.mark.parametrize("text", ['{"images": []}', "{ }", "[-1]", "[null]", "[[true]]", '"text"', "{'images'}"])
def test_what_json_reads_is_taken_for_json(text: str, blanks: str, encoding: str) -> None:
    body = (blanks + text).encode(encoding)
    try:
        bodies.parse(body, 10, "")
    except ValueError:
        return
    assert multipart.begins_as_json(body)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_no_picture_is_taken_for_json(kind: str) -> None:
    assert not multipart.begins_as_json(picture("red", kind))


def test_signs_that_are_blank_elsewhere_are_not_in_json(client: FlaskClient) -> None:
    assert not multipart.begins_as_json(b"\x0b[1]") and not multipart.begins_as_json(b" " * 2**22)
    assert said(ask(client, b"\x0b" + b'{"images": []}'))[:2] == (400, "json_malformed")


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_a_type_that_is_refused_before_the_body_has_come_names_jsons_header(client: FlaskClient, kind: str) -> None:
    assert "'Content-Type: application/json'" in said(ask(client, b"", kind))[2]


def test_torchserves_call_reads_json_of_pictures_and_says_which_header_is_missing(client: FlaskClient) -> None:
    document = {"images": [base64.b64encode(PNG).decode()] * 2}
    found = client.post("/predictions/colours", json=document).get_json()
    assert [next(iter(scores)) for scores in found] == ["red", "red"]
    response = client.post("/predictions/colours", data=json.dumps(document))
    assert "Add -H 'Content-Type: application/json'" in said(response)[2]


@pytest.mark.parametrize("kind", ["text/json", "application/vnd.api+json", "application/json;charset=utf-8"])
def test_other_types_of_json_are_read(client: FlaskClient, kind: str) -> None:
    assert categories(ask(client, json.dumps({"images": [base64.b64encode(PNG).decode()]}), kind)) == ["red"]


@pytest.mark.parametrize("kind", ["binary/octet-stream", "application/x-octet-stream", "application/binary", "*/*"])
def test_other_types_of_bytes_are_read(client: FlaskClient, kind: str) -> None:
    assert categories(ask(client, PNG, kind)) == ["red"]


@pytest.mark.parametrize("text", ["horse.jpg", "./fotos/horse 1.JPG", r"C:\fotos\cavalo.heic", "cão.png"])
def test_a_forgotten_at_sign_is_asked_for(client: FlaskClient, text: str) -> None:
    status, code, message = said(ask(client, *form_of(file=text)))
    assert (status, code) == (400, "no_picture")
    assert message.endswith(f"Did you forget the @? Write {shlex.join(['-F', f'file=@{text}'])}")


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", "application/octet-stream"])
def test_a_form_whose_header_was_overwritten_is_named(client: FlaskClient, kind: str) -> None:
    status, code, message = said(ask(client, form_of(PNG)[0], kind))
    assert (status, code) == (415, "content_type_unsupported")
    assert message.startswith(f"The body is a multipart form, but its Content-Type is {kind!r}. Set no Content-Type")


def test_an_input_without_a_chosen_file_is_passed_over(client: FlaskClient) -> None:
    body, kind = form_of(PNG)
    start = b"--" + multipart.boundary_of(kind)
    end = body.rindex(start)
    empty = b'Content-Disposition: form-data; name="file"; filename=""\r\nContent-Type: application/octet-stream'
    body = body[:end] + start + b"\r\n" + empty + b"\r\n\r\n\r\n" + body[end:]
    assert categories(ask(client, body, kind)) == ["red"]
    alone = start + b"\r\n" + body[body.index(empty) :]
    assert said(ask(client, alone, kind)) == (
        400,
        "no_picture",
        "No file was chosen. Choose a picture, and send again.",
    )


@pytest.mark.parametrize("mangle", ["utf-8", "latin-1", "ftp"])
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_a_picture_that_a_client_took_for_text_is_named(client: FlaskClient, name: str, mangle: str) -> None:
    data = picture(kind=name)
    sent = {
        "utf-8": data.decode("utf-8", "replace").encode(),
        "latin-1": data.decode("latin-1").encode(),
        "ftp": base64.b64encode(data) if name == "JPEG" else data.replace(b"\r\n", b"\n"),
    }[mangle]
    status, code, message = said(ask(client, sent, "image/jpeg"))
    assert (status, code) == (415, "image_unrecognised")
    assert f"it is a {name} that was taken for text. Read the file as bytes" in message or "JPEG in base64" in message


@pytest.mark.parametrize("text", ["https://example.org/horse.jpg", "http://example.org/?id=3", "s3://fotos/horse.png"])
def test_an_address_in_a_form_is_named(client: FlaskClient, text: str) -> None:
    status, code, message = said(ask(client, *form_of(file=text)))
    assert (status, code) == (400, "no_picture") and "holds an address" in message


def test_a_part_may_be_a_data_url(client: FlaskClient) -> None:
    body, kind = form_of(file="data:image/png;base64," + base64.b64encode(PNG).decode())
    assert categories(ask(client, body, kind)) == ["red"]
    status, code, message = said(ask(client, *form_of(file="data:image/png;base64,!")))
    assert (status, code) == (400, "base64_malformed") and "'!'" in message


def test_parameters_are_read_from_a_form_and_from_json(client: FlaskClient) -> None:
    body, kind = form_of(PNG, b"no picture", top="3", explain="1", on_error="partial")
    first, second = ask(client, body, kind).get_json()["predictions"]
    assert (len(first["top"]), "explanation" in first, second["error"]["code"]) == (3, True, "image_unrecognised")
    document = {"images": [base64.b64encode(PNG).decode()], "top": 2, "explain": True}
    first = ask(client, json.dumps(document)).get_json()["predictions"][0]
    assert (len(first["top"]), "explanation" in first) == (2, True)


@pytest.mark.parametrize("name", ["topk", "Top", "tops", "on-error", "explian"])
def test_a_misspelt_parameter_in_a_body_does_not_pass_unseen(client: FlaskClient, name: str) -> None:
    document = json.dumps({"images": [base64.b64encode(PNG).decode()], name: 1})
    for response in (ask(client, *form_of(PNG, **{name: "1"})), ask(client, document)):
        status, code, message = said(response)
        assert (status, code) == (400, "query_invalid") and "Did you mean" in message


def test_other_fields_beside_pictures_and_parameters_that_are_null_are_passed_over(client: FlaskClient) -> None:
    assert categories(ask(client, *form_of(PNG, submit="Send", type="photo"))) == ["red"]
    document = {"images": [base64.b64encode(PNG).decode()], "top": None, "explain": None, "client": "app"}
    assert categories(ask(client, json.dumps(document))) == ["red"]


def test_a_parameter_of_the_address_comes_before_that_of_the_body(client: FlaskClient) -> None:
    body, kind = form_of(PNG, top="3")
    answer = client.post("/predict?top=1", data=body, content_type=kind).get_json()
    assert len(answer["predictions"][0]["top"]) == 1


@pytest.mark.parametrize("top", ["many", "0", "", "3" * 200])
def test_a_wrong_parameter_in_a_form_is_named(client: FlaskClient, top: str) -> None:
    assert said(ask(client, *form_of(PNG, top=top)))[:2] == (400, "query_invalid")


def test_as_many_pictures_as_allowed_leave_room_for_parameters(client: FlaskClient) -> None:
    body, kind = form_of(*[PNG] * 128, top="1", on_error="partial")
    assert len(categories(ask(client, body, kind))) == 128
    assert said(ask(client, *form_of(*[PNG] * 129)))[1] == "too_many_parts"


def test_a_websocket_handshake_gets_a_code_of_its_own(client: FlaskClient) -> None:
    headers = {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    for path in ("/healthz", "/model"):
        response = client.get(path, headers=headers)
        assert said(response)[:2] == (400, "websocket_unsupported")


def test_random_requests_find_no_fault(client: FlaskClient) -> None:
    """A small fuzzer of the ways to write a body; each answer is one of those that are documented."""
    rng = random.Random(7)
    kinds = ["application/json", "image/png", "text/plain", "application/x-www-form-urlencoded", "", "a/b", "+json"]
    bodies = [PNG, TEXT.encode(), json.dumps({"images": [TEXT]}).encode(), form_of(PNG, top="2")[0]]
    for _ in range(300):
        body = bytearray(rng.choice(bodies))
        for _ in range(rng.randrange(4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        kind = rng.choice([*kinds, "multipart/form-data; boundary=XX"])
        coding = rng.choice(["", "gzip", "deflate", "br"])
        packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(rng.choice(["", coding]), bytes)(bytes(body))
        response = client.post("/predict", data=packed, content_type=kind, headers={"Content-Encoding": coding})
        assert response.status_code in (200, 400, 413, 415, 422), (kind, coding, response.text)


@pytest.mark.parametrize("path", ["//predict", "/////predict", "//healthz", "/v2//models/colours/infer", "/predict/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_path_with_slashes_too_many_is_not_found(client: FlaskClient, path: str, method: str) -> None:
    response = client.open("/", method=method, environ_overrides={"PATH_INFO": path})
    assert said(response)[:2] == (404, "not_found")
