"""Write files, create folders and take locks under `.local/`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from prefect_flows.core.errors import ServerError
from prefect_flows.core.files import write_file

# A full disk may still have room for an empty file, so the probe fills a block.
PROBE = b"\0" * 4096
ROOM = (
    "make room there (du -xh -d 2 {} | sort -h), or put .local on another disk: MILLRACE_LOCAL_DIR"
)


def make_writable_folder(folder: Path) -> Path:
    """Create a folder, and check that it is writable.

    Raises:
        ServerError: the disk is full, or permissions are missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        try:
            probe.write_bytes(PROBE)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise build_not_writable_error(error, folder) from error
    return folder


def build_not_writable_error(error: OSError, place: Path) -> ServerError:
    """Build the error for a full disk or a folder without write permission."""
    fix = "give yourself write permission there, or clone the project where you have it"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = ROOM.format(place)
    return ServerError(
        f"The folder cannot be written to: {error.strerror}.", where=str(place), fix=fix
    )


def write_local(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically.

    Raises:
        ServerError: the disk is full, or permissions are missing.
    """
    try:
        write_file(file, text.encode(), mode)
    except OSError as error:
        raise build_not_writable_error(error, file.parent) from error


def warn(text: str) -> None:
    """Print a warning to stderr."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def lock_local_dir(local_dir: Path, what: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold a file lock while the context is open; it is released if the process dies.

    Args:
        local_dir: folder of the lock.
        what: name of the lock, for example `quickstart`.
        wait_seconds: how long to wait for the lock.

    Raises:
        ServerError: another process holds the lock.
    """
    file = make_writable_folder(local_dir) / f"{what}.lock"
    holder = local_dir / f"{what}.pid"
    try:
        with FileLock(file, timeout=wait_seconds):
            # Written atomically, so that a waiting process never reads half a number.
            write_local(holder, str(os.getpid()))
            try:
                yield
            finally:
                holder.unlink(missing_ok=True)
    except Timeout as error:
        try:
            who = f"process {holder.read_text(errors='replace')}"
        except FileNotFoundError:
            who = "it has just begun or ended"
        raise ServerError(
            f"Another {what} is at work ({who}).",
            where=str(file),
            fix="wait until it has ended, and run this again",
        ) from error
