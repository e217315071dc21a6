"""Back up Postgres with `pg_dump` in one snapshot; restore into a new database and rename it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import make_dsn

from infrastructure.operate.backup.archive import PRIVATE, Manifest
from infrastructure.operate.backup.database import TABLES, Postgres
from infrastructure.operate.backup.encryption_keys import (
    BLOCKS_QUERY,
    KEY_QUERY,
    KeyCheck,
    check_key,
)
from infrastructure.operate.backup.postgres_programs import find_program, run_program
from prefect_flows.core.errors import BackupError
from prefect_flows.core.formatting import one_line

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812

CONNECT_SECONDS = 15
# Database that every server has, to create and rename other databases from.
MAINTENANCE = "postgres"
# Postgres truncates longer names.
NAME_LENGTH = 63


@dataclass(frozen=True)
class Metadata:
    """Metadata of a database."""

    server: str
    revision: str
    rows: dict[str, int]
    blocks: KeyCheck


def dump(database: Postgres, to: Path) -> Metadata:
    """Dump a consistent snapshot of the database while the server runs.

    Raises:
        BackupError: the server does not respond, or there is no `pg_dump` of its version.
    """
    with _connect(database) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        (snapshot,) = _fetch_row(connection, "select pg_export_snapshot()")
        metadata = _collect_metadata(connection)
        to.touch(PRIVATE)
        run_program(
            find_program("pg_dump", _major(connection)),
            ["--format=custom", "--no-owner", "--no-privileges", "--compress=1",
             f"--snapshot={snapshot}", f"--file={to}"],
            database, {},
        )  # fmt: skip
    return metadata


def is_empty(database: Postgres) -> bool:
    """Return whether the database is missing or new, so that a restore loses nothing."""
    if not _exists(database):
        return True
    with _connect(database) as connection:
        return not any(_count_rows(connection).values())


def restore(
    database: Postgres, dumped: Path, manifest: Manifest, *, without_secrets: bool
) -> str | None:
    """Restore a dump; return the new name of the replaced database, or None if there was none.

    Raises:
        BackupError: the database is in use, or the restored data is incomplete.
    """
    stamp = f"{datetime.now(UTC):%Y%m%dt%H%M%Sz}"
    new_name, old_name = (
        _suffixed(database.name, f"{what}_{stamp}") for what in ("restored", "before")
    )
    with _connect(database, MAINTENANCE) as server:
        server.autocommit = True
        major = _major(server)
        _refuse_older_server(major, manifest, database)
        _refuse_if_in_use(server, database)
        tool = find_program("pg_restore", major)
        _execute(server, "create database {} template template0 encoding 'UTF8'", new_name)
        try:
            run_program(
                tool,
                ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges",
                 f"--dbname={make_dsn(dbname=new_name)}", "--", str(dumped)],
                database, {"PGDATABASE": new_name},
            )  # fmt: skip
            with _connect(database, new_name) as connection:
                _verify(
                    _collect_metadata(connection), manifest, database, allow_closed=without_secrets
                )
            _refuse_if_in_use(server, database)
            exists = _exists(database)
            # Statements sent together are one transaction, so both renames succeed or none.
            statement = "alter database {} rename to {}"
            if exists:
                names = (database.name, old_name, new_name, database.name)
                _execute(server, f"{statement}; {statement}", *names)
            else:
                _execute(server, statement, new_name, database.name)
        except (BackupError, psycopg2.Error):
            _execute(server, "drop database if exists {}", new_name)
            raise
    return old_name if exists else None


def _verify(seen: Metadata, manifest: Manifest, database: Postgres, *, allow_closed: bool) -> None:
    if seen.rows != dict(manifest.rows) or seen.revision != manifest.revision:
        raise BackupError(
            f"The restored database is not the one of the backup: {seen.rows}.",
            where=database.address,
            fix="take another backup",
        )
    if seen.blocks.undecryptable and not allow_closed:
        raise build_decryption_error(seen.blocks, database.address)


def build_decryption_error(blocks: KeyCheck, where: str) -> BackupError:
    """Build the error for blocks that a server in this environment cannot decrypt."""
    return BackupError(
        f"{blocks.undecryptable} of {blocks.blocks} blocks cannot be decrypted: their key is "
        "not in the database, but in the environment of the server that wrote them.",
        where=where,
        fix="set PREFECT_SERVER_ENCRYPTION_KEY to that server's key; if it is lost: "
        "--without-secrets restores the rest, and setup writes the blocks anew",
    )


def _collect_metadata(connection: Connection) -> Metadata:
    stored = _fetch_row(connection, KEY_QUERY)
    with connection.cursor() as cursor:
        cursor.execute(BLOCKS_QUERY)
        blocks = check_key(stored[0] if stored else None, (data for (data,) in cursor.fetchall()))
    revision = _fetch_row(connection, "select version_num from alembic_version")
    (version,) = _fetch_row(connection, "show server_version")
    return Metadata(
        str(version), str(revision[0]) if revision else "", _count_rows(connection), blocks
    )


def _count_rows(connection: Connection) -> dict[str, int]:
    """Count the rows of the main tables; a missing table counts as empty."""
    found = {}
    for table in TABLES:
        (there,) = _fetch_row(connection, f"select to_regclass('{table}')")
        count = (0,) if there is None else _fetch_row(connection, f"select count(*) from {table}")  # noqa: S608
        found[table] = int(count[0])
    return found


def _refuse_older_server(major: int, manifest: Manifest, database: Postgres) -> None:
    made_on = int(manifest.server.split(".")[0])
    if major < made_on:
        raise BackupError(
            f"The backup is of Postgres {made_on}; this server is of version {major}.",
            where=database.address,
            fix=f"restore into a server of version {made_on} or newer",
        )


def _refuse_if_in_use(server: Connection, database: Postgres) -> None:
    with server.cursor() as cursor:
        cursor.execute(
            "select count(*), string_agg(distinct coalesce(nullif(application_name, ''), "
            "client_addr::text, 'a local program'), ', ') "
            "from pg_stat_activity where datname = %s",
            (database.name,),
        )
        count, who = cursor.fetchone() or (0, None)
    if count:
        raise BackupError(
            f"{count} connection(s) to the database are open ({who}): a Prefect server runs on it.",
            where=database.address,
            fix="stop it first: docker compose stop server, or its unit; "
            "a restore needs the database for itself",
        )


def _exists(database: Postgres) -> bool:
    with _connect(database, MAINTENANCE) as server, server.cursor() as cursor:
        cursor.execute("select 1 from pg_database where datname = %s", (database.name,))
        return cursor.fetchone() is not None


def _suffixed(name: str, suffix: str) -> str:
    return f"{name[: NAME_LENGTH - len(suffix) - 1]}_{suffix}"


def _major(connection: Connection) -> int:
    return int(connection.server_version) // 10000


def _fetch_row(connection: Connection, query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()


def _execute(connection: Connection, statement: str, *names: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@contextmanager
def _connect(database: Postgres, name: str | None = None) -> Iterator[Connection]:
    connection = None
    try:
        connection = psycopg2.connect(
            **database.parameters(name),
            connect_timeout=CONNECT_SECONDS,
            application_name="millrace backup",
        )
        yield connection
    except psycopg2.Error as error:
        raise BackupError(
            f"Postgres refuses: {one_line(str(error))}",
            where=database.address,
            fix="see that it answers and what PREFECT_SERVER_DATABASE_CONNECTION_URL holds; "
            "a restore makes a database: alter role <user> createdb",
        ) from error
    finally:
        if connection is not None:
            connection.close()
