"""Folders and locks under `.local/`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from prefect_flows.errors import ServerError


def writable_folder(folder: Path) -> Path:
    """Make a folder, or see that it can be written to.

    Raises:
        ServerError: the disk, or the folder's permissions, do not allow it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ServerError(
            f"The folder cannot be written to: {error.strerror}.",
            where=str(folder),
            mend="give yourself write permission there, or clone the project where you have it",
        ) from error
    return folder


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
            draft = holder.with_suffix(f".{os.getpid()}")
            draft.write_text(str(os.getpid()))
            draft.replace(holder)
            try:
                yield
            finally:
                holder.unlink()
    except Timeout as error:
        try:
            who = f"process {holder.read_text()}"
        except FileNotFoundError:
            who = "it has just begun or ended"
        raise ServerError(
            f"Another {what} is at work ({who}).",
            where=str(file),
            mend="wait until it has ended, and run this again",
        ) from error
