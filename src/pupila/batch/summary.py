"""What a job did, for people and for programs. Knows nothing of how it was done."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pupila.progress import printable

FAILURES_SHOWN = 3


@dataclass
class Summary:
    """The outcome of a job; every number is of files."""

    files: int
    hidden: int
    """Passed over; a hidden folder counts as one."""
    resumed: int
    """Answered before this run."""
    seconds: float = 0.0
    """This run's, without the resumed ones."""
    failed: int = 0
    unknown: int = 0
    categories: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """The first few paths that could not be read, and why."""
    out: Path | None = None
    sorted_into: Path | None = None
    applied: bool = False
    folders: dict[str, int] = field(default_factory=dict)
    kept: Path | None = None
    """Where the answers wait for --apply."""

    @property
    def files_per_second(self) -> float:
        """Files answered by this run, by the time that it took."""
        return (self.files - self.resumed) / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return all of it with a JSON form."""
        fields = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return {**fields, "files_per_second": self.files_per_second}

    def to_text(self) -> str:
        """Return a few lines."""
        lines = [f"{self.files:,} files in {self.seconds:.1f} s ({self.files_per_second:,.0f} files/s)"]
        if self.resumed:
            lines[0] += f", of which {self.resumed:,} were answered before"
        if self.hidden:
            lines.append(f"{self.hidden:,} hidden files or folders were passed over")
        if self.failed:
            lines += [f"{self.failed:,} could not be read:", *(f"  {failure}" for failure in self.failures)]
        lines += [f"{category:20} {count:9,}" for category, count in self.categories.items()]
        if self.out is not None:
            lines.append(f"Written: {self.out}")
        return "\n".join(map(printable, [*lines, *self._sorting_lines()]))

    def _sorting_lines(self) -> list[str]:
        if self.sorted_into is None:
            return []
        counts = ", ".join(f"{folder} {count:,}" for folder, count in self.folders.items())
        if self.applied:
            return [f"Sorted into {self.sorted_into}: {counts}"]
        return [
            f"A dry run: nothing was sorted. {self.sorted_into} would hold: {counts}",
            f"Add --apply to do it; the answers wait for that in {self.kept}.",
        ]
