"""A Postgres table into a Postgres: the rows stay in the form that COPY gave them.

Arrow is asked for the columns only, so that names, types and contracts are the same on both ways.
Of the rows, the server makes the types of the warehouse's table, and nobody here looks into them.
Values that only Postgres holds, such as infinity, are kept.
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


def copied(
    reader: PostgresReader, name: str, dump: TableConfig, columns: Mapping[str, Column], hints: Any
) -> Iterator[Any]:
    """The columns, for dlt's contracts to be asked; then all rows, in a file."""
    yield dlt.mark.with_hints(reader.no_rows(name, dump, columns), hints)
    load_id = dlt.current.load_package_state()["load_id"]
    with tempfile.TemporaryDirectory(dir=dlt.current.pipeline().working_dir) as folder:
        for file, rows in reader.copy(name, dump, _selected(name, columns, load_id), Path(folder)):
            # dlt knows no name for the format; the warehouse's job looks at how the file begins.
            yield dlt.mark.with_file_import(str(file), "csv", rows)


def can_copy(reader: Reader) -> TypeGuard[PostgresReader]:
    """Whether the source is a Postgres."""
    return isinstance(reader, PostgresReader)


def _selected(name: str, columns: Mapping[str, Column], load_id: str) -> list[str]:
    """An expression for each column of the warehouse's table, in its order and of its type."""
    schema = dlt.current.source_schema()
    table: Any = schema.get_table(name)
    types = dlt.current.pipeline().destination.capabilities().get_type_mapper()
    of_name = {
        schema.naming.normalize_identifier(column): described.expression
        for column, described in columns.items()
    }
    of_name["_dlt_load_id"] = f"'{load_id}'::text"

    def selected(column: str, described: Any) -> str:
        expression = of_name.get(column, "null")
        # Of texts the form is the same, and a cast would take away the blanks of `char(5)`.
        if described["data_type"] == "text" and expression != "null":
            return expression
        return f"({expression})::{types.to_destination_type(described, table)}"

    return [selected(*column) for column in schema.get_table_columns(name).items()]
