"""Feeds the decoder and a running server with broken pictures and broken requests; finds crashes, hangs and 5xx.

    python benchmarks/serving/fuzz.py MODEL.onnx [--images 200000] [--requests 20000] [--seed 0] [--minutes 15]
    python benchmarks/serving/fuzz.py MODEL.onnx --atheris [--minutes 15]

Mutates real files by their structure (containers.py: JPEG segments, PNG and WebP chunks, GIF blocks, TIFF entries, and
HEIC and AVIF boxes: within themselves, again and again, with lengths that lie) and byte by byte, and measures time and
memory. Multipart bodies, JSON, base64, compressed bodies, binary tensors and HTTP heads too; to /v2 it also sends
well-formed requests that lie about shapes, datatypes and sizes. All is drawn from the seed, so that a finding can be
repeated; each is written to ./fuzz-findings. Loopback only; ends by itself.

With --atheris the decoder is fuzzed instead with mutations that coverage guides. That needs: pip install atheris
"""

import argparse
import base64
import gzip
import importlib.util
import io
import json
import random
import resource
import socket
import struct
import sys
import time
import urllib.request
import zlib
from collections import Counter
from pathlib import Path

import containers
from atheris_decode import fuzz_with_coverage
from harness import memory, running
from lies import dishonest_inference
from PIL import Image

from pupila import images
from pupila.errors import ImageError
from pupila.server.process.libc import silence_libtiff

SLOW = 2.0
"""Seconds that one picture within the limits may take at most."""
KEPT = 32.0
"""MiB that may be left of one picture, or of all."""
PEAK = 600.0
"""MiB that the process may take while it decodes pictures of 2 megapixels and a megabyte."""
LIMITS = images.ImageLimits(max_bytes=2**20, max_pixels=2_000_000)


