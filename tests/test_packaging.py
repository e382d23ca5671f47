"""What a release consists of: a small wheel for serving, and the backbone that training starts from as another."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pupila.errors import ModelError
from pupila.models import IN_CHECKOUT, bundled_backbone

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, as building leaves files in the source."""
    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=True)
    return copy / done.stdout.splitlines()[-1]


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
    assert f"{ModelError.__name__}: The bundled backbone is not installed. Install it with: pip install" in done.stderr


def test_versions_of_the_two_packages_and_the_module_are_one() -> None:
    projects = [ROOT / "pyproject.toml", ROOT / "packages" / "pupila-backbone" / "pyproject.toml"]
    found = {line for path in projects for line in path.read_text().splitlines() if line.startswith("version = ")}
    module = (ROOT / "src" / "pupila" / "__init__.py").read_text()
    assert len(found) == 1 and f"__{found.pop().replace('version', 'version__')}" in module
