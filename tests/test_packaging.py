"""What a release consists of: a small wheel for serving, and the backbone that training starts from as another."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import requests
from packaging.requirements import Requirement
from server_kit import wait_for_url

from pupila.errors import ModelError
from pupila.models import IN_CHECKOUT, bundled_backbone

ROOT = Path(__file__).parents[1]


def built(project: Path, copy: Path) -> Path:
    """Build a wheel from a copy, as building leaves files in the source."""
    shutil.copytree(project / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        if (project / name).exists():
            shutil.copy(project / name, copy)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=True)
    return copy / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that serves."""
    return built(ROOT, tmp_path_factory.mktemp("source"))


def test_wheel_is_small_and_holds_what_serving_needs_and_the_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert wheel.stat().st_size < 15e6
    assert not [name for name in names if "backbone.safetensors" in name]
    kept = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "pupila").rglob("*") if path.is_file()}
    assert {name for name in kept if "__pycache__" not in name} <= names
    assert {Path(name).name for name in names if ".dist-info/licenses/" in name} == {"LICENSE", "NOTICE"}


def find_in(site: Path, *checked: Path) -> subprocess.CompletedProcess[str]:
    """Ask a copy of Pupila outside any checkout where the backbone lies."""
    code = "from pupila.models import bundled_backbone; print(bundled_backbone())"
    environment = {"PYTHONPATH": ":".join(map(str, [site, *checked])), "PATH": "/usr/bin"}
    return subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True)


