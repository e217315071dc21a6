"""Atomic writes (temporary file, fsync, rename) and validated reads of local files."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from prefect_flows.core.errors import CorruptFileError
from prefect_flows.core.validation_messages import list_faults

T = TypeVar("T")
Warn = Callable[[str], None]

# Reports and logs hold rows: the group may read them, others may not.
FOLDER_MODE, FILE_MODE = 0o750, 0o640


def write_file(file: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Replace a file atomically: it has the old or the new content, even after a power failure.

    A write that fails, for example on a full disk, leaves the old file and no temporary file.

    Args:
        mode: permissions of the new file, less the umask.

    Raises:
        OSError: the file cannot be written.
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
    """Fsync a folder, so that new names in it survive a power failure; a no-op on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, without access for other users.

    Raises:
        OSError: a folder cannot be created.
    """
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    for each in reversed(missing):
        each.mkdir(mode=FOLDER_MODE, exist_ok=True)
        sync_folder(each.parent)


def parse_json_file(data: bytes, kind: TypeAdapter[T], *, where: str, fix: str) -> T:
    """Parse and validate a JSON file that Millrace wrote.

    Args:
        where: the file, for the error message.
        fix: what fixes it, for the error message.

    Raises:
        CorruptFileError: the content does not match the schema.
    """
    try:
        return kind.validate_json(data)
    except ValidationError as error:
        what = list_faults(error)[0]
        raise CorruptFileError(
            f"A file is corrupt: {what if data.strip() else 'it is empty'}.",
            where=where,
            fix=fix,
        ) from error


def read_or_quarantine(file: Path, kind: TypeAdapter[T], warn: Warn) -> T | None:
    """Read a JSON file that Millrace wrote; None if it does not exist or is corrupt.

    A corrupt file is renamed, with a warning. Use this only for files that can be recreated.

    Raises:
        OSError: the file cannot be read or renamed.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    aside = file.with_name(corrupt_file_name(file.name))
    try:
        return parse_json_file(data, kind, where=str(file), fix=f"nothing is lost; look at {aside}")
    except CorruptFileError as error:
        file.rename(aside)
        warn(f"{error.what} It was renamed, and is made again.\n  where: {aside}")
        return None


def corrupt_file_name(name: str) -> str:
    """Return the new name of a corrupt file."""
    return f"{name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}"
