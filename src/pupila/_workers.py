"""A pool of child processes over pipes: each job is a list of items, each answer one line an item, in order.

A process that dies costs time and no more: another one takes its place, and its job is done again, item by item. An
item that ends a process twice gets a line that says so.

These are plain child processes: `multiprocessing` would run the user's main script again in every worker, cannot be
used from a script read from standard input, nor within another worker. A message is its length in a line, then its
bytes; no pickle, since a worker reads files of strangers.

How many there should be is said by usable_cores(): CPU affinity and the CPU quota of the control group (cgroup v2 and
v1). `docker run --cpus 2`, Kubernetes limits and systemd's CPUQuota set a quota and leave the affinity alone, so that
os.cpu_count() still counts the CPUs of the machine. A quota of a group above holds as well.
"""

import os
import signal
import subprocess
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Self, TypeVar

from pupila.errors import PupilaError

Item = TypeVar("Item")
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
"""Which control groups this process is in: a line `id:controllers:/path` each."""
AHEAD = 8
"""Jobs a process under way or waiting to be yielded: one slow item does not make the other processes wait."""
DONE, REFUSED = b"+", b"!"
"""The first byte of an answer: what follows is the answer, or why there is none."""


class RefusedError(Exception):
    """The worker can do no job; says why."""


class DiedError(Exception):
    """The process ended before its answer was complete; another one has taken its place. `code` is how it ended."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _ClosedError(Exception):
    """The pool is closed, and nobody waits for the answer."""


class Worker:
    """One child process."""

    def __init__(self, arguments: Sequence[str], shared: Sequence[int] = ()) -> None:
        """arguments: of the Python interpreter, for a program that calls serve(). shared: descriptors it may use."""
        self._arguments, self._shared = arguments, shared
        self._killed = False
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join(path for path in sys.path if path)  # finds this very pupila
        environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths}  # NumPy would start one a core
        command = [sys.executable, "-P", "-W", "ignore", *self._arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, pass_fds=self._shared)

    def ask(self, job: bytes) -> bytes:
        """Return the answer; one thread at a time. Raises DiedError or RefusedError."""
        process, answer = self._process, b""
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for the type checker
        with suppress(OSError, ValueError):  # it has died
            _write(process.stdin, job)
            answer = _read(process.stdout)
        if answer.startswith(REFUSED):
            raise RefusedError(answer[1:].decode())
        if answer:
            return answer[1:]
        process.kill()
        process.communicate()
        if self._killed:
            raise _ClosedError
        self._process = self._start()
        raise DiedError(process.returncode)

    def kill(self) -> None:
        """End the process at once, and start no other."""
        self._killed = True
        self._process.kill()

    def close(self) -> None:
        """Let the process end, and wait until it has."""
        self._process.communicate()


class WorkerPool:
    """Child processes, asked by two threads each: one packs the next job while the other waits for an answer."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(2 * len(workers), "workers")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=kind is None, cancel_futures=True)
        for _ in range(2):  # a thread may put a new process in the place of one that was just killed
            if kind is not None:
                for worker in self._workers:
                    worker.kill()
            self._threads.shutdown()
        for worker in self._workers:
            worker.close()

    def map(
        self, jobs: Iterable[list[Item]], pack: Callable[[list[Item]], bytes], lost: bytes
    ) -> Iterator[tuple[list[Item], bytes]]:
        """Yield each job and its lines, in order; only so many jobs are in memory.

        pack: makes the message of a job. lost: the line of an item that ended a process twice. Raises RefusedError.
        """
        waiting: deque[tuple[list[Item], Future[bytes]]] = deque()
        for job in jobs:
            waiting.append((job, self._threads.submit(self._answer, job, pack, lost)))
            if len(waiting) > AHEAD * len(self._workers):
                done, lines = waiting.popleft()
                yield done, lines.result()
        for done, lines in waiting:
            yield done, lines.result()

    def _answer(self, job: list[Item], pack: Callable[[list[Item]], bytes], lost: bytes) -> bytes:
        message, worker = pack(job), self._idle.get()
        try:
            return worker.ask(message)
        except DiedError:
            return b"".join(_answer_alone(worker, pack([item]), lost) for item in job)
        finally:
            self._idle.put(worker)


def _answer_alone(worker: Worker, job: bytes, lost: bytes) -> bytes:
    for _ in range(2):
        try:
            return worker.ask(job)
        except DiedError:
            continue
    return lost


def serve(answer: Callable[[bytes], bytes]) -> None:
    """Answer jobs until standard input ends, as it does when the parent is done, or is no more.

    A PupilaError becomes the parent's RefusedError. What a native library prints goes to standard error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then closes our input
    warnings.simplefilter("ignore")  # Pillow remarks on odd metadata; what matters comes as ImageError
    answers = open(os.dup(1), "wb")  # noqa: PTH123, SIM115 - a descriptor, open as long as the process
    os.dup2(2, 1)
    try:
        while job := _read(sys.stdin.buffer):
            try:
                _write(answers, DONE + answer(job))
            except PupilaError as error:
                _write(answers, REFUSED + str(error).encode())
    except BrokenPipeError:
        os._exit(1)  # the parent was killed; leaving in the ordinary way would try to flush once more


def _write(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(b"%d\n" % len(message))
    pipe.write(message)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    """Return the next message; nothing if it is not there as a whole."""
    head = pipe.readline()
    message = pipe.read(int(head)) if head.endswith(b"\n") else b""
    return message if message and len(message) == int(head) else b""


def usable_cpus(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """Return the CPUs that this process may use, which can be a fraction. root: where control groups are mounted."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(allowed), *_quotas(root, membership)])


def usable_cores(root: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return how many processes or threads that compute all the time these CPUs keep busy; at least 1."""
    return max(1, round(usable_cpus(root, membership)))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    for folder in _groups(root, membership):
        try:
            quota, period = _limit(folder)
            if quota > 0 and period > 0:  # v1 says -1 where there is no limit
                yield quota / period
        except (OSError, ValueError):  # no such group, as within a container, or no limit: v2 says "max"
            continue


def _limit(folder: Path) -> tuple[int, int]:
    """Return microseconds of CPU time, and the period that they are for."""
    if (folder / "cpu.max").exists():
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota), int(period)
    return int((folder / "cpu.cfs_quota_us").read_text()), int((folder / "cpu.cfs_period_us").read_text())


def _groups(root: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups and of all above, each mount's own last.

    Within a container the path can be one that only the host has; the mount's own folder is then the container's group.
    """
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):  # no control groups here
        lines = []
    for line in [*lines, "0::/", "0:cpu:/"]:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mounts = [root, root / "unified"]
        elif "cpu" in controllers.split(","):
            mounts = [root / controllers, root / "cpu"]
        else:
            continue
        group = PurePosixPath("/" + "/".join(part for part in path.split("/") if part not in ("", ".", "..")))
        yield from (mount / place.relative_to("/") for mount in mounts for place in (group, *group.parents))
