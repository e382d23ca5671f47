"""Every error that a user can cause or act on; the server and the command line map them to status and exit codes."""

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

ImageErrorCode = Literal[
    "image_empty",  # no bytes at all
    "image_unrecognised",  # not a picture in a format that we read
    "image_truncated",  # starts as a picture, and breaks off or is corrupt
    "image_too_many_bytes",
    "image_too_many_pixels",
    "image_too_complex",  # more scans, chunks or strips than any program writes
    "image_unanswered",  # of a table of answers: the model gives no numbers for it
    "file_unreadable",  # of a table of answers: the system does not let us read it
]


class PupilaError(Exception):
    """Base of all errors below: `str(error)` is one sentence that names the thing and the fix."""

    code: str = "error"
    """Names the kind of error for programs; it does not change with the wording."""


class DataError(PupilaError):
    """A data set is missing, empty, or cannot be used for training."""

    code = "data_error"


class DownloadError(DataError):
    """A file could not be fetched, or its hash is not the published one."""

    code = "download_error"


class ImageError(PupilaError):
    """One picture cannot be turned into pixels."""

    def __init__(self, code: ImageErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ImageErrorCode = code

    @classmethod
    def unreadable(cls, error: Exception) -> "ImageError":
        """Return the error for a file that the system does not let us read."""
        reason = getattr(error, "strerror", None) or error
        return cls("image_unrecognised", f"It cannot be read ({reason}). Check the path.")

    def of(self, name: str) -> "ImageError":
        """Return the same error with the picture's name in front."""
        return ImageError(self.code, f"{name}: {self}")

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.code, str(self))  # crosses process borders in parallel decoding


class ModelError(PupilaError):
    """A model or weights file is truncated, foreign, or fails its own golden set."""

    code = "model_error"

    def __init__(self, reason: str, path: object = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason
        """What is wrong, without the path: for those who need not know where files are."""


class RecipeError(PupilaError):
    """A recipe has an unknown key or a value out of range."""

    code = "recipe_error"


class TrainingError(PupilaError):
    """Training cannot start or cannot go on."""

    code = "training_error"


class SettingsError(PupilaError):
    """An option has a value that cannot be used, or the server cannot start with it."""

    code = "settings_error"


class ServerError(PupilaError):
    """A server's refusal, in its own words; or it cannot be reached, then `status` is 0 and `code` `unreachable`."""

    def __init__(self, status: int, code: str, message: str, parts: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        """Of HTTP."""
        self.code = code
        """One of the codes in docs/http.md."""
        self.parts = parts or []
        """Which pictures are to blame: index, filename, code and message of each."""


class MissingExtraError(PupilaError):
    """An optional dependency is not installed."""

    code = "missing_extra"

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs an optional part of Pupila. Install it with: {install_command(extra)}")


def install_command(extra: str) -> str:
    """Return the command that installs an extra the way this Pupila was installed: checkout, wheel, or an index."""
    from importlib import metadata  # slow to load, and seldom needed

    root = Path(__file__).parents[2]
    if (root / "pyproject.toml").exists():
        target = "." if Path.cwd() == root else str(root)
        return pip_install("-e", f"{target}[{extra}]")
    origin = installed_from()
    if origin is not None and origin.exists():
        return pip_install(f"pupila[{extra}] @ {origin.as_uri()}")
    try:
        required = metadata.requires("pupila") or ()
    except metadata.PackageNotFoundError:
        return pip_install(f"pupila[{extra}]")
    lines = [line for line in required if re.search(rf"extra == .{extra}.", line)]
    return pip_install(*(re.split(r"\s*;", line)[0] for line in lines))  # to be had wherever Pupila itself came from


def installed_from() -> Path | None:
    """Return the folder or the wheel that Pupila was installed from, if it was by its path (PEP 610)."""
    from importlib import metadata

    try:
        url = urlsplit(json.loads(metadata.distribution("pupila").read_text("direct_url.json") or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError):
        return None
    return Path(unquote(url.path)) if url.scheme == "file" else None


def pip_install(*what: str) -> str:
    """Return the command that installs something where this Pupila is."""
    active = os.environ.get("VIRTUAL_ENV") == sys.prefix
    return shlex.join([*(["pip"] if active else [sys.executable, "-m", "pip"]), "install", *what])


def serve_command(model: Path) -> str:
    """Return the command that serves a model file."""
    return own_command("serve", str(model))


def own_command(*words: str) -> str:
    """Return a command of Pupila to type: with this program's path where a shell does not find its name."""
    started = sys.argv[0]
    found = shutil.which("pupila") or Path(started).name != "pupila"
    return shlex.join(["pupila" if found else started, *words])
