"""From an address to a connection with Ray, which ends with the block. Knows nothing of what is done with it."""

import contextlib
import logging
import os
from collections.abc import Iterator

import ray

from pupila.errors import SettingsError

HERE = "here"
"""The address that stands for: the cluster that runs on this machine, or where there is none, one for this run."""


SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would report home otherwise
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the default warns of its own change
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else what a worker prints comes twice
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",  # of a minute, for which a team would wait for a node that is lost
}
"""What is set of Ray's own settings, where a person has not."""


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
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        where = (None if start else "auto") if address == HERE else address
        ray.init(where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
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
