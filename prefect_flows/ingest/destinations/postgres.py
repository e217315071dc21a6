"""dlt's Postgres destination, loading Parquet files by binary COPY instead of ADBC.

ADBC is slower, holds a whole file in memory, and refuses a file without rows (`Must pass schema, or
at least one RecordBatch`). It still loads what pgpq cannot encode: nested values, column types that
somebody created by hand, and everything on Linux on ARM, for which pgpq has no wheel.
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

# First bytes of a file written by `copy … to … (format binary)`.
# https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
COPY_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
COPY_BUFFER_BYTES = 2**20


def open_interruptible(path: Path) -> io.BufferedWriter:
    """Open a new file for writing that raises once dlt has received a stop signal."""
    return io.BufferedWriter(_InterruptibleFile(path, "w"), COPY_BUFFER_BYTES)


class _InterruptibleFile(io.FileIO):
    """File whose reads and writes raise once dlt has received a stop signal."""

    def write(self, data: Any, /) -> int:
        signals.raise_if_signalled()
        return super().write(data)

    def readinto(self, buffer: Any, /) -> int:
        signals.raise_if_signalled()
        return super().readinto(buffer)


class _CopyJob(RunnableLoadJob, HasFollowupJobs):
    """Load job for a file in COPY format, with a value for each column of the table, in order."""

    _job_client: PostgresClient

    def run(self) -> None:
        client = self._job_client.sql_client
        table = client.make_qualified_table_name(self.load_table_name)
        names = self._job_client.schema.get_table_columns(self.load_table_name)
        columns = ", ".join(map(client.escape_column_name, names))
        with (
            io.BufferedReader(_InterruptibleFile(self._file_path), COPY_BUFFER_BYTES) as file,
            client.begin_transaction(),
            client.native_connection.cursor() as cursor,
        ):
            copy = f"copy {table} ({columns}) from stdin (format binary)"
            cursor.copy_expert(copy, file, COPY_BUFFER_BYTES)


class _EncodeJob(PostgresParquetCopyJob):
    """Load job that encodes a Parquet file for the column types of the table."""

    _job_client: PostgresClient

    def run(self) -> None:
        client = self._job_client.sql_client
        table = client.make_qualified_table_name(self.load_table_name)
        with client.native_connection.cursor() as cursor:
            cursor.execute(f"select * from {table} limit 0")  # noqa: S608 (dlt's own name)
            types = {column.name: column.type_code for column in cursor.description or ()}
        with pq.ParquetFile(self._file_path) as file:
            if reasons := _reasons_for_adbc(file.schema_arrow, types):
                log.info("%s goes through ADBC: %s", self._file_name, "; ".join(reasons))
                super().run()
                return
            from prefect_flows.ingest.destinations.postgres_copy import encode_rows

            columns = ", ".join(map(client.escape_column_name, file.schema_arrow.names))
            with client.begin_transaction(), client.native_connection.cursor() as cursor:
                copy = f"copy {table} ({columns}) from stdin (format binary)"
                cursor.copy_expert(copy, _CopyStream(encode_rows(file, types)), COPY_BUFFER_BYTES)


def _reasons_for_adbc(schema: pa.Schema, types: Mapping[str, int]) -> list[str]:
    """Return why a file has to go through ADBC; an empty list if it does not."""
    if find_spec("pgpq") is None:
        return ["pgpq is not installed; for Linux on ARM there is none"]
    from prefect_flows.ingest.destinations.postgres_copy import unsupported_columns

    return unsupported_columns(schema, types)


class _CopyStream:
    """Readable stream of byte chunks for COPY, which raises once dlt has received a stop signal."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, _: int = -1, /) -> bytes:
        """Return the next chunk, of any size (libpq accepts that), or nothing after the last."""
        signals.raise_if_signalled()
        return next(self._chunks, b"")


class _Client(PostgresClient):
    def create_load_job(
        self, table: PreparedTableSchema, file_path: str, load_id: str, restore: bool = False
    ) -> LoadJob:
        job = super().create_load_job(table, file_path, load_id, restore)
        if isinstance(job, PostgresParquetCopyJob):
            # An empty file has nothing to copy, and the table already exists.
            if pq.read_metadata(file_path).num_rows == 0:
                return FinalizedLoadJobWithFollowupJobs(file_path)
            return _EncodeJob(file_path)
        if _is_copy_file(Path(file_path)):
            return _CopyJob(file_path)
        return job


def _is_copy_file(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(COPY_SIGNATURE)) == COPY_SIGNATURE


class Postgres(postgres):
    """Destination that loads by binary COPY; dlt's state records it as dlt's own Postgres."""

    @property
    def client_class(self) -> type[PostgresClient]:
        """Return the client that creates the load jobs."""
        return _Client

    @property
    def destination_type(self) -> str:
        """Return the name under which state and schemas in the warehouse know the destination."""
        return "dlt.destinations.postgres"
