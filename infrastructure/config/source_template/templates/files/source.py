"""Items of {{ cookiecutter.__words }}, from CSV files.

A load reads the files that are new or changed since the last one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dlt
import fsspec
import pyarrow as pa
from dlt.common.storages.fsspec_filesystem import FileItem, glob_files
from dlt.extract import DltResource
from fsspec import AbstractFileSystem
from pyarrow import csv

from prefect_flows.core.errors import IngestionError
from prefect_flows.ingest.arguments import resolve_location

TIMESTAMP = pa.timestamp("us", tz="UTC")
# The columns of a file, in its order; what the key names may not be null.
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("updated_at", TIMESTAMP),
    ]
)
# `millrace check models` reads it.
DECLARED_TABLES = {"items": pa.schema([*SCHEMA, pa.field("_loaded_at", TIMESTAMP)])}
KEY = ("id",)
DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")


@dlt.source(
    name="{{ cookiecutter.__source }}",
    schema_contract={"columns": "freeze", "data_type": "freeze"},
)
def {{ cookiecutter.__source }}(
    folder: str, pattern: str = "*.csv", full_refresh: bool = False
) -> list[DltResource]:
    """Rows of CSV files, merged by their key; files in the order of their names.

    Args:
        folder: where the files lie, a folder or any URL of fsspec (`gs://…`, `s3://…`); a relative
            path is one of the project.
        pattern: which of its files are read.
        full_refresh: read every file, whatever was loaded before.

    Raises:
        IngestionError: the folder is not there, or a file cannot be read: then none is loaded.
    """

    def items() -> Iterator[pa.Table]:
        state: dict[str, Any] = dlt.current.resource_state()
        # One entry a file for as long as the source lives: move old files away one day.
        seen: dict[str, str] = state.setdefault("files", {})
        # Makes the table, also where there is no file yet.
        yield _stamped(SCHEMA.empty_table())
        file_system, files = _found(folder, pattern)
        for file in files:
            version = f"{file['size_in_bytes']} {file['modification_date'].isoformat()}"
            if full_refresh or seen.get(file["file_url"]) != version:
                yield _stamped(_rows(file_system, file["file_url"]))
                seen[file["file_url"]] = version

    return [dlt.resource(items, name="items", primary_key=KEY, write_disposition="merge")]


def _found(folder: str, pattern: str) -> tuple[AbstractFileSystem, list[FileItem]]:
    folder = resolve_location(folder)
    file_system, path = fsspec.url_to_fs(folder)
    if not file_system.isdir(path):
        raise IngestionError(
            "The folder of the files is not there.",
            where=folder,
            fix=f"make it, or name another one in {DEPLOYMENTS}",
        )
    files = glob_files(file_system, folder, pattern)
    return file_system, sorted(files, key=lambda file: file["file_url"])


def _rows(file_system: AbstractFileSystem, url: str) -> pa.Table:
    """A file, typed; an empty value is null.

    Raises:
        IngestionError: other columns than declared, a value that does not fit, a null in a key.
    """
    try:
        with file_system.open(url) as stream:
            rows = csv.read_csv(
                stream,
                convert_options=csv.ConvertOptions(
                    column_types=SCHEMA, null_values=[""], strings_can_be_null=True
                ),
            )
        # Refuses columns of other names, and a null in a key.
        return rows.cast(SCHEMA)
    except (pa.ArrowInvalid, ValueError) as error:
        raise IngestionError(
            f"The file does not fit: {error}.",
            where=url,
            fix=f"correct the file, or declare its columns in {__file__}; files__inbox is the "
            "source that sets such a file aside and goes on",
        ) from error


def _stamped(rows: pa.Table) -> pa.Table:
    now = pa.scalar(datetime.now(UTC), TIMESTAMP)
    return rows.append_column("_loaded_at", pa.repeat(now, len(rows)))
