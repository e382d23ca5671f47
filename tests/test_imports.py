"""Which module may import which (import-linter's contracts in pyproject.toml), and what must not be loaded."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_modules_import_only_what_they_may() -> None:
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("pupila", ["torch", "onnx", "onnxruntime", "numpy", "PIL", "flask", "matplotlib", "sklearn"]),
        ("pupila.cli", ["torch", "onnx", "onnxruntime", "flask", "matplotlib", "sklearn"]),
        ("pupila.server", ["torch", "onnx", "ray", "gunicorn", "matplotlib", "sklearn"]),
    ],
)
def test_importing_stays_light(module, unwanted):
    code = f"import {module}, sys; print(sorted(set({unwanted!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


SCRIPTS = [path for folder in ("benchmarks", "tools", "examples", "docs") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_script_imports_of_the_package_is_there(script):
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pupila":
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), name
