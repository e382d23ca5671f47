"""What the commands on a cluster share: the connection with Ray, paths that every node understands, and printing.

What a training prints on a node is shown where the command was given: through a log in the run's folder, which all
nodes share.
"""

import contextlib
import logging
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError

from pupila._files import open_file
from pupila.errors import SettingsError, TrainingError
from pupila.progress import LOG, printable_lines
from pupila.recipe import Recipe

HERE = "here"
"""The address that stands for: the cluster that runs on this machine, or where there is none, one for this run."""
PLAIN = re.compile(r"(?P<host>[^/]+):(?P<port>\d{1,5})")
"""HOST:PORT; whatever else Ray understands is left to it."""
ANSWERS = 10.0
"""Seconds within which the first node must take a connection."""
EVERY = 0.2
"""Seconds between two looks at the log."""


@contextlib.contextmanager
def connected(address: str = HERE, start: bool = True) -> Iterator[None]:
    """Work with the cluster at HOST:PORT; a connection that the caller has made before is used and kept.

    Without `start`, a cluster must be running, also where the address leaves open which one. What Ray has to say, and
    what processes on nodes print, goes into Ray's own logs.
    Raises SettingsError if no cluster answers there.
    """
    if ray.is_initialized():
        yield
        return
    try:
        _knock(address)
        where = (None if start else "auto") if address == HERE else address
        with contextlib.chdir("/"):  # where nodes look for modules first: a stranger's pictures may lie in this folder
            ray.init(where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise SettingsError(
            f"{address}: the cluster asks for a token. Set RAY_AUTH_MODE=token here and on every node, and copy "
            "~/.ray/auth_token from the first node."
        ) from error
    except Exception as error:  # Ray has many of its own, and bare ones
        raise SettingsError(_reason(address, error)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError if nothing at all listens at HOST:PORT: Ray would ask for minutes, and print what it thinks."""
    parts = PLAIN.fullmatch(address)
    if parts is not None:
        socket.create_connection((parts["host"].strip("[]"), int(parts["port"])), ANSWERS).close()


def _reason(address: str, error: Exception) -> str:
    """Return one sentence on why there is no connection, and one on what to do."""
    if address == HERE:
        return (
            f"No Ray cluster runs on this machine, or it did not start ({str(error).split('. ')[0]}). Start one with "
            "`ray start --head`, or say where one runs: --cluster=HOST:6379."
        )
    return (
        f"{address}: no Ray cluster answers there ({first_line(error)}). The address is that of the first "
        "node, HOST:6379 if `ray start --head` was told no other port."
    )


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def gave_up(error: Exception, fix: str) -> TrainingError:
    """Return the error for what Ray raises, which has a dozen types of its own."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return TrainingError(f"The cluster gave up ({reason}). {fix}")


def has_gpus() -> bool:
    """Return whether a node of the cluster has a GPU."""
    return bool(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def cpus() -> int:
    """Return the cores that the cluster has in all; at least one."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(found.get("CPU", 1)))


def full(source: str) -> str:
    """Return a path with all its folders; what is no path here, like `digits`, stays as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def check_weights(recipe: Recipe) -> None:
    """Raise TrainingError if the weights are a file by a path that holds only here: the recipe is kept as it is."""
    path = Path(recipe.weights)
    if path.exists() and not path.is_absolute():
        raise TrainingError(f"{path}: nodes work in folders of their own. Give the full path of the weights.")


@contextlib.contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Print here the lines that are added to the folder's log, as they come, and the last of them before it ends."""
    log, over = folder / LOG, threading.Event()
    begun = log.stat().st_size if log.exists() else 0
    thread = threading.Thread(target=_follow, args=(log, begun, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(log: Path, place: int, over: threading.Event) -> None:
    last = False
    while not last:
        last = over.wait(EVERY)
        try:
            with open_file(log) as file:  # opened each time: so a network's file system looks for what is new
                file.seek(place)
                new = file.read()
        except OSError:  # it is not there yet, or is no file
            continue
        whole = new[: new.rfind(b"\n") + 1]
        place += len(whole)
        sys.stdout.write(printable_lines(*whole.decode(errors="replace").split("\n")))
        sys.stdout.flush()
