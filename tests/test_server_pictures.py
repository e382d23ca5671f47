"""A real server answers every kind of picture that people send, and names what is wrong with the rest."""

import base64
import io
import json
import random
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from PIL import Image
from server_kit import CLASSES, COLOURS, Running, encode, picture, serving, write_model

MIB = 2**20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    with serving(write_model(folder / "colours.onnx"), folder / "log") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def rotated() -> bytes:
    """A wide picture, red where it is upright on top, stored lying on its side with an EXIF note."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("red", "JPEG", (64, 40), quality=95, exif=exif.tobytes())


def sixteen_bit() -> bytes:
    return encode(Image.new("I;16", (40, 40), 65535), "PNG")


def animated(kind: str = "GIF", broken: bool = False) -> bytes:
    frames = [Image.new("RGB", (40, 40), COLOURS[name]).quantize(8) for name in ("red", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], optimize=False)
    return data[:-60] if broken else data


def palette(transparency: bool) -> bytes:
    image = Image.new("P", (40, 40), 0)
    image.putpalette([200, 20, 20] + [0] * 765)
    return encode(image, "PNG", **({"transparency": 0} if transparency else {}))


def noisy_gif() -> bytes:
    """An animated GIF whose second frame breaks off in the middle."""
    first = Image.new("RGB", (64, 64), COLOURS["red"]).quantize(8)
    rng = random.Random(1)
    second = Image.frombytes("RGB", (64, 64), rng.randbytes(64 * 64 * 3)).quantize(64)
    return encode(first, "GIF", save_all=True, append_images=[second], optimize=False)[:-1500]


GOOD = {
    "jpeg": (picture("red", "JPEG"), "red"),
    "progressive jpeg": (picture("red", "JPEG", (90, 60), progressive=True), "red"),
    "png": (picture("blue"), "blue"),
    "webp": (picture("green", "WEBP"), "green"),
    "lossless webp": (picture("green", "WEBP", lossless=True), "green"),
    "bmp": (picture("blue", "BMP"), "blue"),
    "tiff": (picture("blue", "TIFF"), "blue"),
    "exif-rotated": (rotated(), "red"),
    "grayscale": (encode(Image.new("L", (40, 40), 255), "JPEG"), "white"),
    "one bit": (encode(Image.new("1", (40, 40), 1), "PNG"), "white"),
    "gray and alpha": (encode(Image.new("LA", (40, 40), (0, 0)), "PNG"), "white"),
    "palette": (palette(False), "red"),
    "transparent palette": (palette(True), "white"),
    "alpha": (encode(Image.new("RGBA", (40, 40), (200, 20, 20, 0)), "PNG"), "white"),
    "cmyk": (encode(Image.new("CMYK", (40, 40), (0, 255, 255, 50)), "JPEG"), "red"),
    "16 bit": (sixteen_bit(), "white"),
    "animated gif": (animated(), "red"),
    "animated webp": (animated("WEBP"), "red"),
    "animated gif with a broken second frame": (noisy_gif(), "red"),
}


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_of_picture_is_answered(server: Running, name: str) -> None:
    data, colour = GOOD[name]
    response = server.predict(data)
    assert response.status_code == 200, response.text
    assert response.json()["predictions"][0]["category"] == colour


def test_answers_come_in_request_order_under_concurrency(server: Running) -> None:
    def ask(seed: int) -> bool:
        colours = random.Random(seed).choices(CLASSES, k=1 + seed % 9)
        answer = server.predict(*[picture(c) for c in colours]).json()["predictions"]
        return [a["category"] for a in answer] == colours

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(80)))


def test_three_files_are_answered_as_the_readme_says(server: Running) -> None:
    answer = server.predict(picture("blue"), picture("red"), picture("green")).json()
    assert [(p["category"], p["category_index"]) for p in answer["predictions"]] == [
        ("blue", 2),
        ("red", 0),
        ("green", 1),
    ]
    assert all(set(p) == {"category", "category_index", "confidence"} for p in answer["predictions"])


def test_raw_body_and_json_give_the_same_answer_as_multipart(server: Running) -> None:
    expected = server.predict(picture("blue")).json()
    url = f"{server.url}/predict"
    assert requests.post(url, picture("blue"), headers={"Content-Type": "image/png"}, timeout=9).json() == expected
    encoded = base64.b64encode(picture("blue")).decode()
    assert requests.post(url, json={"images": [encoded]}, timeout=9).json() == expected


def test_top_lists_that_many_classes_from_the_most_probable(server: Running) -> None:
    found = server.predict(picture("blue"), query="?top=3").json()["predictions"][0]
    assert found["top"][0]["category"] == found["category"] == "blue"
    assert len(found["top"]) == 3
    assert len(server.predict(picture(), query="?top=99").json()["predictions"][0]["top"]) == len(CLASSES)


def test_explain_shows_where_the_class_is_seen(server: Running) -> None:
    image = Image.new("RGB", (32, 32), (30, 0, 0))
    image.paste(COLOURS["red"], (0, 0, 16, 16))
    found = server.predict(encode(image, "PNG"), query="?explain=1").json()["predictions"][0]
    values = found["explanation"]["values"]
    assert (found["explanation"]["height"], found["explanation"]["width"]) == (2, 2)
    assert values[0][0] == 1.0 and max(values[0][1], *values[1]) < 0.5


@pytest.mark.parametrize("query", ["?top=0", "?top=x", "?top=-1", "?explain=yes", "?on_error=ignore", "?tap=3"])
def test_query_that_makes_no_sense_is_refused(server: Running, query: str) -> None:
    response = server.predict(picture(), query=query)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "query_invalid")


def test_typo_in_the_query_is_answered_with_the_right_name(server: Running) -> None:
    assert "Did you mean 'on_error'?" in server.predict(picture(), query="?on_eror=partial").json()["error"]["message"]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BAD = {
    "empty": (b"", 400, "image_empty"),
    "text": (b"hello, this is no picture", 415, "image_unrecognised"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "image_unrecognised"),
    "truncated jpeg": (picture("red", "JPEG", (300, 300))[:700], 422, "image_truncated"),
    "truncated png": (picture("red", "PNG", (300, 300))[:150], 422, "image_truncated"),
    "head only": (picture("red", "JPEG")[:30], 422, "image_truncated"),
    "100 megapixels": (png(10_000, 10_000, zlib.compress(bytes(1251 * 10_000), 9)), 413, "image_too_many_pixels"),
    "20,000 x 20,000": (png(20_000, 20_000, b""), 413, "image_too_many_pixels"),
    "4 billion x 1": (png(2**31 - 1, 2**31 - 1, b""), 413, "image_too_many_pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_picture_is_the_clients_and_is_named(server: Running, name: str) -> None:
    data, status, code = BAD[name]
    response = server.predict(picture("red"), data)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert [(p["index"], p["filename"], p["code"]) for p in error["parts"]] == [(1, "1.png", code)]
    assert "Traceback" not in response.text
    assert server.predict(picture("red")).json()["predictions"][0]["category"] == "red"


def test_all_bad_parts_are_named_at_once(server: Running) -> None:
    error = server.predict(b"", picture(), b"text", picture()).json()["error"]
    assert [(p["index"], p["code"]) for p in error["parts"]] == [(0, "image_empty"), (2, "image_unrecognised")]
    assert error["code"] == "images_rejected"
    assert "1 of them: The picture is empty" in error["message"]
    assert "1 of them: Not a picture" in error["message"]


def test_one_bad_picture_in_32_spoils_no_other_if_asked(server: Running) -> None:
    files = [picture(CLASSES[i % 4]) for i in range(32)]
    files[13] = b"not a picture"
    response = server.predict(*files, query="?on_error=partial")
    found = response.json()["predictions"]
    assert response.status_code == 200
    assert found[13]["error"]["code"] == "image_unrecognised" and found[13]["error"]["index"] == 13
    assert [p.get("category") for i, p in enumerate(found) if i != 13] == [CLASSES[i % 4] for i in range(32) if i != 13]


def post(server: Running, body: bytes, content_type: str) -> requests.Response:
    return requests.post(f"{server.url}/predict", body, headers={"Content-Type": content_type}, timeout=20)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"--YY\r\n\r\nx\r\n--YY--", "multipart/form-data; boundary=XX", 400, "multipart_malformed"),
        (b"--XX\r\n\r\nx", "multipart/form-data; boundary=XX", 400, "multipart_malformed"),
        (b"--XX--", "multipart/form-data; boundary=XX", 400, "no_picture"),
        (b"{not json", "application/json", 400, "json_malformed"),
        (b"[1]", "application/json", 400, "json_malformed"),
        (b"a=b", "application/x-www-form-urlencoded", 415, "content_type_unsupported"),
    ],
)
def test_body_that_cannot_be_read_is_refused(
    server: Running, body: bytes, content_type: str, status: int, code: str
) -> None:
    response = post(server, body, content_type)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_ten_thousand_parts_are_refused(server: Running) -> None:
    part = b'--XX\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n'
    response = post(server, part * 10_000 + b"--XX--\r\n", "multipart/form-data; boundary=XX")
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_parts")


def test_200_megabytes_are_refused_by_their_announcement_and_the_answer_is_seen(server: Running) -> None:
    before = server.memory()
    body = b"--XX\r\n" + b'Content-Disposition: form-data; name="file"\r\n\r\n' + bytes(200 * MIB) + b"\r\n--XX--\r\n"
    response = post(server, body, "multipart/form-data; boundary=XX")
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert server.memory() - before < 20


def test_page_of_another_origin_can_read_why_an_upload_is_refused(tmp_path: Path) -> None:
    """The refusal comes from the transport, before the body is read."""
    settings = json.dumps({"port": 0, "workers": 1, "cors_origins": ["https://example.org"], "request_timeout": 1})
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nOrigin: https://example.org\r\n"
    with serving(write_model(tmp_path / "colours.onnx"), tmp_path / "log", settings) as server:
        for length, status in ((200 * MIB, 413), (1000, 408)):
            with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
                sock.sendall(f"{head}Content-Length: {length}\r\n\r\nx".encode())
                answer = sock.recv(4096).decode()
            assert answer.startswith(f"HTTP/1.1 {status}")
            assert "\r\nAccess-Control-Allow-Origin: https://example.org\r\n" in answer


def test_body_that_is_too_large_is_refused_before_it_is_sent(server: Running) -> None:
    """As curl sends it: the head alone, then the body once it is told to go on."""
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        sock.sendall(f"{head}Content-Length: {200 * MIB}\r\nExpect: 100-continue\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 413")
    assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["code"] == "body_too_large"


def test_200_megabytes_without_a_length_are_refused_while_reading(server: Running) -> None:
    before = server.memory()
    pieces = (bytes(MIB) for _ in range(200))
    response = requests.post(f"{server.url}/predict", pieces, timeout=30)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert server.memory() - before < 100
    assert server.predict(picture()).status_code == 200


def test_part_over_the_limit_is_named(server: Running) -> None:
    response = server.predict(picture(), bytes(21 * MIB))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "image_too_many_bytes")
    assert response.json()["error"]["parts"][0]["index"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/nothing", 404), ("DELETE", "/model", 405)]
)
def test_wrong_path_or_method_has_the_shape_of_every_error(
    server: Running, method: str, path: str, status: int
) -> None:
    response = requests.request(method, server.url + path, timeout=9)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"code", "message", "parts"}


def test_bytes_that_are_not_http_are_refused(server: Running) -> None:
    for data in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/1.1\r\nHost a\r\n\r\n", b"A" * 20_000):
        with socket.create_connection(("127.0.0.1", server.port), 9) as sock:
            sock.sendall(data)
            answer = io.BytesIO()
            while piece := sock.recv(4096):
                answer.write(piece)
        assert answer.getvalue().startswith(b"HTTP/1.1 4"), answer.getvalue()


def test_model_and_health_are_shown(server: Running) -> None:
    model = server.get("/model")
    assert model.json()["classes"] == list(CLASSES)
    assert model.json()["golden"] == 4
    assert model.headers["Pupila-Model"] == model.json()["version"] == server.predict(picture()).headers["Pupila-Model"]
    assert server.get("/healthz").status_code == server.get("/readyz").status_code == 200


def test_memory_stays_flat_over_bad_and_good_requests(server: Running) -> None:
    bodies = [data for data, _, _ in BAD.values()] + [data for data, _ in GOOD.values()]
    for data in bodies * 2:
        server.predict(data)
    before = server.memory()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(server.predict, bodies * 12))
    assert server.memory() - before < 12


def test_photo_of_the_right_size_keeps_its_pixels(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(picture("white"))
    with path.open("rb") as file:
        response = requests.post(f"{server.url}/predict", files=[("file", file)], timeout=9)
    assert response.json()["predictions"][0]["confidence"] == pytest.approx(0.937108, abs=1e-4)
