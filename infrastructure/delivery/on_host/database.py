"""Back up Prefect's database before a migration, and restore it if the release fails."""

from __future__ import annotations

import os
import time
from pathlib import Path

from infrastructure.delivery.on_host.engine import Engine, Log
from infrastructure.delivery.on_host.errors import StepFailed
from infrastructure.delivery.on_host.folder import MAX_BACKUPS, Folder, Release

DUMP_TIMEOUT_SECONDS = 3600
TOOL = ["exec", "--no-TTY", "database"]


def dump(engine: Engine, folder: Folder, log: Log, release: Release) -> Path:
    """Dump the database and return the file, which contains the secrets of every block.

    Raises:
        StepFailed: the dump fails or is not readable.
    """
    folder.backups.mkdir(mode=0o700, exist_ok=True)
    file = folder.backups / f"prefect-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.dump"
    draft = file.with_suffix(".new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
            engine.compose(
                release, *TOOL, "pg_dump", "--username=prefect", "--format=custom", "prefect",
                sink=sink, seconds=DUMP_TIMEOUT_SECONDS,
            )  # fmt: skip
            sink.flush()
            os.fsync(sink.fileno())
        with draft.open("rb") as source:
            engine.compose(
                release,
                *TOOL,
                "pg_restore",
                "--list",
                source=source,
                seconds=DUMP_TIMEOUT_SECONDS,
                quiet=True,
            )
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    log.write_line(f"backup {file.name}, {file.stat().st_size / 1e6:.1f} MB")
    for old in sorted(folder.backups.glob("prefect-*.dump"))[:-MAX_BACKUPS]:
        old.unlink()
    return file


def restore(engine: Engine, release: Release, file: Path) -> None:
    """Restore a dump; the server must be stopped.

    Raises:
        StepFailed: the restore fails. The current database then has another name.
    """
    old_name = f"prefect_before_{time.strftime('%Y%m%d%H%M%S', time.gmtime())}"
    psql = [*TOOL, "psql", "--username=prefect", "--dbname=postgres", "--set=ON_ERROR_STOP=1"]
    end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'prefect'"
    engine.compose(release, *psql, "--command", end, quiet=True)
    rename = f'alter database prefect rename to "{old_name}"'
    engine.compose(release, *psql, "--command", rename, quiet=True)
    engine.compose(release, *TOOL, "createdb", "--username=prefect", "prefect", quiet=True)
    with file.open("rb") as source:
        engine.compose(
            release, *TOOL, "pg_restore", "--username=prefect", "--exit-on-error",
            "--dbname=prefect", source=source, seconds=DUMP_TIMEOUT_SECONDS,
        )  # fmt: skip
    engine.compose(release, *TOOL, "dropdb", "--username=prefect", old_name, quiet=True)


def get_revision(engine: Engine, release: Release) -> str:
    """Return the Alembic revision of the database.

    Raises:
        StepFailed: the database does not respond.
    """
    output = engine.compose(
        release, *TOOL, "psql", "--username=prefect", "--dbname=prefect", "--tuples-only",
        "--no-align", "--command", "select version_num from alembic_version", quiet=True,
    ).stdout.strip()  # fmt: skip
    if not output:
        raise StepFailed("Prefect's database says no revision of itself")
    return output
