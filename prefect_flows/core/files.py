"""Files of this machine that outlive a process: written whole, read with a check."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from prefect_flows.core.errors import DamagedFile

T = TypeVar("T")
Warn = Callable[[str], None]

# A group may read reports and logs, which hold rows; everybody else may not.
FOLDER_MODE, FILE_MODE = 0o750, 0o640


def write_file(file: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Replace a file in one step, so that it outlives a kill and a power failure.

    A write that fails, on a full disk for example, leaves the old file and nothing else.

    Args:
        mode: permissions of the new file, less what the umask takes away.

    Raises:
        OSError: the disk, or the folder's permissions, do not allow it.
    """
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power failure. Windows does so by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing; other users may not enter them.

    Raises:
        OSError: the disk, or the permissions of a folder above, do not allow it.
    """
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    for each in reversed(missing):
        each.mkdir(mode=FOLDER_MODE, exist_ok=True)
        sync_folder(each.parent)


def validated(data: bytes, kind: TypeAdapter[T], *, where: str, fix: str) -> T:
    """The content of a JSON file of ours.

    Raises:
        DamagedFile: it does not hold what it should.
    """
    try:
        return kind.validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        at = ".".join(str(part) for part in fault["loc"])
        what = f"{at}: {fault['msg']}" if at else fault["msg"]
        raise DamagedFile(
            f"A file is damaged: {what if data.strip() else 'it is empty'}.",
            where=where,
            fix=fix,
        ) from error


def read_or_set_aside(file: Path, kind: TypeAdapter[T], warn: Warn) -> T | None:
    """The content of a JSON file of ours; none where there is no such file.

    A damaged file is renamed, and counts as none: only for files that can be made again.

    Raises:
        OSError: the file cannot be read or renamed.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    aside = file.with_name(aside_name(file.name))
    try:
        return validated(data, kind, where=str(file), fix=f"nothing is lost; look at {aside}")
    except DamagedFile as error:
        file.rename(aside)
        warn(f"{error.what} It was renamed, and is made again.\n  where: {aside}")
        return None


def aside_name(name: str) -> str:
    """What a damaged file is called from now on."""
    return f"{name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}"
