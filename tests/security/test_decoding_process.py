"""What may keep a decoder busy is decoded by a process that can be ended: nobody else waits, and the worker lives."""

import contextlib
import functools
import http.client
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image
from server_kit import picture, serving, write_model

from pupila import images
from pupila.errors import ImageError
from pupila.images.process import SECONDS, DecodingProcess
from pupila.server.api.errors import DeadlineError
from pupila.server.inference import MODERATE_IMAGE, LargeImageError, reject_large, small_only, up_to_moderate

LIMITS = images.DEFAULT_LIMITS


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def many_scans() -> bytes:
    """Return a JPEG of 48 megapixels whose last scan comes 85 times more: each goes through all pixels.

    It has no end, so that it is decoded twice more: 13 seconds of processor time on a Zen 3, 4 on a Zen 5.
    """
    noise, image = Image.effect_noise((800, 600), 1), Image.new("L", (8000, 6000))
    for place in range(100):
        image.paste(noise, (place % 10 * 800, place // 10 * 600))
    whole = encoded(image, "JPEG", quality=5, progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * 85


def strips(number: int, kind: int = 4) -> bytes:
    """Return a TIFF without packing whose strips begin a byte apart; kind: of the numbers that say where."""
    rows = [
        (256, 4, 1, 490), (257, 4, 1, 490), (258, 3, 1, 1), (259, 3, 1, 1), (262, 3, 1, 0), (273, kind, number, 200),
        (278, 4, 1, 489),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *row) for row in rows)
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + entries + bytes(4)
    size = 4 if kind == 4 else 1
    places = b"".join((200 + n).to_bytes(4, "little")[:size] for n in range(number))
    return head.ljust(200, b"\0") + places + bytes(62 * 490)


def repeated(kind: str, frames: int) -> bytes:
    """Return a HEIC or AVIF file whose one picture holds so many frames, of which the content is left empty."""
    item, setup, sequence, frame = {  # the sequence's header says 64 x 64; HEIC has it in its setup
        "AVIF": (b"av01", b"av1C\x81\0\x0c\0", b"\x0a\4\x18\x15\x7f\xfc", b"\x32\x01\0"),
        "HEIC": (b"hvc1", b"hvcC" + bytes(21) + b"\x03\0", b"", b"\0\0\0\4\x26\x01\x80\0"),
    }[kind]

    def box(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content) + 8) + name + content

    def full(name: bytes, content: bytes, version: int = 0) -> bytes:
        return box(name, struct.pack(">I", version << 24) + content)

    data, brand = sequence + frame * frames, b"avif" if kind == "AVIF" else b"heic"
    start = box(b"ftyp", brand + bytes(4) + b"mif1" + brand)

    def meta(at: int) -> bytes:
        properties = box(setup[:4], setup[4:]) + full(b"ispe", struct.pack(">II", 64, 64))
        owned = full(b"ipma", struct.pack(">IHBBB", 1, 1, 2, 0x81, 2))
        kinds = full(b"iinf", b"\0\1" + full(b"infe", struct.pack(">HH", 1, 0) + item + b"\0", 2))
        place = full(b"iloc", b"\x44\0" + struct.pack(">HHHHII", 1, 1, 0, 1, at, len(data)))
        handler = full(b"hdlr", bytes(4) + b"pict" + bytes(13))
        described = box(b"iprp", box(b"ipco", properties) + owned)
        return full(b"meta", handler + full(b"pitm", b"\0\1") + kinds + described + place)

    return start + meta(len(start) + len(meta(0)) + 8) + box(b"mdat", data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (strips(1000), "more tiles or strips than cover it"),
        (strips(30_000, kind=1), "more than 20,000 values or strips"),
        (repeated("AVIF", 5), "more than 4 coded frames"),
        (repeated("HEIC", 5), "more than 4 coded frames"),
    ],
    ids=["strips", "strips by bytes", "AVIF", "HEIC"],
)
def test_file_whose_parts_are_decoded_again_and_again_is_refused(data: bytes, why: str) -> None:
    begun = time.process_time()
    with pytest.raises(ImageError, match=why):
        images.decode(data, 64)
    assert time.process_time() - begun < 0.3


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
def test_few_frames_are_left_to_the_decoder(kind: str) -> None:
    with pytest.raises(ImageError, match="damaged"):
        images.decode(repeated(kind, 4), 64)