def corpus() -> list[tuple[str, bytes]]:
    """Return small real files of every format and many kinds."""
    rng = random.Random(7)
    photo = Image.frombytes("RGB", (24, 18), rng.randbytes(24 * 18 * 3)).resize((61, 47))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for kind, mode, options in (
        ("JPEG", "RGB", {"exif": exif.tobytes()}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "I;16", {}),
        ("PNG", "1", {}),
        ("GIF", "P", {"save_all": True, "append_images": [photo.rotate(90).convert("P")]}),
        ("WEBP", "RGBA", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
        ("AVIF", "RGB", {"exif": exif.tobytes()}),
        ("PNG", "RGB", {"exif": exif.tobytes()}),
        ("WEBP", "RGB", {"exif": exif.tobytes(), "save_all": True, "append_images": [photo.rotate(90)]}),
        ("MPO", "RGB", {"save_all": True, "append_images": [photo.rotate(90)]}),
        ("TIFF", "RGB", {"exif": exif}),
        ("TIFF", "F", {}),
        ("TIFF", "I;16", {}),
        ("PPM", "RGB", {}),
        ("PPM", "1", {}),
    ):
        buffer = io.BytesIO()
        photo.convert("I").convert(mode).save(buffer, kind, **options) if mode == "I;16" else photo.convert(mode).save(
            buffer, kind, **options
        )
        made.append(("JPEG" if kind == "MPO" else kind, buffer.getvalue()))
    made.append(("PPM", b"P3\n# by hand\n3 2\n255\n" + b" ".join(b"%d" % rng.randrange(256) for _ in range(18))))
    heic = (Path(__file__).parents[2] / "tests" / "quarters.heic").read_bytes()
    return [*made, ("HEIF", heic), ("HEIF", heic)]


def mutate(kind: str, data: bytes, rng: random.Random) -> bytes:
    """Return a file with one to four faults."""
    for _ in range(rng.randint(1, 4)):
        if kind in containers.CONTAINERS and rng.random() < 0.6:
            outer = kind in ("HEIF", "AVIF") and rng.random() < 0.4
            data = containers.mutate("boxes" if outer else kind, data, rng, mutate_bytes)
        elif kind == "JPEG" and rng.random() < 0.5:
            data = mutate_jpeg(data, rng)
        else:
            data = mutate_bytes(data, rng)
    return data


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, set, cut, repeat or insert bytes."""
    if not data:
        return rng.randbytes(9)
    at, span = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 16, 200))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * span + data[at + span :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[:at] + data[at : at + span] * rng.randint(2, 9) + data[at + span :]
    if kind == 4:
        return data[:at] + rng.randbytes(span) + data[at:]
    return (
        data[:at]
        + struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 2**16, 2**31 - 1, 2**32 - 1)))
        + data[at + 4 :]
    )


def mutate_jpeg(data: bytes, rng: random.Random) -> bytes:
    """Change, drop or repeat marker segments."""
    starts = [i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]
    if len(starts) < 3:
        return mutate_bytes(data, rng)
    first, second = sorted(rng.sample(starts, 2))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:first] + data[second:]
    if kind == 1:
        return data[:second] + data[first:second] * rng.randint(1, 5) + data[second:]
    if kind == 2:
        return data[: first + 2] + struct.pack(">H", rng.randrange(65536)) + data[first + 4 :]
    return data[:first] + b"\xff" + bytes([rng.randrange(0xC0, 0xFF)]) + data[first + 2 :]


def fuzz_images(count: int, seed: int, until: float) -> list[str]:
    """Decode mutated files in this process, and look at its memory; return the findings."""
    files, findings, outcomes = corpus(), [], Counter[str]()
    before, slowest, done = 0.0, 0.0, 0
    for number in range(count):
        if time.monotonic() > until:
            break
        rng = random.Random(f"{seed}:{number}")
        kind, data = rng.choice(files)
        broken = mutate(kind, data, rng)
        started, memory_before = time.perf_counter(), resident()
        outcome, fault = decoded(broken)
        outcomes[outcome] += 1
        if fault:
            findings.append(save(f"image-{number}", broken, fault))
        spent = time.perf_counter() - started
        slowest = max(slowest, spent)
        if spent > SLOW:
            findings.append(save(f"slow-{number}", broken, f"{spent:.1f} s"))
        if resident() - memory_before > KEPT:
            findings.append(save(f"kept-{number}", broken, f"{resident() - memory_before:.0f} MiB are kept"))
        done += 1
        if number == 1_000:
            before = resident()
    grown = resident() - before if before else 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"pictures: {done:,} decoded or refused {dict(outcomes)}, slowest {slowest:.2f} s, peak {peak:.0f} MiB")
    print(f"memory grew {grown:.0f} MiB after the first 1,000")
    if grown > KEPT:
        findings.append(f"memory grew by {grown:.0f} MiB")
    if peak > PEAK:
        findings.append(f"decoding took up to {peak:.0f} MiB")
    return findings


def decoded(data: bytes) -> tuple[str, str]:
    """Decode a file; return what came of it, and what is wrong with that, if anything is."""
    try:
        assert images.decode(data, 32, LIMITS).shape == (32, 32, 3)
    except ImageError as error:  # where a decoder has used up its stack or all the memory, a limit is missing
        return error.code, str(error) if "more memory" in str(error) else ""
    except BaseException as error:
        return "fault", f"{type(error).__name__}: {error}"
    return "decoded", ""


def resident() -> float:
    """Return this process's memory in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def mutate_inference(parts: list[bytes], rng: random.Random) -> tuple[bytes, bytes]:
    """Return the body of a request to /v2 with faults in its JSON or in its binary tensor, and more headers."""
    tensor = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    inputs: dict[str, object] = {"name": "files", "datatype": "BYTES", "shape": [len(parts)]}
    if rng.random() < 0.4:
        inputs["data"] = [base64.b64encode(part).decode() for part in parts]
        tensor = b""
    elif rng.random() < 0.3:
        inputs, tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3]}, rng.randbytes(3072)
    text = json.dumps({"inputs": [inputs], "outputs": [{"name": rng.choice(("logits", "category", "x"))}]}).encode()
    length = len(text)
    if rng.random() < 0.7:
        text = mutate_bytes(text, rng)
    else:
        tensor = mutate_bytes(tensor, rng)
    length = rng.choice((length, len(text), 0, 10**9)) if rng.random() < 0.2 else len(text)
    return text + tensor, b"Inference-Header-Content-Length: %d\r\n" % length


def written_in_base64(data: bytes, rng: random.Random) -> str:
    """Return a picture as one of the ways in which clients write base64."""
    text = base64.b64encode(data).decode()
    return rng.choice((
        text, text.rstrip("="), text.replace("+", "-").replace("/", "_"), text.replace("+", " "), f"b'{text}'",
        "\n".join(text[at : at + 76] for at in range(0, len(text), 76)), f"data:image/png;name=x.png;base64,{text}",
        f"DATA:;BASE64,{text}", text.replace("+", "%2B"), "data:image/png," + "%41" * 50, "https://a/b.jpg",
    ))  # fmt: skip


def json_of(parts: list[bytes], rng: random.Random) -> bytes:
    """Return JSON of pictures, perhaps with faults."""
    document = {"images": [written_in_base64(part, rng) for part in parts], "top": rng.choice((1, "3", None, "x"))}
    body = json.dumps(document).encode()
    return mutate_bytes(body, rng) if rng.random() < 0.5 else body


def encoded(body: bytes, rng: random.Random) -> tuple[bytes, bytes]:
    """Return a body and its headers: now and then in a Content-Encoding, with faults, or far larger than it looks."""
    headers = b""
    if rng.random() < 0.1:
        hops = mutate_bytes(b"1.2.3.4, [::1]:5", rng).replace(b"\r", b"").replace(b"\n", b"")
        headers = b"X-Forwarded-For: %s\r\nX-Forwarded-Prefix: /x\r\n" % hops
    if rng.random() > 0.25:
        return body, headers
    if rng.random() < 0.1:
        body = bytes(rng.choice((2**20, 2**27)))
    coding = rng.choice((b"gzip", b"deflate", b"br", b"gzip, gzip", b"identity"))
    if coding == b"gzip":
        body = gzip.compress(body, 1) * rng.choice((1, 1, 1, 2))
    elif coding == b"deflate":
        body = zlib.compress(body, 1)[rng.choice((0, 0, 2)) :]
    body = mutate_bytes(body, rng) if rng.random() < 0.3 else body
    return body, headers + b"Content-Encoding: %s\r\n" % coding


