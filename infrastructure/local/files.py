"""Folders and locks under `.local/`."""

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

# What a full disk has no room for: an empty file would still fit into the folder's own block.
PROBE = b"\0" * 4096
ROOM = (
    "make room there (du -xh -d 2 {} | sort -h), or put .local on another disk: MILLRACE_LOCAL_DIR"
)


def writable_folder(folder: Path) -> Path:
    """Make a folder, or see that it can be written to.

    Raises:
        ServerError: the disk, or the folder's permissions, do not allow it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        try:
            probe.write_bytes(PROBE)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise not_writable(error, folder) from error
    return folder


def not_writable(error: OSError, place: Path) -> ServerError:
    """The error of a disk that is full, or of a folder that may not be written to."""
    fix = "give yourself write permission there, or clone the project where you have it"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        fix = ROOM.format(place)
    return ServerError(
        f"The folder cannot be written to: {error.strerror}.", where=str(place), fix=fix
    )


def write_local(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a file of this machine whole.

    Raises:
        ServerError: the disk is full, or the folder's permissions do not allow it.
    """
    try:
        write_file(file, text.encode(), mode)
    except OSError as error:
        raise not_writable(error, file.parent) from error


def warn(text: str) -> None:
    """Print a warning of a command."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def only_one(local_dir: Path, what: str, wait_seconds: float = 0) -> Iterator[None]:
    """Hold a lock of this machine for as long as the context lasts; death releases it.

    Args:
        what: the name of what there may be only one of, for example `quickstart`.
        wait_seconds: how long to wait for another one to end.

    Raises:
        ServerError: another process holds it.
    """
    file = writable_folder(local_dir) / f"{what}.lock"
    holder = local_dir / f"{what}.pid"
    try:
        with FileLock(file, timeout=wait_seconds):
            # In one step, so that whoever waits reads the whole number.
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
