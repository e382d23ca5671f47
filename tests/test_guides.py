"""What getting started, the guides and the README tell a reader to type works, in the order in which it is told.

`sh` blocks are run top to bottom, each document in a folder of its own, and `console` blocks are not: those need root,
Docker, or what this machine has already. pupila's commands run in this process, servers in processes of their own.
Trainings get a budget of about a second, by options that anybody has.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Container
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from server_kit import picture, serving, wait_for_url
from test_documents import DEFAULT_URL, PORTUGUESE, ROOT, blocks
from training_kit import colours

from pupila.cli import main
from pupila.models import bundled_model

DOCS = ROOT / "docs"
FIRST = DOCS / "getting-started.md"
BY_ITSELF = DOCS / "guides" / "your-own-photos.md"
"""Is run by tests/test_data_guide.py, on data of its own."""
PAGES = [path for path in DOCS.glob("guides/*.md") if not path.name.endswith(PORTUGUESE)]
"""The Portuguese pages have the same blocks, which tests/test_documents.py holds."""
GUIDES = [*sorted({*PAGES} - {BY_ITSELF}), ROOT / "README.md"]
SHORT = ["--minutes", "0.01", "--weights", "bundled"]
SHORT += [word for value in ("sample=100", "export=float32") for word in ("--set", value)]
ELSEWHERE = ("make ", "pip ", "pupila train cifar10")
"""What is not typed here: these install or download things."""
PATIENCE = 180


class Reader:
    """Types what a document says, in `folder`."""

    def __init__(self, folder: Path, url: str, done: Container[str] = ()) -> None:
        self.folder = folder
        self.url = url
        self._done = done
        self._servers = contextlib.ExitStack()

    def follow(self, document: Path) -> None:
        """Type every `sh` block; each command must succeed."""
        with contextlib.chdir(self.folder), self._servers:
            for block in blocks(document, "sh"):
                self.type(block.replace("\\\n", " "))

    def type(self, block: str) -> None:
        """Type a block: as a whole into a shell, or line by line if there is a command of pupila in it."""
        typed = [
            line.removeprefix(".venv/bin/") for line in block.splitlines()
        ]  # what `make` installs is installed here
        lines = [line for line in typed if line and not line.startswith((*ELSEWHERE, "#"))]
        if not any(line.startswith("pupila ") for line in lines):
            self.shell("\n".join(lines))
            return
        for line in lines:
            if line.startswith("pupila serve"):
                self.serve(line.split()[2:])
            elif line.startswith("pupila train") and line in self._done:
                continue  # takes long, and its results are there
            elif re.match(r"pupila (?!.*[|>])", line):
                self.command(line)
            else:
                self.shell(line)

    def shell(self, text: str) -> None:
        """Run a block in a shell."""
        text = re.sub(r"\bcurl ", "curl --fail-with-body --silent --show-error --noproxy '*' ", text)
        text = text.replace(DEFAULT_URL, self.url)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"

    def command(self, line: str) -> None:
        """Run a command of pupila; one that waits for a running server to notice something is tried again."""
        arguments = line.partition("#")[0].split()[1:]
        if arguments[0] == "train":
            arguments += SHORT
        limit = time.monotonic() + PATIENCE
        while True:
            done = CliRunner().invoke(main, arguments)
            if done.exit_code == 0 or arguments[0] != "models" or time.monotonic() > limit:
                break
            time.sleep(0.1)
        assert done.exit_code == 0, f"{line}\n{done.output}"

    def serve(self, arguments: list[str]) -> None:
        """Start a server in the place of the one before, and ask this one from now on."""
        self._servers.close()
        log = self.folder / "server.log"
        command = [sys.executable, "-m", "pupila", "serve", *arguments, "--port", "0", "--workers", "1"]
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, text=True)
        self._servers.callback(process.wait, 30)
        self._servers.callback(process.terminate)
        self.url = wait_for_url(process, log)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """What `make run` starts."""
    with serving(bundled_model(), tmp_path_factory.mktemp("log") / "log", '{"port": 0, "workers": 1}') as running:
        yield running


def lay_out(folder):
    """Put the pictures that the documents speak of into a folder, the sample photos of the checkout among them."""
    shutil.copytree(ROOT / "examples" / "photos", folder / "examples" / "photos")
    for name, colour in (("horse", "red"), ("dog", "green"), ("frog", "blue")):
        (folder / f"{name}.jpg").write_bytes(picture(colour, "JPEG", (160, 120)))
    data = colours(60, classes=("cat", "dog"))
    for number, (pixels, label) in enumerate(zip(data.images, data.labels, strict=True)):
        category = data.classes[label]
        for place in (f"photos/{category}", f"set-aside/{category}", "holiday"):
            path = folder / place / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[:, ::-1] if "set-aside" in place else pixels).save(path)


@pytest.fixture(scope="module")
def beginner(tmp_path_factory, server):
    """The folder of a person who has just worked through getting started."""
    folder = tmp_path_factory.mktemp("beginner")
    lay_out(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUPILA_CACHE", str(folder / "cache"))
        Reader(folder, server.url).follow(FIRST)
    return folder


def test_getting_started_leads_to_two_models_of_ones_own(beginner):
    assert {path.parent.name for path in beginner.glob("runs/*/model.onnx")} == {"digits-quick", "photos-standard"}


def test_drift_takes_no_folder_as_reference_that_the_model_was_trained_on(beginner):
    model, photos = beginner / "runs" / "photos-standard" / "model.onnx", beginner / "photos"
    done = CliRunner().invoke(main, ["drift", str(model), str(beginner), "--reference", str(photos)])
    assert "was trained on these pictures" in done.output


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guide_works_as_told(guide, beginner, server, tmp_path, monkeypatch):
    monkeypatch.setenv("PUPILA_CACHE", str(beginner / "cache"))
    for name in ("runs", "photos", "set-aside", "holiday", "examples"):
        shutil.copytree(beginner / name, tmp_path / name)
    for path in beginner.glob("*.jpg"):
        shutil.copy(path, tmp_path)
    Reader(tmp_path, server.url, "\n".join(blocks(FIRST, "sh")).splitlines()).follow(guide)
    secrets = [path for path in tmp_path.iterdir() if path.name in ("key.txt", "keys.txt", "header.txt")]
    assert len(secrets) == (3 if guide.name == "secure.md" else 0)
    assert {path.stat().st_mode & 0o777 for path in secrets} <= {0o600}


@pytest.mark.parametrize("page", [*DOCS.rglob("*.md"), *ROOT.glob("*.md")], ids=lambda path: path.name)
def test_no_key_stands_in_an_argument_of_a_program(page):
    """Everybody on the machine can read the arguments of running programs."""
    assert not re.search(r"\bcurl\b[^\n]*(Bearer|X-API-Key)", page.read_text("utf-8"), re.IGNORECASE)
