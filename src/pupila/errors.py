"""Every error that a user can cause or act on. Knows neither HTTP nor exit codes: the server and the CLI map them.

PupilaError            one sentence that names the thing and the fix
├── DataError          a data set is missing, empty, or cannot be used for training
│   └── DownloadError  a file could not be fetched, or is not the file that was published
├── ImageError         one picture cannot be turned into pixels; carries a machine-readable code
├── ModelError         a model or weights file is truncated, foreign, or fails its own golden set
├── RecipeError        a recipe has an unknown key or a value out of range
├── TrainingError      training cannot start or go on (loss not finite, disk full, checkpoint of another recipe)
├── SettingsError      the server cannot start as told (port in use, bad setting)
└── MissingExtraError  an optional dependency is not installed
"""

from typing import Literal

ImageErrorCode = Literal[
    "image_empty",  # no bytes at all
    "image_unrecognised",  # not a picture in a format that we read
    "image_truncated",  # starts as a picture, and breaks off or is corrupt
    "image_too_many_bytes",
    "image_too_many_pixels",
    "image_too_complex",  # more scans, chunks or strips than any program writes
]


class PupilaError(Exception):
    """Base of all errors below: `str(error)` is one sentence that names the thing and the fix."""


class DataError(PupilaError):
    """A data set is missing, empty, or cannot be used for training."""


class DownloadError(DataError):
    """A file could not be fetched, or its hash is not the published one."""


class ImageError(PupilaError):
    """One picture cannot be turned into pixels."""

    def __init__(self, code: ImageErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ImageErrorCode = code

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.code, str(self))  # crosses process borders in parallel decoding


class ModelError(PupilaError):
    """A model or weights file is truncated, foreign, or fails its own golden set."""


class RecipeError(PupilaError):
    """A recipe has an unknown key or a value out of range."""


class TrainingError(PupilaError):
    """Training cannot start or cannot go on."""


class SettingsError(PupilaError):
    """The server cannot start as told."""


class MissingExtraError(PupilaError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs an optional part of Pupila. Install it with: pip install 'pupila[{extra}]'")
