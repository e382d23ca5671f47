"""Who may import whom, and what must not be loaded by whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pupila

ROOT = Path(pupila.__file__).parent
FLOORS = {
    "_cpus": 0, "_files": 0, "_names": 0, "errors": 0, "progress": 0,
    "recipe": 1, "images": 1, "manifest": 1, "models": 1, "client": 1, "data": 2,
    "predictor": 2, "evaluation": 3, "feedback": 3, "training": 4, "server": 4, "batch": 3, "cluster": 5, "cli": 6,
    "__init__": 7, "__main__": 7,
}  # fmt: skip
HEAVY = {
    "torch": {"training", "cluster"},
    "onnx": {"training"},
    "ray": {"cluster"},
    "flask": {"server"},
    "gunicorn": {"server"},
    "onnxruntime": {"predictor", "training"},
    "PIL": {"images", "evaluation"},
    "sklearn": {"data", "evaluation"},
    "tensorboard": {"training"},
    "mlflow": {"training"},
}
FILES = sorted(ROOT.rglob("*.py"))


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "pupila":
                yield from (f"pupila.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_floor_imports_a_higher_one(path):
    for name in imports(path):
        if name.startswith("pupila."):
            other = name.split(".")[1]
            if other in FLOORS and other != room(path):
                assert FLOORS[other] < FLOORS[room(path)], f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_stay_in_their_rooms(path):
    for name in imports(path):
        package = name.split(".")[0]
        assert room(path) in HEAVY.get(package, {room(path)}), f"{path} imports {name}"


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("pupila", ["torch", "onnx", "onnxruntime", "numpy", "PIL", "flask", "gunicorn", "matplotlib", "sklearn"]),
        ("pupila.cli", ["torch", "onnx", "onnxruntime", "flask", "gunicorn", "matplotlib", "sklearn"]),
        ("pupila.server", ["torch", "onnx", "ray", "matplotlib", "sklearn"]),
    ],
)
def test_importing_stays_light(module, unwanted):
    code = f"import {module}, sys; print(sorted(set({unwanted!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", pupila.__all__)
def test_public_names_are_there(name):
    assert getattr(pupila, name) is not None


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="no attribute 'Predictr'"):
        pupila.Predictr  # noqa: B018
