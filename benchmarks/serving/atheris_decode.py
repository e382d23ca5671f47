"""Coverage-guided fuzzing of the decode path: atheris watches the Python code of Pillow and of `pupila.images`.

    python benchmarks/serving/fuzz.py MODEL.onnx --atheris [--minutes 15]

Pillow's decoders in C are run but not watched: new paths are found by the Python code that they lead to. An exception
other than ImageError, a run of more than 5 s, or more than 2 GiB ends it; the input is kept in ./fuzz-findings.
"""

import subprocess
import sys
import tempfile
from pathlib import Path


def fuzz_with_coverage(files: list[tuple[str, bytes]], seconds: int) -> list[str]:
    """Run this module in a process of its own, as libFuzzer ends the process that it runs in; return the findings."""
    Path("fuzz-findings").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, data) in enumerate(files):
            (Path(folder) / f"{number}-{kind}").write_bytes(data)
        command = [sys.executable, __file__, folder, f"-max_total_time={seconds}", "-max_len=65536", "-timeout=5"]
        command += ["-rss_limit_mb=2048", "-artifact_prefix=fuzz-findings/", "-print_final_stats=1"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=seconds + 120)
    lines = done.stderr.splitlines()
    print(*[line for line in lines if "DONE" in line or line.startswith("stat::")], sep="\n")
    if done.returncode == 0:
        return []
    return [f"atheris ended with {done.returncode}:", *lines[-30:]]


def main() -> None:
    """Watch what is imported from here on, and fuzz until told to stop."""
    import atheris

    with atheris.instrument_imports(include=["PIL", "pupila.images"]):
        from PIL import Image

        from pupila import images
        from pupila.errors import ImageError

        Image.init()  # or the readers of the formats would be imported later, unwatched

    limits = images.ImageLimits(max_bytes=2**20, max_pixels=2_000_000)

    def decode(data: bytes) -> None:
        try:
            pixels = images.decode(data, 32, limits)
        except ImageError:
            return
        assert pixels.shape == (32, 32, 3)

    atheris.Setup(sys.argv, decode)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
