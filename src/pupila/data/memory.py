"""Free memory of the machine or container, and a limit on what one library call may take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def free_memory() -> float:
    """Return the bytes that may still be taken, as Linux says for machine and container; endless elsewhere."""
    free = float("inf")
    with suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024.0 * int(lines["MemAvailable"].split()[0])
    with suppress(OSError, KeyError, ValueError):  # another system of groups, or no limit: then it says "max"
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())["anon"]
        free = min(free, float(limit - int(used)))
    return free


@contextmanager
def limited_memory(count: int) -> Iterator[None]:
    """Let this process take at most so many bytes more, on Linux: what is beyond fails as MemoryError does."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    except (ImportError, OSError, ValueError, IndexError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = pages * os.sysconf("SC_PAGE_SIZE") + count
    allowed = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
