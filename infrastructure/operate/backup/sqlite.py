"""Back up SQLite with its backup API; restore by replacing the file."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from infrastructure.operate.backup.archive import PRIVATE, Manifest
from infrastructure.operate.backup.database import TABLES, Sqlite
from infrastructure.operate.backup.encryption_keys import (
    BLOCKS_QUERY,
    KEY_QUERY,
    KeyCheck,
    check_key,
)
from prefect_flows.core.errors import BackupError

LOCK_TIMEOUT_SECONDS = 60.0
VERSION = sqlite3.sqlite_version


def back_up(database: Sqlite, to: Path) -> None:
    """Copy a consistent snapshot of the database while the server runs.

    The copy is made in one step, since SQLite restarts it whenever another process writes between
    two steps. It blocks neither readers nor writers, since Prefect uses a write-ahead log.

    Raises:
        BackupError: the file does not exist or is not a database, or the disk is full.
    """
    if not database.file.exists():
        raise BackupError(
            "The Prefect server's database does not exist.",
            where=database.address,
            fix="run this where the server runs, with its PREFECT_HOME or its "
            "PREFECT_SERVER_DATABASE_CONNECTION_URL",
        )
    to.touch(PRIVATE)
    with _open_readonly(database.file) as source, closing(sqlite3.connect(to)) as copied:
        source.backup(copied, pages=-1)
        # Store everything in one file, without a write-ahead log.
        copied.execute("pragma journal_mode = delete")


def read_revision(file: Path) -> str:
    """Return the Alembic revision of the database."""
    with _open_readonly(file) as connection:
        return str(connection.execute("select version_num from alembic_version").fetchone()[0])


def count_rows(file: Path) -> dict[str, int]:
    """Count the rows of the main tables."""
    with _open_readonly(file) as connection:
        return {
            table: int(connection.execute(f"select count(*) from {table}").fetchone()[0])  # noqa: S608
            for table in TABLES
        }


def read_blocks(file: Path) -> KeyCheck:
    """Check whether a server in this environment could decrypt the blocks."""
    with _open_readonly(file) as connection:
        stored = connection.execute(KEY_QUERY).fetchone()
        found = connection.execute(BLOCKS_QUERY)
        return check_key(stored[0] if stored else None, (data for (data,) in found))


def is_empty(database: Sqlite) -> bool:
    """Return whether the file is missing or new, so that a restore loses nothing."""
    if not database.file.exists():
        return True
    return not any(count_rows(database.file).values())


def restore(database: Sqlite, restored: Path, manifest: Manifest) -> Path | None:
    """Replace the database with a restored file; return the renamed old file, if any.

    Raises:
        BackupError: a server has the database open, or the restored file is incomplete.
    """
    _refuse_if_open(database.file)
    database.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = database.file.with_name(f".{database.file.name}.restored-{os.getpid()}")
    try:
        draft.touch(PRIVATE)
        shutil.copyfile(restored, draft)
        _verify(draft, manifest)
        if os.geteuid() == 0:
            # The server's user must be able to open the file.
            owner = database.file.parent.stat()
            os.chown(draft, owner.st_uid, owner.st_gid)
        kept = None
        if database.file.exists():
            kept = database.file.with_name(
                f"{database.file.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
            )
            # `_refuse_if_open` has written the write-ahead log back into the file.
            database.file.rename(kept)
            for suffix in ("-wal", "-shm"):
                database.file.with_name(database.file.name + suffix).unlink(missing_ok=True)
        draft.rename(database.file)
    finally:
        draft.unlink(missing_ok=True)
    return kept


def _verify(file: Path, manifest: Manifest) -> None:
    with _open_readonly(file) as connection:
        (verdict,) = connection.execute("pragma integrity_check").fetchone()
    if verdict != "ok":
        raise _unreadable_error(sqlite3.DatabaseError(verdict), file)
    found = count_rows(file)
    if found != dict(manifest.rows):
        raise BackupError(
            f"The restored database has other rows than the backup: {found}.",
            where=str(file),
            fix="take another backup",
        )


def _refuse_if_open(file: Path) -> None:
    """Raise an error if a server holds a shared lock on the file."""
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(file, timeout=0.5)) as connection:
            connection.execute("pragma wal_checkpoint(truncate)")
            # SQLite leaves WAL mode only for the last connection of all processes.
            connection.execute("pragma journal_mode = delete").fetchone()
            connection.execute("begin exclusive")
            connection.rollback()
    except sqlite3.OperationalError as error:
        raise BackupError(
            f"A Prefect server has the database open ({error}).",
            where=str(file),
            fix="stop it first: uv run millrace down, docker compose stop, or its unit",
        ) from error
    except sqlite3.DatabaseError:
        # The file is not a database, so no server uses it; it is kept under another name.
        return


@contextmanager
def _open_readonly(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        uri = f"{file.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, LOCK_TIMEOUT_SECONDS, uri=True)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise _unreadable_error(error, file) from error


def _unreadable_error(error: sqlite3.Error, file: Path) -> BackupError:
    return BackupError(
        f"The database cannot be read: {type(error).__name__}: {error}.",
        where=str(file),
        fix="see that it is the file of a Prefect server and that you may read it; "
        f"sqlite3 {file} 'pragma integrity_check' says more",
    )
