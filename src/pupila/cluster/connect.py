"""From an address to a connection with Ray, which ends with the block. Knows nothing of what is done with it."""

import contextlib
import logging
from collections.abc import Iterator

import ray
from ray.exceptions import AuthenticationError

from pupila.errors import SettingsError

HERE = "here"
"""The address that stands for: the cluster that runs on this machine, or where there is none, one for this run."""


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
        where = (None if start else "auto") if address == HERE else address
        ray.init(where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise SettingsError(
            f"{address}: the cluster asks for a token. Set RAY_AUTH_MODE=token here and on every node, and copy "
            "~/.ray/auth_token from the first node."
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"{address}: no Ray cluster answers there ({str(error).splitlines()[0]}). "
            "Start one with `ray start --head`, or leave the address out."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def cpus() -> int:
    """Return the cores that the cluster has in all; at least one."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(found.get("CPU", 1)))
