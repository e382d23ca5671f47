"""How many processes to use, from what the machine lets this one use: CPU affinity and the control group's quota."""

import os
from dataclasses import dataclass
from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Plan:
    """One worker process per CPU, one computing thread each: pictures are small, so that more threads only wait."""

    cpus: float
    workers: int

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers != 1)}, 1 computing thread each ({self.cpus:g} CPUs usable)"


def make_plan(workers: int = 0, cpu_max: Path = CPU_MAX) -> Plan:
    """Return the plan for this machine; `workers` above 0 overrides the number of processes."""
    cpus = usable_cpus(cpu_max)
    return Plan(cpus, workers or max(1, round(cpus)))


def usable_cpus(cpu_max: Path = CPU_MAX) -> float:
    """Return the CPUs that this process may use: not those of the machine, but those left by affinity and quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text().split()
        return min(float(allowed), int(quota) / int(period))
    except (OSError, ValueError):  # no control groups here, or no limit ("max")
        return float(allowed)
