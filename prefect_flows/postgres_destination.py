"""dlt's Postgres, which also takes an empty file, and files in the form of Postgres' own COPY.

dlt hands ADBC the batches of a Parquet file, and ADBC refuses to be handed none
(`Must pass schema, or at least one RecordBatch`). Of an empty file there is nothing to copy; the
table itself was made before. May go when dlt passes the file's schema along.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from dlt.common.destination.client import HasFollowupJobs, LoadJob, RunnableLoadJob
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.runtime import signals
from dlt.destinations import postgres
from dlt.destinations.impl.postgres.postgres import PostgresClient, PostgresParquetCopyJob
from dlt.destinations.job_impl import FinalizedLoadJobWithFollowupJobs

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


class _Client(PostgresClient):
    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        is_parquet = isinstance(job, PostgresParquetCopyJob)
        if is_parquet and pq.read_metadata(file_path).num_rows == 0:
            return FinalizedLoadJobWithFollowupJobs(file_path)
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
