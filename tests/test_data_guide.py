"""docs/guides/your-own-photos.md works as it is written: its commands run, one after the other, on a small folder."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from server_kit import wait_for_url

from pupila.cli import main

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "your-own-photos.md"
SHORT = ["--epochs", "1", "--weights", "none"]
SHORT += [f"--set={pair}" for pair in ("network_size=32", "progressive=[]", "batch_size=16", "export=float32")]
"""What is added to training, so that a test does not take the ten minutes of which the guide speaks."""


def commands() -> list[list[str]]:
    """Return what the guide's blocks say, a list of words each."""
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_guide_reaches_a_served_model_in_five_commands() -> None:
    names = [words[:2] for words in commands()[:5]]
    assert [name[0] for name in names] == ["pip", "pupila", "pupila", "pupila", "pupila"]
    assert [name[1] for name in names[1:]] == ["data", "train", "evaluate", "serve"]


@pytest.mark.slow
def test_guide_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for category, shape in (("cat", (48, 64)), ("dog", (64, 48))):
        (tmp_path / "photos" / category).mkdir(parents=True)
        for number in range(20):
            pixels = draw.integers(0, 120, (*shape, 3)) + (100 if category == "cat" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / category / f"{number}.jpg")
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "photos" / "cat" / "0.jpg").read_bytes())
    for words in commands():
        if words[:2] == ["pupila", "serve"]:
            answer_one(words, tmp_path)
        elif words[:2] == ["pupila", "reproduce"] or words[0] != "pupila":
            continue
        else:
            run([*words, *(SHORT if words[1] == "train" else [])])
    assert (tmp_path / "photos.html").exists() and (tmp_path / "runs" / "corrected" / "model.onnx").exists()


def run(words: list[str]) -> None:
    """Run one of the guide's commands where we are."""
    done = CliRunner().invoke(main, words[1:])
    assert done.exit_code == 0, f"{shlex.join(words)}: {done.output}"


def answer_one(words: list[str], folder: Path) -> None:
    """Serve as the guide says, on a port that is free, and ask as it says."""
    command = [sys.executable, "-m", "pupila", *words[1:], "--port", "0"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        url = wait_for_url(server, folder / "log")
        (curl,) = [command for command in commands() if command[0] == "curl"]
        asked = [word.replace("http://127.0.0.1:3000", url) for word in curl]
        asked[1:1] = ["--silent", "--noproxy", "*"]
        done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout)["predictions"][0]["category"] in ("cat", "dog")
    finally:
        server.terminate()
        server.wait(60)
