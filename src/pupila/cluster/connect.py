"""From an address to a connection with Ray, which ends with the block. Knows nothing of what is done with it."""

import contextlib
import logging
import re
import socket
from collections.abc import Iterator

import ray
from ray.exceptions import AuthenticationError

from pupila.errors import SettingsError

HERE = "here"
"""The address that stands for: the cluster that runs on this machine, or where there is none, one for this run."""
PLAIN = re.compile(r"(?P<host>[^/]+):(?P<port>\d{1,5})")
"""HOST:PORT; whatever else Ray understands is left to it."""
ANSWERS = 10.0
"""Seconds within which the first node must take a connection."""


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
        f"{address}: no Ray cluster answers there ({str(error).splitlines()[0]}). The address is that of the first "
        "node, HOST:6379 if `ray start --head` was told no other port."
    )


def cpus() -> int:
    """Return the cores that the cluster has in all; at least one."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(found.get("CPU", 1)))
