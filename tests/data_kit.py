"""Small data sets, archives and a file server for the tests of pupila.data: all real, all made on the spot."""

import io
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


def picture(seed: int = 0, width: int = 32, height: int = 32, kind: str = "PNG") -> bytes:
    """Return a picture file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def scene(seed: int, size: int = 64) -> Image.Image:
    """Return a picture with broad shapes and fine detail, as photos have, like no other one."""
    random = np.random.default_rng(seed)
    broad = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((size, size), 3)
    fine = Image.fromarray(random.integers(0, 256, (size // 3, size // 3, 3), dtype=np.uint8)).resize((size, size), 2)
    return Image.blend(broad, fine, 0.35)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_files(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def make_folder(root: Path, counts: Mapping[str, int], size: int = 32) -> Path:
    """Write so many pictures into each folder below `root`, every one different: {"train/cat": 3, "train/dog": 2}."""
    seed = 0
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index:03d}.png").write_bytes(picture(seed, size, size))
            seed += 1
    return root


def files_of(root: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by their path in it."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def make_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a tar archive, packed as its name says."""
    packing = path.suffix[1:] if path.suffix in (".gz", ".xz", ".bz2") else ""
    with tarfile.open(path, f"w:{packing}") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def make_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def python2_pickle(value: Any) -> bytes:
    """Return what Python 2 wrote, protocol 2, as in the published CIFAR-10 files: str as bytes, arrays of NumPy 1."""
    return b"\x80\x02" + _pickled(value) + b"."


def _pickled(value: Any) -> bytes:
    if isinstance(value, bytes):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(_pickled(item) for item in value) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(_pickled(key) + _pickled(item) for key, item in value.items()) + b"u"
    assert isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 2
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(_pickled(side) for side in value.shape) + b"\x86"
    return made + b"(K\x01" + shape + kind + b"\x89" + _pickled(value.tobytes()) + b"tb"


def cifar10_batch(seed: int, count: int = 20) -> dict[bytes, Any]:
    """Return one batch as CIFAR-10's README describes it: rows of 3,072 bytes, red plane, green plane, blue plane."""
    return {
        b"batch_label": b"training batch",
        b"labels": [index % 10 for index in range(count)],
        b"data": np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8),
        b"filenames": [b"picture_s_%06d.png" % index for index in range(count)],
    }


def cifar10_files() -> dict[str, bytes]:
    """Return the files of a small CIFAR-10 archive in the published format."""
    names = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
    files = {name: python2_pickle(cifar10_batch(seed)) for seed, name in enumerate(BATCHES)}
    files["batches.meta"] = python2_pickle({b"num_cases_per_batch": 20, b"label_names": names, b"num_vis": 3072})
    files["readme.html"] = b"<html></html>"
    return {f"cifar-10-batches-py/{name}": data for name, data in files.items()}


class FileServer(ThreadingHTTPServer):
    """Serves one content at every path; can break off, ignore ranges, or answer an error. Notes what it was asked."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = content
        self.cut_after: int | None = None
        """Bytes of each answer's body after which the connection breaks."""
        self.resumes = True
        self.status = 0
        self.ranges: list[str | None] = []
        """The Range header of each request."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.resumes else 0
        if self.server.status or (start and start >= len(self.server.content)):
            self.send_error(self.server.status or 416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.server.cut_after is None else body[: self.server.cut_after])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in http.server
        """Say nothing."""


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """Run a FileServer in a thread."""
    with FileServer(content) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def real_data(name: str) -> Path:
    """Return the path of a real data set's archive, or skip the test with the reason."""
    folder = os.environ.get("PUPILA_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand: set PUPILA_TEST_DATA to the folder that holds it")
    return path


def as_a_plain_user(code: str, *arguments: object, **environment: str) -> str:
    """Run code in a process that file permissions apply to, even where the tests run as root; return what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read any file, and there is no setpriv to give that right up")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *command]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
