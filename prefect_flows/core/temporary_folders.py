"""Temporary folders for secrets and rows: private, and gone soon after a kill."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl

PREFIX = "millrace-"
# Locked for as long as the process lives that uses the folder: the system lets go at its death.
HELD = ".held"


@contextmanager
def private_folder(what: str, within: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """A temporary folder that only this user enters, for as long as the context lasts.

    A process that is killed with SIGKILL leaves its folder behind. The next call removes it, from
    whatever process it comes. On Windows it stays.

    Args:
        what: part of the folder's name.
        within: where the folder is made; the system's folder for temporary files by default.
    """
    base = Path(tempfile.gettempdir()) if within is None else within
    remove_abandoned(base, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{what}-", dir=base))
        lock = os.open(folder / HELD, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _is_locked_by_us(folder / HELD, lock):
            break
        os.close(lock)  # another process took it for abandoned before it was locked
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def remove_abandoned(base: Path, prefix: str = PREFIX) -> list[Path]:
    """Remove the folders of processes that do not live any more; those that were removed."""
    if sys.platform == "win32":
        return []
    removed = []
    for folder in base.glob(f"{prefix}*"):
        try:
            if folder.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / HELD, os.O_RDWR | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):  # of somebody else, or gone by now
            continue
        try:
            if _is_locked_by_us(folder / HELD, lock):
                shutil.rmtree(folder)
                removed.append(folder)
        finally:
            os.close(lock)
    return removed


def _is_locked_by_us(file: Path, descriptor: int) -> bool:
    """Lock the file, if nobody has it and it still is what the descriptor was opened for."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except (BlockingIOError, FileNotFoundError):
        return False
