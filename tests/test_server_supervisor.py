"""The supervisor goes on whatever its system refuses, and however its workers end: real processes, real signals."""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from server_kit import Running, picture, signal_worker, wait_for_url, wait_until, write_model

SERVE = """
import sys
from pathlib import Path
from pupila.errors import ModelError
from pupila.predictor import Predictor
from pupila.server import Settings
from pupila.server.process import supervisor
marks, load = Path(sys.argv[2]), Predictor.load
{before}
try:
    supervisor.serve(Path(sys.argv[1]), Settings(port=0, workers=1, forwarded_allow=tuple(sys.argv[3:])), load)
except ModelError as error:
    sys.exit(f"ModelError: {{error}}")
"""
CRASHING = """
def load(path):
    with (marks / "starts").open("a") as file:
        file.write("x")
    if (marks / "broken").exists():
        os._exit(3)
    return Predictor.load(path)
import os
"""


def launched(tmp_path: Path, before: str, *arguments: str) -> subprocess.Popen[str]:
    model = write_model(tmp_path / "colours.onnx")
    command = [sys.executable, "-c", SERVE.format(before=before), str(model), str(tmp_path), *arguments]
    with (tmp_path / "log").open("w") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, text=True)


@contextlib.contextmanager
def served(tmp_path: Path, before: str = "", *arguments: str) -> Iterator[Running]:
    """Run a server of one worker, some of whose system is prepared by a piece of Python; it must end cleanly."""
    process = launched(tmp_path, before, *arguments)
    try:
        yield Running(process, wait_for_url(process, tmp_path / "log"), tmp_path / "log")
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def kill_worker(server: Running, number: int = signal.SIGKILL) -> int:
    """Kill the worker, and return when another one is ready."""
    (worker,) = server.workers()
    signal_worker(worker, number)
    wait_until(lambda: worker not in server.workers() and is_ready(server), 30)
    return worker


def is_ready(server: Running) -> bool:
    return len(server.workers()) == 1 and server.get("/readyz").json()["workers"] == 1


REFUSED = """
import errno, os
forks, fork = [], os.fork
def refusing():
    forks.append(1)
    if len(forks) in (2, 3):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()
os.fork = refusing
"""


def test_worker_that_the_system_has_no_room_for_is_started_a_moment_later(tmp_path: Path) -> None:
    with served(tmp_path, REFUSED) as server:
        kill_worker(server)
        assert server.log.read_text().count("a worker cannot be started, which is tried again in a moment") == 2
        assert "pupila_worker_starts_total 2.0" in server.get("/metrics").text


MANY_FILES = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
"""


@pytest.mark.skipif(0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2000, reason="2,000 open files are needed")
def test_descriptors_of_any_number_will_do(tmp_path: Path) -> None:
    with served(tmp_path, MANY_FILES) as server:
        kill_worker(server)
        assert server.predict(picture()).status_code == 200


def test_workers_that_end_at_once_are_started_with_pauses_and_a_single_one_at_once(tmp_path: Path) -> None:
    with served(tmp_path, CRASHING) as server:
        (worker,) = server.workers()
        (tmp_path / "broken").touch()
        signal_worker(worker, signal.SIGKILL)
        time.sleep(3)
        assert 4 <= len((tmp_path / "starts").read_text()) <= 10
        (tmp_path / "broken").unlink()
        wait_until(lambda: server.workers() and is_ready(server), 30)
        time.sleep(2.5)  # by then it is none of those
        (tmp_path / "starts").unlink()
        kill_worker(server)
        assert (tmp_path / "starts").read_text() == "x"
        assert server.log.read_text().count("has ended with code 3") <= 10


def test_server_none_of_whose_workers_can_start_ends_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    process = launched(tmp_path, CRASHING + "supervisor.GIVE_UP = 0.5\n")
    try:
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.wait()
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last == "ModelError: No worker can start: the last one has ended with code 3. See the log."


@pytest.mark.parametrize(
    ("broken", "raised", "reason"),
    [
        ("load", "ModelError('the name \\ud800')", "the name \\ud800"),
        ("supervisor.create_app", "ValueError('no \\ud800')", "A worker cannot start (ValueError: no \\ud800)."),
    ],
)
def test_first_start_that_cannot_load_ends_at_once_with_the_reason(
    tmp_path: Path, broken: str, raised: str, reason: str
) -> None:
    process = launched(tmp_path, f"def fail(*_):\n    raise {raised}\nload = Predictor.load\n{broken} = fail\n")
    try:
        assert process.wait(20) == 1  # before GIVE_UP
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "log").read_text().splitlines()[-1] == f"ModelError: {reason}"


RESTORED = """
import atexit, signal
state = signal.getsignal(signal.SIGINT)
atexit.register(lambda: print("restored:", signal.getsignal(signal.SIGINT) is state, signal.set_wakeup_fd(-1) == -1))
def load(path):
    raise ModelError("no model")
"""


def test_signals_do_what_they_did_once_a_server_has_ended(tmp_path: Path) -> None:
    """A notebook goes on after pupila.serve(): Ctrl-C interrupts it again."""
    process = launched(tmp_path, RESTORED)
    try:
        assert process.wait(20) == 1
    finally:
        process.kill()
        process.wait()
    assert "restored: True True" in (tmp_path / "log").read_text()


def test_worker_may_be_killed_by_a_signal_without_a_name(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        worker = kill_worker(server, signal.SIGRTMIN + 1)
        assert f"worker {worker} has ended with signal {signal.SIGRTMIN + 1}" in server.log.read_text()


def test_workers_that_were_stopped_together_with_the_supervisor_are_not_killed(tmp_path: Path) -> None:
    """As by Ctrl-Z, or with a container that is paused: the supervisor may be the first to go on."""
    with served(tmp_path) as server:
        (worker,) = server.workers()
        for pid in (worker, server.process.pid):
            signal_worker(pid, signal.SIGSTOP)
        time.sleep(3.5)
        signal_worker(server.process.pid, signal.SIGCONT)
        time.sleep(0.4)
        signal_worker(worker, signal.SIGCONT)
        time.sleep(1)
        assert server.workers() == [worker]
        assert server.predict(picture()).status_code == 200


ORPHAN = """
import os, sys, time
from pathlib import Path
from pupila.predictor import Predictor
from pupila.server import Settings
from pupila.server.addresses import bind
from pupila.server.process.supervisor import Supervisor
host = Supervisor(Path(sys.argv[1]), Settings(port=0, workers=1), Predictor.load, bind(Settings(port=0)))
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)
while os.getppid() == host.process:
    time.sleep(0.01)
host.work(0)
"""


def test_worker_whose_supervisor_died_before_it_began_ends(tmp_path: Path) -> None:
    model = write_model(tmp_path / "colours.onnx")
    done = subprocess.run([sys.executable, "-c", ORPHAN, str(model)], stdout=subprocess.PIPE, timeout=30, check=True)
    pid = int(done.stdout.split()[0])
    try:
        wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_server_without_a_standard_output_serves(tmp_path: Path) -> None:
    with served(tmp_path, "import os\nos.close(1)\nsys.stdout = None\n") as server:
        kill_worker(server)
        assert server.predict(picture()).status_code == 200


@pytest.mark.parametrize(("trusted", "warned"), [("*", True), ("10.0.0.1", False)])
def test_server_that_believes_everybody_says_so(tmp_path: Path, trusted: str, warned: bool) -> None:
    with served(tmp_path, "", trusted) as server:
        assert ("--forwarded-allow '*' believes what anybody says" in server.log.read_text()) == warned