def mutate_request(files: list[tuple[str, bytes]], name: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a request with faults in its pictures, its body or its head."""
    parts = [
        mutate(*rng.choice(files), rng) if rng.random() < 0.7 else rng.choice(files)[1]
        for _ in range(rng.randint(1, 5))
    ]
    kind = rng.randrange(12)
    body = b"".join(
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="%d"\r\n\r\n%s\r\n' % (i, data)
        for i, data in enumerate(parts)
    )
    body += b"--B--\r\n"
    content = b"multipart/form-data; boundary=B"
    if kind < 2:
        body = mutate_bytes(body, rng)
    elif kind == 2:
        content = rng.choice(
            (b"multipart/form-data", b"multipart/form-data; boundary=C", b"image/png", b"text/plain", b"")
        )
    elif kind == 3:
        body, content = json_of(parts, rng), b"application/json"
    path = rng.choice((b"/predict", b"/predict?top=3", b"/predict?on_error=partial", b"/predict?explain=1&top=x"))
    if kind == 4:
        path = rng.choice((b"/v2/models/x/infer", b"/predictions/x", b"/%00", b"/\xff", b"/predict?" + b"a=b&" * 50))
    more = b""
    if kind in (8, 10, 11):
        path, content = b"/v2/models/%s/infer" % name, b"application/json"
        body, more = (mutate_inference if rng.random() < 0.4 else dishonest_inference)(parts, rng)
    if kind == 9:
        path, content, body = b"/predictions/%s" % name, b"image/*", parts[0]
    body, extra = encoded(body, rng)
    more += extra
    head = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: %s\r\nContent-Length: %d\r\n" % (path, content, len(body))
    head += more
    if kind == 5:
        head = mutate_bytes(head, rng)
    if kind == 6:
        head = head.replace(b"Content-Length", rng.choice((b"Transfer-Encoding", b"content-length ", b"X-Other")))
    if kind == 7:
        head += rng.choice(
            (b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"X: " + b"y" * 20000 + b"\r\n")
        )
    return head + b"Connection: close\r\n\r\n" + body


def fuzz_requests(model: Path, count: int, seed: int, until: float) -> list[str]:
    """Send mutated requests to a running server; return the findings."""
    files, findings, codes = corpus(), [], Counter[str]()
    with running("ours", model) as (process, port):
        name = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=20))["model"].encode()
        before, done = None, 0
        for number in range(count):
            if time.monotonic() > until:
                break
            sent = mutate_request(files, name, random.Random(f"{seed}:request:{number}"))
            code = exchange(port, sent)
            codes[code] += 1
            if (code.startswith("5") and code not in ("501", "505")) or code in ("hang", "refused"):
                findings.append(save(f"request-{number}", sent, code))
            done += 1
            if number == count // 4:
                before = memory(process.pid)
        grown = memory(process.pid) - before if before else 0.0
        print(f"requests: {done:,} {dict(codes)}, memory grew {grown:.0f} MiB after a quarter")
        if grown > 64:
            findings.append(f"the server's memory grew by {grown:.0f} MiB")
    return findings


def exchange(port: int, sent: bytes) -> str:
    """Return the status of the answer; "closed", "hang" or "refused" if there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), 15) as sock:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR) if len(sent) % 7 == 0 else None
            answer = sock.recv(65536)
    except TimeoutError:
        return "hang"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "closed"
    return answer[9:12].decode("latin-1") if answer else "closed"


def save(name: str, data: bytes, what: str) -> str:
    """Keep a finding and return a line about it."""
    folder = Path("fuzz-findings")
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return f"{name}: {what}"


def main() -> None:
    """Parse, fuzz, report; exit status 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=15.0, help="end after so long at the latest")
    parser.add_argument("--atheris", action="store_true", help="guide the mutations of pictures by coverage")
    options = parser.parse_args()
    silence_libtiff()
    if options.atheris:
        if importlib.util.find_spec("atheris") is None:
            print("left out: atheris is not installed (pip install atheris; it needs Linux and CPython up to 3.13)")
            return
        findings = fuzz_with_coverage(corpus(), round(60 * options.minutes))
    else:
        until = time.monotonic() + 60 * options.minutes
        findings = fuzz_requests(options.model.resolve(), options.requests, options.seed, until)
        findings += fuzz_images(options.images, options.seed, until)
    print(*findings, sep="\n") if findings else print("nothing found")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
