"""dlt's Postgres, loaded by COPY in its binary form: Parquet is encoded, other files are in it.

dlt loads Parquet through ADBC, which takes longer, holds a whole file in memory, and refuses a file
without rows (`Must pass schema, or at least one RecordBatch`). ADBC is left what pgpq does not
encode: nested values, and types that a table was given by hand; and everything on Linux on ARM,
for which pgpq has no wheel.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from dlt.common.destination.client import HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.runtime import signals
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient, PostgresParquetCopyJob
from dlt.destinations.job_impl import FinalizedLoadJobWithFollowupJobs

log = logging.getLogger(__name__)

# How a file begins that `copy … to … (format binary)` wrote.
# https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
SIGNATURE = b"PGCOPY\n\xff\r\n\0"
BYTES_AT_ONCE = 2**20


def written(path: Path) -> io.BufferedWriter:
    """A new file, whose next megabyte is not written once dlt was told to stop."""
    return io.BufferedWriter(_Stoppable(path, "w"), BYTES_AT_ONCE)


class _Stoppable(io.FileIO):
    def write(self, data: Any, /) -> int:
        signals.raise_if_signalled()
        return super().write(data)

    def readinto(self, buffer: Any, /) -> int:
        signals.raise_if_signalled()
        return super().readinto(buffer)


class _CopyJob(RunnableLoadJob, HasFollowupJobs):
    """Copies a file that holds a value for each column of the table, in its order."""

    _job_client: PostgresClient

    def run(self) -> None:
        client = self._job_client.sql_client
        table = client.make_qualified_table_name(self.load_table_name)
        names = self._job_client.schema.get_table_columns(self.load_table_name)
        columns = ", ".join(map(client.escape_column_name, names))
        with (
            io.BufferedReader(_Stoppable(self._file_path), BYTES_AT_ONCE) as file,
            client.begin_transaction(),
            client.native_connection.cursor() as cursor,
        ):
            copy = f"copy {table} ({columns}) from stdin (format binary)"
            cursor.copy_expert(copy, file, BYTES_AT_ONCE)


class _EncodeJob(PostgresParquetCopyJob):
    """Copies a Parquet file, encoded for the columns that the table has."""

    _job_client: PostgresClient

    def run(self) -> None:
        client = self._job_client.sql_client
        table = client.make_qualified_table_name(self.load_table_name)
        with client.native_connection.cursor() as cursor:
            cursor.execute(f"select * from {table} limit 0")  # noqa: S608 (dlt's own name)
            types = {column.name: column.type_code for column in cursor.description or ()}
        with pq.ParquetFile(self._file_path) as file:
            if reasons := _unsupported_columns(file.schema_arrow, types):
                log.info("%s goes through ADBC: %s", self._file_name, "; ".join(reasons))
                super().run()
                return
            from prefect_flows.ingest.destinations.postgres_copy import encoded

            columns = ", ".join(map(client.escape_column_name, file.schema_arrow.names))
            with client.begin_transaction(), client.native_connection.cursor() as cursor:
                copy = f"copy {table} ({columns}) from stdin (format binary)"
                cursor.copy_expert(copy, _Pieces(encoded(file, types)), BYTES_AT_ONCE)


def _unsupported_columns(schema: pa.Schema, types: Mapping[str, int]) -> list[str]:
    """Why a file is not encoded here; nothing where it is."""
    if find_spec("pgpq") is None:
        return ["pgpq is not installed; for Linux on ARM there is none"]
    from prefect_flows.ingest.destinations.postgres_copy import unsupported_columns

    return unsupported_columns(schema, types)


class _Pieces:
    """Bytes as COPY reads them, until dlt is told to stop."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, _: int = -1, /) -> bytes:
        """The next piece, whatever its size: libpq takes any; nothing after the last."""
        signals.raise_if_signalled()
        return next(self._pieces, b"")


class _Client(PostgresClient):
    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, PostgresParquetCopyJob):
            # Of an empty file there is nothing to copy; the table itself was made before.
            if pq.read_metadata(file_path).num_rows == 0:
                return FinalizedLoadJobWithFollowupJobs(file_path)
            return _EncodeJob(file_path)
        if _was_copied(Path(file_path)):
            return _CopyJob(file_path)
        return job


def _was_copied(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


class Postgres(postgres):
    """The destination; to dlt's state it is dlt's own."""

    @property
    def client_class(self) -> type[PostgresClient]:
        """What runs the jobs of a load."""
        return _Client

    @property
    def destination_type(self) -> str:
        """As state and schemas in the warehouse know it."""
        return "dlt.destinations.postgres"
