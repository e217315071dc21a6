"""Copies tables from Postgres to Postgres in COPY's binary format, without parsing the rows.

dlt gets the columns as an empty Arrow table, so names, types and contracts are the same as for
other readers. The source server casts the rows to the column types of the warehouse. Values that
only Postgres supports, such as infinity, are kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import dlt

from prefect_flows.sources.sql__database.readers.base import Column, Reader
from prefect_flows.sources.sql__database.readers.postgres import PostgresReader
from prefect_flows.sources.sql__database.table_config import TableConfig


def copy_rows(
    reader: PostgresReader,
    name: str,
    config: TableConfig,
    columns: Mapping[str, Column],
    hints: Any,
) -> Iterator[Any]:
    """Yield the columns as an empty table, for dlt's schema contract, then files with all rows."""
    yield dlt.mark.with_hints(reader.read_empty(name, config, columns), hints)
    load_id = dlt.current.load_package_state()["load_id"]
    with tempfile.TemporaryDirectory(dir=dlt.current.pipeline().working_dir) as folder:
        for file, rows in reader.copy(
            name, config, _select_expressions(name, columns, load_id), Path(folder)
        ):
            # dlt does not know the format; the load job recognizes the file by its first bytes.
            yield dlt.mark.with_file_import(str(file), "csv", rows)


def can_copy(reader: Reader) -> TypeGuard[PostgresReader]:
    """Return whether the source is a Postgres."""
    return isinstance(reader, PostgresReader)


def _select_expressions(name: str, columns: Mapping[str, Column], load_id: str) -> list[str]:
    """Return an SQL expression for each column of the warehouse's table, in its order and type."""
    schema = dlt.current.source_schema()
    table: Any = schema.get_table(name)
    types = dlt.current.pipeline().destination.capabilities().get_type_mapper()
    expressions = {
        schema.naming.normalize_identifier(column): column_schema.expression
        for column, column_schema in columns.items()
    }
    expressions["_dlt_load_id"] = f"'{load_id}'::text"

    def cast_expression(column: str, column_schema: Any) -> str:
        expression = expressions.get(column, "null")
        # Texts have the same format, and a cast would remove the padding of `char(5)`.
        if column_schema["data_type"] == "text" and expression != "null":
            return expression
        return f"({expression})::{types.to_destination_type(column_schema, table)}"

    return [cast_expression(*column) for column in schema.get_table_columns(name).items()]
