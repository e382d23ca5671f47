"""Memory that a worker has freed between pieces still in use goes back to the system."""

import subprocess
import sys

import pytest

SCRIPT = """
import time
import psutil
from pupila.server.process import libc as native
native.TRIM = 0.1
def resident():
    return psutil.Process().memory_info().rss / 2**20
pieces = [bytearray(4_000) for _ in range(40_000)]
if {told}:
    native.give_memory_back()
full = resident()
kept = pieces[::20]
del pieces
limit = time.monotonic() + {seconds}
while resident() > full - 100 and time.monotonic() < limit:
    time.sleep(0.05)
print(full - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory")
def test_memory_between_pieces_in_use_is_given_back() -> None:
    assert freed(told=True, seconds=20) > 100
    assert freed(told=False, seconds=0.5) < 50


def freed(*, told: bool, seconds: float) -> float:
    """Return by how many MiB a process shrinks that frees 19 of 20 pieces, about 150 MiB."""
    script = SCRIPT.format(told=told, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return float(done.stdout)
