"""Batch prediction and serving on two machines, as far as one machine can play two: network namespaces with addresses.

    sudo python benchmarks/cluster/two_networks.py [MODEL] [--pictures 2000]

Each namespace has an address, a Ray node with one core, and a link to the other; nothing else can be reached from it.
The second node is killed with SIGKILL in the middle of the job, and its link is cut. The table must be the one that the
plain command writes. Then the model is served, and asked under the address of each node. Needs root and `ip netns`.
"""

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from batch_kit import count_lines, fill
from cluster_kit import PATIENCE, tell_port
from server_kit import picture, write_model

ADDRESSES = ("10.77.0.1", "10.77.0.2")
NAMES = tuple(f"pupila{os.getpid()}{letter}" for letter in "ab")
LIMIT = 900.0
"""Seconds that any one step may take, on a machine that does much else."""


def ip(*arguments: str) -> None:
    """Change the network."""
    subprocess.run(["ip", *arguments], check=True)


@contextlib.contextmanager
def networks() -> Iterator[None]:
    """Two namespaces, linked; gone at the end of the block."""
    try:
        for name in NAMES:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "one", "netns", NAMES[0], "type", "veth", "peer", "name", "two", "netns", NAMES[1])
        for name, end, address in zip(NAMES, ("one", "two"), ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
        yield
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def start_node(number: int, folder: Path) -> None:
    """Start a Ray node in its namespace, the first as the head; returns when it has joined."""
    identity, port = secrets.token_hex(28), 52365
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--disable-usage-stats"]
    command += [f"--node-ip-address={ADDRESSES[number]}", f"--object-store-memory={100 * 2**20}"]
    command += ["--metrics-export-port=8085", "--dashboard-agent-grpc-port=8086", "--runtime-env-agent-port=8087"]
    command += [f"--dashboard-agent-listen-port={port}"]
    if number == 0:
        command += ["--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}"]
    else:
        command += [f"--address={ADDRESSES[0]}:6379"]
    threading.Thread(target=tell_port, args=(folder, identity, port), daemon=True).start()
    environment = {**os.environ, **PATIENCE, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": identity}
    inside(number, command, environment)


def inside(number: int, command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """Run a command in a namespace to its end, and return what it prints."""
    enter = ["ip", "netns", "exec", NAMES[number], *command]
    done = subprocess.run(enter, env=environment, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def kill_node(number: int) -> None:
    """Kill all that runs in a namespace, with SIGKILL."""
    found = subprocess.run(["ip", "netns", "pids", NAMES[number]], capture_output=True, text=True, check=True).stdout
    for pid in map(int, found.split()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def predict(model: Path, pictures: Path, folder: Path) -> None:
    """Predict on both nodes, kill the second in the middle, and compare with the plain command's table."""
    pupila = [sys.executable, "-W", "ignore", "-m", "pupila", "predict", str(model), str(pictures), "--out"]
    inside(0, [*pupila, str(folder / "plain.csv")])
    journal = folder / "cluster.csv.unfinished" / "rows"
    command = [*pupila, str(folder / "cluster.csv"), f"--cluster={ADDRESSES[0]}:6379"]
    with subprocess.Popen(["ip", "netns", "exec", NAMES[0], *command]) as job:
        until(lambda: count_lines(journal) > 0 or job.poll() is not None)
        kill_node(1)
        ip("-n", NAMES[1], "link", "set", "two", "down")
        print(f"killed {ADDRESSES[1]} after {count_lines(journal)} rows")
        job.wait(LIMIT)
    same = (folder / "plain.csv").read_bytes() == (folder / "cluster.csv").read_bytes()
    rows = count_lines(folder / "cluster.csv") - 1
    print(f"predict: {rows} rows, {'the same' if same else 'NOT THE SAME'} as without a cluster")
    if not same:
        raise SystemExit(1)


def serve(model: Path) -> None:
    """Serve on both nodes, and ask each under its address from the first."""
    settings = ["--host", "0.0.0.0", "--port", "3000", "--workers", "2", "--deadline", "300"]  # noqa: S104 - in there
    pupila = [sys.executable, "-W", "ignore", "-m", "pupila", "serve", str(model), *settings]
    inside(0, [*pupila, f"--cluster={ADDRESSES[0]}:6379"])
    for address in ADDRESSES:
        url, begun = f"http://{address}:3000", time.monotonic()
        category = inside(0, [sys.executable, "-c", ASK, url, picture("green").hex(), str(LIMIT)]).strip()
        print(f"serve: {address} answers {category}, {time.monotonic() - begun:.0f} s after it was deployed")


ASK = """
import sys, time
from pupila.client import Client
limit = time.monotonic() + float(sys.argv[3])
while True:  # a node listens as soon as its proxy has started, which may be after the first has answered
    try:
        print(Client(sys.argv[1], timeout=300).predict(bytes.fromhex(sys.argv[2]))[0].category)
        break
    except OSError:
        if time.monotonic() > limit:
            raise
        time.sleep(0.5)
"""


def until(true: Callable[[], bool]) -> None:
    """Return when it is true; gives up in the end."""
    limit = time.monotonic() + LIMIT
    while not true():
        if time.monotonic() > limit:
            raise SystemExit("It took too long.")
        time.sleep(0.02)


def main() -> None:
    """Play two machines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="a model; without one, the tests' model of colours")
    parser.add_argument("--pictures", type=int, default=2000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pn", dir="/tmp", ignore_cleanup_errors=True) as name, networks():
        folder = Path(name)
        model = chosen.model.resolve() if chosen.model else write_model(folder / "colours.onnx")
        try:
            for number in (0, 1):
                start_node(number, folder)
            predict(model, fill(folder / "pictures", chosen.pictures), folder)
            ip("-n", NAMES[1], "link", "set", "two", "up")
            start_node(1, folder)
            serve(model)
        finally:
            for number in (0, 1):
                kill_node(number)


if __name__ == "__main__":
    main()
