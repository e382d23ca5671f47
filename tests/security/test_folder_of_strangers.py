"""A command that is given in a stranger's folder runs no Python in it: no process takes a module from there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_kit import Nodes
from training_kit import write_photos

MARK = "ran"
MODULE = f"open({MARK!r}, 'w').close()\n"
VALUES = ["epochs=1", "weights=none", "network_size=32", "progressive=[]", "precision=float32", "export=float32"]
SMALL = [word for value in VALUES for word in ("--set", value)]


def run_in(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Give a command in a folder, as a person does; runs and cache lie beside it."""
    command = [str(Path(sys.executable).with_name("pupila")), *arguments]
    environment = {**os.environ, "PUPILA_CACHE": str(folder.parent / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["sweep", ".", "--jobs", "2", "--seeds", "2"], ["train", ".", "--workers", "2"]])
def test_module_among_the_pictures_is_not_run(command: list[str], tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 30)
    (folder / "pickle.py").write_text(MODULE)
    done = run_in(folder, *command, *SMALL, "--runs", str(tmp_path / "runs"))
    assert not (folder / MARK).exists()
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_module_among_the_pictures_is_not_run_by_a_cluster(cluster: Nodes, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 3)
    (folder / "numpy.py").write_text(f"open({str(folder / MARK)!r}, 'w').close()\nfrom torch import *\n")
    done = run_in(folder, "predict", ".", "--out", str(tmp_path / "o.csv"), f"--cluster={cluster.address}")
    assert not (folder / MARK).exists()
    assert "Written: " in done.stdout, done.stderr  # and the module is named as no picture


PLOT = """
import io, logging
from PIL import Image
from pupila.evaluation.pages.plots import plot_curves
logging.basicConfig()
print(Image.open(io.BytesIO(plot_curves([]))).size)
"""


def test_settings_of_plots_among_the_pictures_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("savefig.dpi: 240\nsteer\x1b[31m: 1\n")
    done = subprocess.run([sys.executable, "-P", "-c", PLOT], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("(1080, 456)\n", "")
