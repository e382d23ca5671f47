"""Gives a finished file its name, whole or not at all, and never in place of another. Knows nothing of its content."""

import os
from pathlib import Path


def publish(ready: Path, target: Path) -> None:
    """Let `target` name the file that `ready` names; raises FileExistsError if there is one of that name.

    `ready` stays where the file system knows hard links, and can be removed; elsewhere it is renamed.
    """
    try:
        os.link(ready, target)
    except FileExistsError:
        raise
    except OSError:  # FAT and some network file systems have no links, and no way to rename that refuses to overwrite
        if os.path.lexists(target):
            raise FileExistsError(str(target)) from None
        ready.rename(target)
