"""Opens file systems elsewhere by address: s3:// and whatever else pyarrow or fsspec can open.

s3:// takes pyarrow's options: s3://bucket/photos/?endpoint_override=host:9000&scheme=http is any store that speaks S3's
language. Keys come from the environment, as AWS's own tools take them.
"""

import functools
import importlib
from typing import Any
from urllib.parse import urlsplit

from pupila.errors import MissingExtraError

ARROW = ("s3", "gs", "gcs", "hdfs")
"""What pyarrow opens by itself."""


def open_filesystem(address: str, purpose: str) -> tuple[Any, str]:
    """Return fsspec's view of where the address leads, and the path there.

    Raises MissingExtraError, ValueError for an address of an unknown kind, and what each kind of store raises.
    """
    parts = urlsplit(address)
    try:
        if parts.scheme in ARROW:
            return _arrow(f"{parts.scheme}://{parts.netloc}", parts.query), f"{parts.netloc}{parts.path}"
        files, path = importlib.import_module("fsspec.core").url_to_fs(address)
        return files, str(path)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fsspec", "pyarrow"):
            raise  # the package for this kind of address: its message names it
        raise MissingExtraError(purpose, "parquet") from error


@functools.cache
def _arrow(bucket: str, query: str) -> Any:
    """Open a store once a process: a client keeps its connections."""
    opened, _ = importlib.import_module("pyarrow.fs").FileSystem.from_uri(f"{bucket}/" + (f"?{query}" if query else ""))
    return importlib.import_module("fsspec.implementations.arrow").ArrowFSWrapper(opened)
