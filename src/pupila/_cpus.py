"""How many CPUs this process may use: CPU affinity and the CPU quota of its control group (cgroup v2 and v1).

`docker run --cpus 2`, Kubernetes limits and systemd's CPUQuota set a quota and leave the affinity alone, so that
os.sched_getaffinity() and os.cpu_count() still count the CPUs of the machine. A quota of a group above holds as well.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
"""Which control groups this process is in: a line `id:controllers:/path` each."""


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
