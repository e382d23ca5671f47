"""How many worker processes the server starts: one per usable CPU."""

from dataclasses import dataclass

from pupila._cpus import usable_cores, usable_cpus


@dataclass(frozen=True)
class Plan:
    """One worker process per CPU, one computing thread each: pictures are small, so that more threads only wait."""

    cpus: float
    workers: int

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' * (self.workers != 1)}, 1 computing thread each ({self.cpus:g} CPUs usable)"


def make_plan(workers: int = 0) -> Plan:
    """Return the plan for this machine; `workers` above 0 overrides the number of processes."""
    return Plan(usable_cpus(), workers or usable_cores())
