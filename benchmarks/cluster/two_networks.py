"""All that Pupila does on a cluster, on two machines as far as one can play two: network namespaces with addresses.

    sudo python benchmarks/cluster/two_networks.py [predict serve train sweep] [--each 500]

Each namespace has an address, a Ray node with one core, and a link to the other; nothing else can be reached from it.
The cluster asks for a token.
Photos are CIFAR-10's where they are at hand (see CONTRIBUTING.md), else made.
predict, train, sweep: the second node is killed with SIGKILL in the middle of the job and its link is cut; what comes
out must be what comes out without that. serve: the same while clients ask both nodes without a pause: whoever asks the
first gets every answer, whoever asked the second gets it from the first; when the node is back, both answer again.
Needs root and `ip netns`; takes about seven minutes.
"""

import argparse
import contextlib
import json
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

from batch_kit import count_answers, count_lines
from cluster_kit import PATIENCE, Got, Load, fill_with_photos, tell_port

from pupila.models import bundled_model

ADDRESSES = ("10.77.0.1", "10.77.0.2")
NAMES = tuple(f"pupila{os.getpid()}{letter}" for letter in "ab")
CLUSTER = f"--cluster={ADDRESSES[0]}:6379"
VALUES = ["weights=bundled", "validation_fraction=0.4", "batch_size=54", "network_size=32", "progressive=[]"]
SMALL = [word for value in [*VALUES, "precision=float32", "export=float32"] for word in ("--set", value)]
CLIENTS, CLIENTS_WAIT = 4, 150.0
"""Seconds after which a client that hears nothing asks the other node: no machine that is cut off says so."""
LIMIT = 1800.0
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


