"""Private temporary folders for secrets and rows, with cleanup after a killed process."""

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
# A file that the owning process locks; the lock ends with the process, even if it is killed.
LOCK_FILE = ".held"


@contextmanager
def private_folder(what: str, within: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """Create a temporary folder that only this user can read, and remove it afterwards.

    A process that is killed with SIGKILL leaves its folder behind. The next call removes it, in any
    process; on Windows it stays.

    Args:
        what: part of the folder's name.
        within: the parent folder; the system's folder for temporary files by default.
        prefix: beginning of the folder's name; only folders with it are cleaned up.
    """
    base = Path(tempfile.gettempdir()) if within is None else within
    remove_orphaned(base, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{what}-", dir=base))
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _is_locked_by_us(folder / LOCK_FILE, lock):
            break
        os.close(lock)  # another process removed the folder before it was locked
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        finally:
            os.close(lock)


def remove_orphaned(base: Path, prefix: str = PREFIX) -> list[Path]:
    """Remove the folders of processes that have ended, and return their paths."""
    if sys.platform == "win32":
        return []
    removed = []
    for folder in base.glob(f"{prefix}*"):
        try:
            if folder.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):  # not ours, or removed meanwhile
            continue
        try:
            if _is_locked_by_us(folder / LOCK_FILE, lock):
                shutil.rmtree(folder)
                removed.append(folder)
        finally:
            os.close(lock)
    return removed


def _is_locked_by_us(file: Path, descriptor: int) -> bool:
    """Try to lock the file; return whether it is locked and still at this path."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except (BlockingIOError, FileNotFoundError):
        return False
