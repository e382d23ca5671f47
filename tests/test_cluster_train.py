"""Training on several machines, without Ray: pictures that one of them lacks, and what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_kit import free_ports
from torch import multiprocessing

from pupila.errors import DataError, TrainingError, install_command
from pupila.training.distributed.process_group import joined


def lead_or_fail(rank: int, folder: str, port: int) -> None:
    """One of two workers that look for the pictures; the second is on a machine that does not have them."""
    environment = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in environment.items()})
    with joined() as team:
        try:
            with team.first_on_the_machine():
                if rank == 1:
                    raise DataError("photos: there is no such folder.")
        except TrainingError as error:
            Path(folder, str(rank)).write_text(str(error))


def test_pictures_that_one_machine_lacks_end_all_workers_with_the_reason(tmp_path: Path):
    multiprocessing.spawn(lead_or_fail, (str(tmp_path), *free_ports(1)), nprocs=2)
    said = [(tmp_path / rank).read_text() for rank in "01"]
    assert said[0] == said[1]
    assert said[0].startswith("photos: there is no such folder.") and said[0].endswith("under the same path.")


WITHOUT = ["train digits", "sweep digits --grid lr=0.1,0.2", "predict m.onnx . --out a.csv", "serve"]
ASKED = """
import sys
from click.testing import CliRunner
from pupila.cli import main
sys.modules[sys.argv[1]] = None
for line in sys.argv[2:]:
    done = CliRunner().invoke(main, [*line.split(), "--cluster"])
    print(done.exit_code, done.stderr, end="")
"""


@pytest.mark.parametrize(("lacks", "commands"), [("ray", WITHOUT), ("starlette", WITHOUT[-1:])])
def test_without_the_extra_each_command_says_what_to_install(lacks: str, commands: list[str]):
    line = [sys.executable, "-c", ASKED, lacks, *commands]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    fix = f"Install it with: {install_command('cluster')}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"1 pupila: Working on a cluster needs an optional part of Pupila. {fix}"
    ] * len(commands)