@pytest.fixture
def site(tmp_path: Path, wheel: Path) -> Path:
    """Install the wheel by hand, without what it needs."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    return tmp_path / "site"


def test_backbone_of_this_checkout_is_found() -> None:
    assert bundled_backbone() == ROOT / IN_CHECKOUT / "backbone.safetensors"


def test_backbone_is_found_in_its_own_package(site: Path) -> None:
    assert find_in(site, ROOT / "packages/pupila-backbone/src").stdout.strip().endswith("backbone.safetensors")


def test_backbone_is_found_in_the_checkout_that_was_installed_from(site: Path) -> None:
    about = next(site.glob("pupila-*.dist-info")) / "direct_url.json"
    about.write_text(json.dumps({"url": ROOT.as_uri(), "dir_info": {}}))
    assert find_in(site).stdout.strip() == str(ROOT / IN_CHECKOUT / "backbone.safetensors")


@pytest.mark.parametrize("about", [None, "{}", "no json", '{"url": "https://where.the/wheel/is.whl"}'])
def test_missing_backbone_is_an_error_that_says_how_to_install_it(site: Path, about: str | None) -> None:
    if about is not None:
        (next(site.glob("pupila-*.dist-info")) / "direct_url.json").write_text(about)
    done = find_in(site)
    assert f"{ModelError.__name__}: The bundled backbone is not installed." in done.stderr
    assert done.stderr.strip().endswith(f"{sys.executable} -m pip install pupila-backbone")


def test_versions_of_the_two_packages_and_the_module_are_one() -> None:
    projects = [ROOT / "pyproject.toml", ROOT / "packages" / "pupila-backbone" / "pyproject.toml"]
    found = {line for path in projects for line in path.read_text().splitlines() if line.startswith("version = ")}
    module = (ROOT / "src" / "pupila" / "__init__.py").read_text()
    assert len(found) == 1 and f"__{found.pop().replace('version', 'version__')}" in module


# The wheel in an environment of its own


class Environment:
    """A virtual environment that holds the wheel and what it declares, and nothing else."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder
        venv.create(folder, symlinks=True)
        self.pip("install", "--no-deps", "--no-index", wheel)
        site = next(folder.glob("lib/python*/site-packages"))
        for needed in declared(next(site.glob("pupila-*.dist-info"))):
            for top in {Path(file).parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(needed.locate_file(top))

    def pip(self, *arguments: str | Path) -> str:
        """Run this Python's pip on the environment."""
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.folder / "bin" / "python"

    def command(self, *arguments: object, **environment: str) -> tuple[list[str], dict[str, str]]:
        """Return a command of the environment's pupila, and the variables that it gets."""
        plain = {"PATH": os.defpath, "HOME": str(self.folder), "LANG": "C.UTF-8", "COLUMNS": "100"}
        return [str(self.folder / "bin" / "pupila"), *map(str, arguments)], {**plain, **environment}

    def pupila(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it, outside the checkout."""
        command, variables = self.command(*arguments, **environment)
        return subprocess.run(command, env=variables, cwd=self.folder, capture_output=True, text=True, timeout=60)


def declared(about: Path) -> list[metadata.Distribution]:
    """Return the installed distributions that a wheel needs without any extra, and what these need."""
    found: dict[str, metadata.Distribution] = {}
    waiting = list(metadata.Distribution.at(about).requires or ())
    while waiting:
        needed = Requirement(waiting.pop())
        if needed.name not in found and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            found[needed.name] = metadata.distribution(needed.name)
            waiting += found[needed.name].requires or ()
    return list(found.values())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("clean"), wheel)


def test_installed_wheel_needs_what_it_declares_and_no_more(installed: Environment) -> None:
    assert "No broken requirements found." in installed.pip("check")
    names = {line.split()[0] for line in installed.pip("list").splitlines()}
    assert "onnxruntime" in names and not {"torch", "onnx", "pytest", "babel"} & names


def test_installed_wheel_speaks_portuguese_and_answers(installed: Environment) -> None:
    helped = installed.pupila("--help", PUPILA_LANG="pt_BR")
    assert helped.stdout.startswith("Uso: pupila") and "Comandos:" in helped.stdout, helped.stderr
    assert {"best", "quick", "standard"} <= {
        line.split()[0] for line in installed.pupila("recipes").stdout.splitlines()
    }
    answered = installed.pupila("predict", ROOT / "examples" / "photos" / "horse.jpg")
    assert ": horse " in answered.stdout, answered.stderr


@pytest.fixture(scope="module")
def address(installed: Environment) -> Iterator[str]:
    command, variables = installed.command("serve", "--port", "0", "--workers", "1")
    log = installed.folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, text=True, env=variables, cwd=installed.folder
        )
    try:
        yield wait_for_url(process, log)
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def test_installed_wheel_serves_its_model_and_every_part_of_its_pages(address: str) -> None:
    with (ROOT / "examples" / "photos" / "frog.jpg").open("rb") as photo:
        answer = requests.post(f"{address}/predict", files={"file": photo}, timeout=60)
    assert answer.json()["predictions"][0]["category"] == "frog"
    page = ROOT / "src" / "pupila" / "server" / "api" / "page"
    paths = ["/", "/docs", "/review", "/openapi.json", "/card"]
    paths += [f"/page/{path.name}" for path in page.iterdir() if path.suffix != ".html"]
    assert len(paths) > 25
    assert [path for path in paths if not requests.get(address + path, timeout=60).ok] == []


def test_installed_wheel_says_how_to_install_what_training_needs(installed: Environment, wheel: Path) -> None:
    done = installed.pupila("train", "digits")
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"{installed.python} -m pip install 'pupila[train] @ {wheel.as_uri()}'")


def test_missing_backbone_is_installed_from_the_wheel_beside(
    installed: Environment, wheel: Path, tmp_path: Path
) -> None:
    ask = [installed.python, "-c", "from pupila.models import bundled_backbone; print(bundled_backbone())"]
    backbone = built(ROOT / "packages" / "pupila-backbone", tmp_path / "backbone")
    beside = wheel.with_name(backbone.name)
    beside.symlink_to(backbone)
    try:
        missing = subprocess.run(ask, capture_output=True, text=True, cwd=tmp_path)
        assert missing.stderr.strip().endswith(f"install it with: {installed.python} -m pip install {beside}")
        installed.pip("install", "--no-deps", "--no-index", beside)
        assert subprocess.run(ask, capture_output=True, text=True, cwd=tmp_path).stdout.endswith(
            "backbone.safetensors\n"
        )
    finally:
        beside.unlink()