def large_jpeg(frame: int, scan: bytes) -> bytes:
    """Return a small file that says that it has 16 megapixels, in a frame of another kind or with another scan."""
    data = encoded(Image.new("RGB", (16, 16)), "JPEG", subsampling=0)
    at, begin = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    head = data[:at] + bytes([0xFF, frame]) + data[at + 2 : at + 5] + struct.pack(">HH", 4000, 4000)
    return head + data[at + 9 : begin] + (scan or data[begin : begin + 14]) + data[begin + 14 :]


def restarted(mode: str, side: int) -> bytes:
    """Return a JPEG with a restart for each unit of its pixels, and nothing between them."""
    data = encoded(Image.new(mode, (side, side)), "JPEG")
    begin = data.index(b"\xff\xda") + 4 + 2 * len(mode) + 4
    each = 8 if mode == "CMYK" else 16
    scan = bytes(value for number in range(8) for value in (0xFF, 0xD0 + number)) * ((side // each) ** 2 // 8)
    return data[:2] + b"\xff\xdd\0\4\0\1" + data[2:begin] + scan + b"\xff\xd9"


def lossless(transparency: bool) -> bytes:
    """Return a WebP of 360,000 pixels that are coded without loss, or only their transparency."""
    image = Image.new("RGBA", (600, 600), (9, 9, 9, 99))
    image.putpixel((0, 0), (9, 9, 9, 0))
    return encoded(image, "WEBP", lossless=not transparency)


def chunks(*parts: tuple[bytes, bytes], image: bytes = b"") -> bytes:
    """Return a PNG with more chunks behind its header."""
    whole = image or encoded(Image.new("RGB", (32, 32)), "PNG")
    made = (struct.pack(">I", len(content)) + name + content for name, content in parts)
    more = b"".join(part + struct.pack(">I", zlib.crc32(part[4:])) for part in made)
    return whole[:33] + more + whole[33:]


def deep(side: int) -> bytes:
    """Return a PNG of 16 bits a colour, of which it uses 12."""
    rows = zlib.compress((b"\0" + b"\x0f\xab" * 4 * side) * side)
    head = struct.pack(">IIBBBBB", side, side, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunks((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""), image=bytes(33))[33:]


def noisy(side: int, kind: str, **options: object) -> bytes:
    return encoded(Image.effect_noise((side, side), 90).convert("RGB"), kind, **options)


def entries(number: int) -> bytes:
    """Return EXIF of so many entries."""
    rows = b"".join(struct.pack("<HHII", 40_000 + row, 2, 4, 0) for row in range(number))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", number) + rows + bytes(4)


def several(number: int) -> bytes:
    """Return a JPEG whose list of pictures has so many."""
    rows = struct.pack("<HHIIHHII", 0xB001, 4, 1, number, 0xB002, 7, 16 * number, 38)
    block = b"MPF\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + rows + bytes(4) + bytes(16 * number)
    data = encoded(Image.new("RGB", (32, 32)), "JPEG")
    return data[:2] + struct.pack(">BBH", 0xFF, 0xE2, len(block) + 2) + block + data[2:]


TEXT = b"k\0\0" + zlib.compress(bytes(10**6))
PLAIN = large_jpeg(0xC0, b"")
LONG_TO_READ = {
    "arithmetic codes": large_jpeg(0xC9, b""),
    "arithmetic codes, progressive": large_jpeg(0xCA, b""),
    "a scan of one component": large_jpeg(0xC0, b"\xff\xda\0\x08\1\1\0\0\x3f\0"),
    "restarts without data": restarted("RGB", 2400),
    "restarts without data, four colours": restarted("CMYK", 2400),
    "lossless": lossless(False),
    "lossless transparency": lossless(True),
    "16 bits": deep(330),
    "chunks": chunks(*[(b"tEXt", b"k\0v")] * 1_100),
    "texts": chunks(*[(b"zTXt", TEXT)] * 5),
    "entries": encoded(Image.new("RGB", (32, 32)), "JPEG", exif=entries(1_000)),
    "a list of pictures": several(4_000),
    "long coded data": noisy(480, "WEBP", quality=100),
    "long coded data in scans": noisy(540, "JPEG", quality=98, progressive=True, subsampling=0),
    "megabytes that say nothing": b"\xff\xd8" + b"\xff" * (5 * 2**20),
    "megabytes behind the picture": PLAIN + bytes(5 * 2**20),
}


@pytest.mark.parametrize("name", LONG_TO_READ)
def test_small_file_that_takes_long_is_left_to_the_process(name: str) -> None:
    with pytest.raises(LargeImageError):
        small_only(LONG_TO_READ[name], 32, LIMITS, "squash")


def test_ordinary_photo_is_not() -> None:
    assert small_only(encoded(Image.new("RGB", (4000, 3900)), "JPEG"), 32, LIMITS, "squash").shape == (32, 32, 3)
    assert small_only(encoded(Image.new("RGB", (240, 240)), "WEBP", lossless=True), 32, LIMITS, "squash").max() == 0
    assert small_only(noisy(32, "WEBP", lossless=True), 32, LIMITS, "squash").shape == (32, 32, 3)
    for data in (deep(300), noisy(220, "PNG"), noisy(640, "JPEG", quality=85), noisy(480, "WEBP", quality=10)):
        assert small_only(data, 32, LIMITS, "squash").shape == (32, 32, 3)
    small = chunks((b"zTXt", TEXT), (b"zTXt", TEXT), *[(b"tEXt", b"k\0v")] * 300)
    assert small_only(small, 32, LIMITS, "squash").max() == 0


@functools.cache
def camera(**options: object) -> bytes:
    """Return a photo as a phone writes it: 12 megapixels, several megabytes."""
    return noisy(3500, "JPEG", quality=75, **options)


def test_photo_of_a_camera_takes_a_moderate_time() -> None:
    photo = camera()
    assert 3e6 < len(photo) < 8e6
    for data in (photo, photo + bytes(50_000)):  # some phones write more behind the end
        with pytest.raises(LargeImageError):
            small_only(data, 64, LIMITS, "squash")
        assert (up_to_moderate(data, 64, LIMITS, "squash") == images.decode(photo, 64)).all()


def test_filling_within_a_scan_takes_no_longer_for_being_much() -> None:
    """libjpeg reads it again with each part that it is given: for four times as much sixteen times as long."""
    plain = encoded(Image.new("L", (8, 8), 90), "JPEG")
    at = plain.index(b"\xff\xda") + 10

    def seconds(count: int) -> float:
        begun = time.process_time()
        up_to_moderate(plain[:at] + b"\xff" * count + b"\xd9", 64, LIMITS, "squash")
        return time.process_time() - begun

    assert seconds(15_900_000) < 8 * max(seconds(4_000_000), 0.01)


def test_nobody_waits_for_a_moderate_picture_beyond_the_deadline() -> None:
    begun = time.monotonic()
    with MODERATE_IMAGE, pytest.raises(DeadlineError):
        up_to_moderate(camera(), 64, LIMITS, "squash", deadline=begun + 0.2)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "make",
    [
        many_scans,
        lambda: camera()[:-2],
        lambda: camera() + bytes(200_000),
        lambda: camera(progressive=True),
        lambda: camera(restart_marker_rows=1),
        lambda: camera()[:2] + 20 * (b"\xff\xe5\xff\xff" + bytes(65_533)) + camera()[2:],
        lambda: noisy(1500, "TIFF"),
    ],
    ids=["scans", "without an end", "end far from it", "progressive", "restarts", "begins late", "TIFF"],
)
def test_long_photo_of_another_kind_may_take_long(make: Callable[[], bytes]) -> None:
    with pytest.raises(LargeImageError):
        up_to_moderate(make(), 64, LIMITS, "squash")


@pytest.mark.parametrize("options", [{"mode": "CMYK"}, {"mode": "L"}, {"progressive": True}, {}, {"subsampling": 0}])
def test_restarts_as_programs_write_them_are_not(options: dict[str, str | int]) -> None:
    mode, side = str(options.get("mode", "RGB")), 480 if "progressive" in options else 1400
    saving = {name: value for name, value in options.items() if name != "mode"}
    image = Image.effect_noise((side, side), 20).convert(mode)
    data = encoded(image, "JPEG", quality=80, restart_marker_rows=1, **saving)
    plain = encoded(image, "JPEG", quality=80, **saving)
    assert (small_only(data, 32, LIMITS, "squash") == images.decode(plain, 32)).all()


def test_header_of_many_parts_is_not_read_where_it_keeps_others_waiting() -> None:
    for name in ("chunks", "texts", "entries"):
        with pytest.raises(LargeImageError):
            images.header(LONG_TO_READ[name], LIMITS, reject_large)


def test_process_decodes_as_this_one_does() -> None:
    process, image = DecodingProcess(threading.Lock()), Image.effect_noise((900, 700), 60).convert("RGB")
    for kind in ("PNG", "TIFF", "AVIF", "JPEG"):
        data = encoded(image, kind)
        pixels = process.decode(data, 48, LIMITS, "letterbox", deadline=time.monotonic() + 60)
        assert (pixels == images.decode(data, 48, framing="letterbox")).all()
    with pytest.raises(ImageError, match="damaged") as caught:
        process.decode(data[:3000], 48, LIMITS, "squash", deadline=time.monotonic() + 60)
    assert caught.value.code == "image_truncated"


def test_deadline_ends_what_is_being_decoded_and_the_next_picture_is_decoded() -> None:
    process, small = DecodingProcess(threading.Lock()), encoded(Image.new("RGB", (9, 9), "red"), "PNG")
    process.decode(small, 32, LIMITS, "squash", deadline=time.monotonic() + 60)
    large, begun = many_scans(), time.monotonic()
    with pytest.raises(TimeoutError):
        process.decode(large, 32, LIMITS, "squash", deadline=begun + 0.5)
    assert time.monotonic() - begun < 2
    assert process.decode(small, 32, LIMITS, "squash", deadline=time.monotonic() + 60).max() == 255


def test_others_are_answered_while_a_picture_takes_all_that_it_may(tmp_path: Path) -> None:
    hostile, friendly = many_scans(), picture()
    with serving(write_model(tmp_path / "m.onnx"), tmp_path / "log", '{"port": 0, "workers": 1}') as server:
        answers: list[int] = []
        sender = threading.Thread(target=lambda: answers.append(server.predict(hostile, timeout=60).status_code))
        sender.start()
        slowest, times = 0.0, 0
        while sender.is_alive():
            begun = time.monotonic()
            assert server.predict(friendly, timeout=30).status_code == 200
            slowest, times = max(slowest, time.monotonic() - begun), times + 1
        assert answers[0] in (200, 413, 504)  # by processor time, on a busy machine by the clock, on a fast one not
        assert times > 5 and slowest < 2
        assert "heartbeat" not in (tmp_path / "log").read_text()


@contextlib.contextmanager
def kept_busy(port: int, hosts: Sequence[str]) -> Iterator[None]:
    """Send what takes all that it may from these addresses, two at a time each."""
    hostile, over = many_scans(), threading.Event()

    def send(host: str) -> None:
        while not over.is_set():
            if sent_from(host, port, hostile)[0] not in (200, 413):
                time.sleep(0.2)

    threads = [threading.Thread(target=send, args=(host,)) for host in hosts for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    yield
    over.set()
    for thread in threads:
        thread.join()


BUSY = '{"port": 0, "workers": 1, "request_timeout": 30}'


def sent_from(host: str, port: int, data: bytes) -> tuple[int, float]:
    """Send a picture from an address; return the answer's status and the seconds until it came."""
    begun, connection = time.monotonic(), http.client.HTTPConnection("127.0.0.1", port, 60, (host, 0))
    with contextlib.closing(connection):
        connection.request("POST", "/predict", data, {"Content-Type": "image/jpeg"})
        return connection.getresponse().status, time.monotonic() - begun


@pytest.mark.alone
def test_who_keeps_the_process_busy_keeps_nobody_out(tmp_path: Path) -> None:
    """Photos of cameras are decoded elsewhere; others wait for no more than the picture that is being decoded."""
    with (
        serving(write_model(tmp_path / "m.onnx"), tmp_path / "log", BUSY) as server,
        kept_busy(server.port, ["127.0.0.2", "127.0.0.3"]),
    ):
        photos = [sent_from("127.0.0.1", server.port, camera()) for _ in range(6)]
        rare = [sent_from("127.0.0.1", server.port, noisy(300, "TIFF")) for _ in range(4)]
    assert [status for status, _ in [*photos, *rare]] == [200] * 10
    assert max(seconds for _, seconds in photos) < 2


def test_seconds_are_fewer_than_a_request_has() -> None:
    assert SECONDS < 10


def test_process_that_somebody_else_ended_is_replaced_without_a_word_to_the_sender() -> None:
    process, data = DecodingProcess(threading.Lock()), encoded(Image.new("RGB", (9, 9), "red"), "TIFF")
    for number in (signal.SIGKILL, signal.SIGTERM):
        assert process.decode(data, 32, LIMITS, "squash", deadline=time.monotonic() + 60)[0, 0].tolist() == [255, 0, 0]
        assert process._worker is not None
        os.kill(process._worker._process.pid, number)
        time.sleep(0.1)
    assert process.decode(data, 32, LIMITS, "squash", deadline=time.monotonic() + 60)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_picture_that_its_decoder_fails_badly_at_is_not_decoded_again(number: int) -> None:
    """A decoder that is out of memory aborts: such a picture took twice what one may take."""
    process, data = DecodingProcess(threading.Lock()), encoded(Image.new("RGB", (9, 9), "red"), "TIFF")
    process.decode(data, 32, LIMITS, "squash", deadline=time.monotonic() + 60)
    assert process._worker is not None
    os.kill(process._worker._process.pid, number)
    with pytest.raises(ImageError) as caught:
        process.decode(data, 32, LIMITS, "squash", deadline=time.monotonic() + 60)
    assert caught.value.code == "image_too_complex"
    assert process.decode(data, 32, LIMITS, "squash", deadline=time.monotonic() + 60)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["TIFF", "WEBP"])
def test_long_texts_beside_the_pixels_are_no_numbers(kind: str) -> None:
    image, tags = Image.new("RGB", (40, 30), "red"), Image.Exif()
    tags[270] = "<OME>" + 60_000 * "x"
    data = encoded(image, kind, exif=tags) if kind == "WEBP" else encoded(image, kind, description=tags[270])
    assert images.decode(data, 32)[0, 0, 0] > 200


def test_one_strip_too_many_is_passed_over() -> None:
    whole = encoded(Image.new("L", (40, 60), 9), "TIFF", compression="tiff_adobe_deflate", strip_size=320)
    assert images.decode(whole, 32).shape == (32, 32, 3)


def test_after_a_fork_each_side_has_a_process_of_its_own() -> None:
    code = (
        "import os, threading, time\n"
        "from pupila import images\nfrom pupila.images.process import DecodingProcess\n"
        "png = images.encode_png(__import__('numpy').zeros((8, 9, 3), 'uint8'))\n"
        "process = DecodingProcess(threading.Lock())\n"
        "def number():\n"
        "    process.decode(png, 32, images.DEFAULT_LIMITS, 'squash', deadline=time.monotonic() + 60)\n"
        "    return process._worker._process.pid\n"
        "before, child = number(), os.fork()\n"
        "same = number() == before\n"
        "if child:\n"
        "    print(os.waitpid(child, 0)[1], same, number() == before, flush=True)\n"
        "else:\n"
        "    raise SystemExit(same)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "0 True True\n", done.stderr


def test_limit_of_data_that_a_service_has_is_kept() -> None:
    code = (
        "import resource, threading, time\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (700 * 2**20,) * 2)\n"
        "from pupila import images\nfrom pupila.images.process import DecodingProcess\n"
        "png = images.encode_png(__import__('numpy').zeros((800, 900, 3), 'uint8'))\n"
        "process = DecodingProcess(threading.Lock())\n"
        "print(process.decode(png, 32, images.DEFAULT_LIMITS, 'squash', deadline=time.monotonic() + 60).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "(32, 32, 3)\n"


def test_jpeg_without_an_end_counts_as_often_as_it_is_decoded() -> None:
    whole = encoded(Image.new("RGB", (600, 600)), "JPEG", progressive=True)
    assert small_only(whole, 32, LIMITS, "squash").shape == (32, 32, 3)
    with pytest.raises(LargeImageError):
        small_only(whole[:-2], 32, LIMITS, "squash")
    assert (images.decode(whole[:-2], 32) == images.decode(whole, 32)).all()
    small = encoded(Image.new("RGB", (300, 300)), "JPEG")
    assert small_only(small[:-2], 32, LIMITS, "squash").shape == (32, 32, 3)