def link(state: str) -> None:
    """Cut the link between them, or mend it: down, up."""
    ip("-n", NAMES[1], "link", "set", "two", state)


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
    environment = {**PATIENCE, **os.environ, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": identity}
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


def pupila(*arguments: str | Path) -> list[str]:
    """Return the command line of a command of Pupila's."""
    return [sys.executable, "-m", "pupila", *map(str, arguments)]


def with_a_kill(command: Sequence[str], ready: Callable[[], bool]) -> str:
    """Run a command on the cluster, kill the second node when it is ready for that, and return what it prints."""
    command = ["ip", "netns", "exec", NAMES[0], *command, CLUSTER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        until(lambda: ready() or job.poll() is not None)
        if job.poll() is not None:
            check(False, f"the job was over before the node was killed: {job.communicate()[0]}")
        kill_node(1)
        link("down")
        print(f"killed {ADDRESSES[1]}")
        output, _ = job.communicate(timeout=LIMIT)
    check(job.returncode == 0, output)
    return output


def predict(photos: Path, folder: Path) -> None:
    """Predict on both nodes, kill the second in the middle, and compare with the plain command's table."""
    plain, cluster = folder / "plain.csv", folder / "cluster.csv"
    inside(0, pupila("predict", bundled_model(), photos, "--out", plain))
    with_a_kill(pupila("predict", bundled_model(), photos, "--out", cluster), lambda: count_answers(cluster) > 0)
    check(plain.read_bytes() == cluster.read_bytes(), "the table is another one")
    print(f"predict: {count_lines(cluster) - 1} rows, the same as without a cluster")


def train(photos: Path, folder: Path) -> None:
    """Train with a worker on each node, and kill the second after the first epoch."""
    metrics = folder / "train" / "metrics.jsonl"
    command = pupila("train", photos, *SMALL, "--epochs", "3", "--workers", "2", "--runs", folder, "--name", "train")
    with_a_kill([*command, "--checkpoint-seconds", "0"], lambda: count_lines(metrics) > 0)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    seen = [row["pictures"] for row in rows]
    check(len(seen) == 3 and len(set(seen)) == 1, f"pictures seen: {seen}")
    check((folder / "train" / "model.onnx").exists(), "there is no model")
    print(f"train: {seen} pictures seen in 3 epochs, validation accuracy {rows[-1]['validation_accuracy']:.3f}")


def sweep(photos: Path, folder: Path) -> None:
    """Train four trials, two at a time, and kill the second node after its first epoch."""
    grid = ["--grid", "lr=0.005,0.01", "--seeds", "2", "--set", "epochs=3"]
    command = pupila("sweep", photos, *SMALL, *grid, "--runs", folder, "--name", "sweep", "--checkpoint-seconds", "0")
    with_a_kill(command, lambda: len(list(folder.glob("sweep/*/metrics.jsonl"))) > 1)
    found = json.loads((folder / "sweep" / "results.json").read_text())
    epochs = [len(trial["rows"]) for trial in found["trials"]]
    check(epochs == [3] * 4 and not found["failures"], f"epochs of each trial: {epochs}, {found['failures']}")
    print(f"sweep: 4 trials of {epochs} epochs, the best {found['best']}")


def serve(photos: Path, folder: Path) -> None:
    """Serve on both nodes, ask them without a pause, kill the second meanwhile, and start it again."""
    settings = ["--host", "0.0.0.0", "--port", "3000", "--workers", "2", "--request-timeout", "300"]  # noqa: S104 - in there
    inside(0, [*pupila("serve", bundled_model(), *settings), CLUSTER])
    photo = sorted(photos.rglob("*.*"))[0]
    urls = [f"http://{address}:3000" for address in ADDRESSES]
    both_answer(urls, photo)
    judge_load(load_with_a_kill(urls, photo), urls, photo)
    link("up")
    start_node(1, folder)
    both_answer(urls, photo)


def both_answer(urls: Sequence[str], photo: Path) -> None:
    """Ask each node, under its address, until it answers."""
    for url in urls:
        begun = time.monotonic()
        category = inside(0, [sys.executable, "-c", ASK, url, str(photo), str(LIMIT)]).strip()
        check(category == photo.parent.name, f"{photo.parent.name} is called {category}")
        print(f"serve: {url} answers {category} after {time.monotonic() - begun:.0f} s")


def load_with_a_kill(urls: Sequence[str], photo: Path) -> list[Got]:
    """Return what the clients got while the second node was killed, half of which asked that node."""
    command = ["ip", "netns", "exec", NAMES[0], sys.executable, __file__, "--ask", str(photo), *urls]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdin is not None and clients.stdout is not None

        def wait_for(count: int) -> None:
            print(count, file=clients.stdin, flush=True)
            check(clients.stdout.readline() == "\n", "the clients wait for answers in vain")

        wait_for(100)
        kill_node(1)
        link("down")
        print(f"killed {ADDRESSES[1]}")
        wait_for(100)
        found, _ = clients.communicate(timeout=LIMIT)
    return [Got(*answer) for answer in json.loads(found)]


def judge_load(found: Sequence[Got], urls: Sequence[str], photo: Path) -> None:
    """Check that every request was answered in the end, and rightly."""
    answered = [got for got in found if got.status == 200]
    lost = [got for got in found if got.status != 200]
    check({got.category for got in answered} == {photo.parent.name}, f"answers: {answered[:3]}")
    check(all(got.status == 0 and got.url == urls[1] for got in lost), f"not answered: {lost[:3]}")
    check(len(lost) <= CLIENTS // 2 and any(got.url == urls[1] for got in answered), f"too many lost: {lost[:3]}")
    longest = max(got.seconds for got in answered)
    print(f"serve: {len(answered)} requests answered, the slowest in {longest:.1f} s; {len(lost)} were in the hands of "
          "the killed node's proxy, and were answered by the other when their clients asked again")  # fmt: skip


def ask(photo: Path, urls: Sequence[str]) -> None:
    """Be the clients; for each number on standard input wait for so many more answers, at its end print them all."""
    with Load(urls, photo.read_bytes(), CLIENTS, CLIENTS_WAIT) as load:
        for line in sys.stdin:
            load.wait_for(int(line))
            print(flush=True)
    print(json.dumps(load.answers))


ASK = """
import sys, time
from pupila.client import Client
limit = time.monotonic() + float(sys.argv[3])
while True:  # a node listens as soon as its proxy has started, which may be after the first has answered
    try:
        print(Client(sys.argv[1], timeout=300).predict(sys.argv[2]).category)
        break
    except OSError:
        if time.monotonic() > limit:
            raise
        time.sleep(0.5)
"""


def check(true: bool, why: str) -> None:
    """End with a reason unless it is true."""
    if not true:
        raise SystemExit(f"FAILED: {why}")


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
    steps = {step.__name__: step for step in (predict, train, sweep, serve)}
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(steps)}; serve last; else all")
    parser.add_argument("--each", type=int, default=500, help="photos a class, of three, to predict")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ask:
        return ask(chosen.ask, chosen.steps)
    if unknown := set(chosen.steps) - set(steps):
        parser.error(f"{unknown.pop()}: there is no such step.")
    with tempfile.TemporaryDirectory(prefix="pn", dir="/tmp", ignore_cleanup_errors=True) as name, networks():
        folder = Path(name)
        many, few = folder / "many", folder / "few"
        print(f"photos: {fill_with_photos(many, chosen.each)}")
        fill_with_photos(few, 60)
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        os.environ.update(token, PUPILA_CACHE=str(folder / "cache"))
        try:
            start_node(0, folder)
            for step in chosen.steps or steps:
                begun = time.monotonic()
                link("up")
                start_node(1, folder)
                steps[step](many if step == "predict" else few, folder)
                print(f"{step}: met, {time.monotonic() - begun:.0f} s", flush=True)
        finally:
            for number in (0, 1):
                kill_node(number)


if __name__ == "__main__":
    main()
