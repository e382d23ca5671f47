"""Atomic writes: a file is replaced whole or not at all, and readers never see half of it.

The content goes to a temporary file beside the target, is flushed to the disk (fsync), and is renamed into place.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_NAME = 200
"""Bytes of the target's name in a temporary name: most file systems take 255 in all."""


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield the path of an empty temporary file; when the block ends without an error, it becomes `path`.

    After an error the temporary file is removed and `path` stays as it was. mode: permissions, less the umask.
    Raises OSError.
    """
    temporary = _temporary(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_file(path: Path, content: bytes | str, mode: int = 0o666) -> None:
    """Write the file atomically, text as UTF-8; raises OSError."""
    with replacing(path, mode) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def publish(ready: Path, target: Path) -> None:
    """Give the file `ready` the name `target`; raises FileExistsError if there is one of that name.

    `ready` stays where the file system has hard links, and can be removed; elsewhere it is renamed.
    """
    try:
        os.link(ready, target)
    except FileExistsError:
        raise
    except OSError:  # FAT and some network file systems have no links, and no way to rename that refuses to overwrite
        if os.path.lexists(target):
            raise FileExistsError(str(target)) from None
        ready.rename(target)


def sync(path: Path) -> None:
    """Return when what was written to a file, or the names in a folder, are on the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    name = os.fsencode(path.name)[:LONGEST_NAME].decode(errors="ignore")
    return path.with_name(f".{name}.{os.getpid()}.{secrets.token_hex(4)}")
