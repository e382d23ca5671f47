"""What the tests of pupila.cluster share: a small Ray cluster, one a file of tests, and photos to give it."""

import contextlib
import itertools
import os
import secrets
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import requests
from data_kit import real_data
from PIL import Image
from training_kit import colours

PATIENCE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # else a token that happens to lie in the home folder decides
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the default warns of its own change
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_enable_worker_prestart": "0",
    "RAY_worker_niceness": "0",  # else they starve beside other work: Ray's default is 15
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Ray's own settings for a machine that does much else: wait for processes to start, and start none in advance or
without need; but look often whether one is lost.
"""
HELPERS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


class Nodes:
    """A `ray.cluster_utils.Cluster` on loopback, an address a node, with little memory and no dashboard."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.cluster = Cluster(initialize_head=False)
        self._hosts = itertools.count(2)  # not 127.0.0.1, in whose place Ray puts an address that others can reach

    @property
    def address(self) -> str:
        """HOST:PORT, for --cluster."""
        return str(self.cluster.address)

    def add(self, **options: Any) -> Any:
        """Start one more node; the first is the head."""
        identity = secrets.token_hex(28)
        ports = dict(zip(HELPERS, free_ports(len(HELPERS)), strict=True))
        port = ports["dashboard_agent_listen_port"]
        teller = threading.Thread(target=tell_port, args=(self.folder, identity, port), daemon=True)
        os.environ["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = identity
        try:
            teller.start()
            host = f"127.0.0.{next(self._hosts)}"
            given = {"node_ip_address": host, "object_store_memory": 100 * 2**20, "include_dashboard": False}
            return self.cluster.add_node(**given, **ports, **options)
        finally:
            del os.environ["RAY_OVERRIDE_NODE_ID_FOR_TESTING"]

    def predicts(self, node: Any) -> bool:
        """Return whether one of a node's processes has a predicting process of its own."""
        return any("pupila.batch.worker" in command for command in below(node.all_processes["raylet"][0].process.pid))

    def kill(self, node: Any) -> None:
        """Kill a node's processes with SIGKILL, as if its machine had lost its power."""
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A cluster whose head has one core; tests add the nodes that they kill."""
    pytest.importorskip("ray")
    with ray_cluster() as nodes:
        yield nodes


@contextlib.contextmanager
def ray_cluster() -> Iterator[Nodes]:
    """The same as a context."""
    with tempfile.TemporaryDirectory(prefix="pr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        # Here Ray notes the cluster's address, in a folder that it expects and does not make.
        Path(folder, "ray").mkdir()
        settings = {**PATIENCE, "RAY_TMPDIR": folder}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        nodes = Nodes(Path(folder))
        # A node is given up after five missed answers: a second each if it is dead, half a minute if it is only slow.
        health = {"health_check_period_ms": 1000, "health_check_timeout_ms": 30_000}
        try:
            nodes.add(num_cpus=1, temp_dir=folder, _system_config=health)
            yield nodes
        finally:
            nodes.cluster.shutdown()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


ARCHIVE = "cifar10.tar.xz"
NAMES = ("airplane", "automobile", "bird")
"""The classes that come first in the archive: to read all ten takes seconds."""


def fill_with_photos(root: Path, each: int) -> str:
    """Write so many photos a class into class folders, and return where they are from.

    CIFAR-10's, where they are at hand; else pictures that are made, of which colour tells the class.
    """
    for name in NAMES:
        (root / name).mkdir(parents=True)
    try:
        archive = real_data(ARCHIVE)
    except pytest.skip.Exception:
        made = colours(each * len(NAMES), classes=NAMES)
        for number, (pixels, label) in enumerate(zip(made.images, made.labels, strict=True)):
            Image.fromarray(pixels).save(root / NAMES[label] / f"{number:04d}.jpg", quality=90)
        return "made pictures"
    left = {f"cifar10/train/{name}": each for name in NAMES}
    with tarfile.open(archive, "r|xz") as pictures:
        for entry in pictures:
            folder, _, name = entry.name.rpartition("/")
            if left.get(folder, 0) and entry.isfile():
                left[folder] -= 1
                (root / folder.removeprefix("cifar10/train/") / name).write_bytes(pictures.extractfile(entry).read())
                if not any(left.values()):
                    break
    return ARCHIVE


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 photos of each of three classes, in class folders."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    fill_with_photos(folder, 60)
    return folder


# Serving


def serve_command(model: Path, port: int, address: str, workers: int = 2) -> "subprocess.CompletedProcess[str]":
    """Serve a model on the cluster, by the command, which returns when all replicas have it."""
    options = ["--port", str(port), "--workers", str(workers), "--request-timeout", "120", f"--cluster={address}"]
    command = [sys.executable, "-m", "pupila", "serve", str(model), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def deploy(model: Path, port: int, address: str, workers: int = 2) -> None:
    """The same, which must go well; returns when it listens."""
    done = serve_command(model, port, address, workers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Serving on every node") and done.stdout.count("\n") == 1, done.stdout
    assert done.stderr == ""
    limit = time.monotonic() + 300
    while True:
        try:
            requests.get(f"http://127.0.0.1:{port}/healthz", timeout=60)
            return
        except requests.ConnectionError:
            assert time.monotonic() < limit
            time.sleep(0.1)


class Got(NamedTuple):
    """What a client of Load got for one request."""

    status: int
    """0 if the connection failed; then the client asks the next address the same again."""
    category: str
    """Or why there is none."""
    version: str
    url: str
    seconds: float


class Load:
    """Clients that ask for an answer, one request after the other, until told to stop; they note what they get."""

    def __init__(self, urls: Sequence[str], photo: bytes, clients: int = 4, patience: float = 150) -> None:
        """The clients begin with one address each, in turn. patience: seconds that one waits for an answer."""
        self.answers: list[Got] = []
        self._urls, self._photo, self._patience = urls, photo, patience
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, place: int) -> None:
        with requests.Session() as session:
            while not self._over.is_set():
                url, begun = self._urls[place % len(self._urls)], time.monotonic()
                try:
                    files = {"file": ("photo.jpg", self._photo)}
                    got = session.post(f"{url}/predict", files=files, timeout=self._patience)
                    category = got.json()["predictions"][0]["category"] if got.ok else got.text
                    found = (got.status_code, category, got.headers.get("Pupila-Model", ""))
                except requests.RequestException as error:
                    found = (0, repr(error), "")
                    place += 1
                self.answers.append(Got(*found, url, time.monotonic() - begun))

    def wait_for(self, count: int) -> None:
        """Return when so many more answers have come."""
        wanted = len(self.answers) + count
        limit = time.monotonic() + 2 * self._patience
        while len(self.answers) < wanted:
            assert time.monotonic() < limit, self.answers[-3:]
            time.sleep(0.02)


# Processes and ports


def below(pid: int) -> Iterator[str]:
    """Yield the command line of each process below another."""
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield " ".join(process.cmdline())


def tell_port(folder: Path, identity: str, port: int) -> None:
    """Say which port a node's agent will take: the node gives up if the agent has not said so within 15 s."""
    for _ in range(6000):
        for session in folder.glob("session_2*"):
            (session / f"dashboard_agent_listen_port_{identity}").write_text(str(port))
            return
        time.sleep(0.005)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on just now, each another."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.2", 0))
        return [one.getsockname()[1] for one in sockets]
