"""Tables of {{ cookiecutter.__words }}, from a database.

A load asks for the rows that changed since the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dlt
import sqlalchemy
from dlt.extract import DltResource
from dlt.sources.sql_database import sql_table

from prefect_flows.core.errors import ConfigurationError

CHUNK_ROWS = 50_000
BLOCK = "{{ cookiecutter.__dashed }}-url-<target>"


@dataclass(frozen=True)
class Table:
    """A table of the database.

    Attributes:
        key: rows that are loaded again are merged by it.
        cursor: a column that grows whenever a row changes; none loads the whole table each time.
    """

    name: str
    key: tuple[str, ...]
    cursor: str | None = None


TABLES = (Table("items", key=("id",), cursor="updated_at"),)


@dlt.source(
    name="{{ cookiecutter.__source }}",
    schema_contract={"columns": "freeze", "data_type": "freeze"},
)
def {{ cookiecutter.__source }}(
    url: dlt.TSecretStrValue, schema: str | None = None, full_refresh: bool = False
) -> list[DltResource]:
    """Tables of a database, with the columns and types that it says they have.

    Args:
        url: of the database, as SQLAlchemy writes it, password included; from the block
            `{{ cookiecutter.__dashed }}-url-<target>`.
        schema: where the tables lie; the user's own by default.
        full_refresh: load every row, whatever was loaded before.

    Raises:
        ConfigurationError: the url is none.
        IngestionError: the database does not answer, or a table is not as it was.
    """
    try:
        sqlalchemy.make_url(url)
    except sqlalchemy.exc.ArgumentError:
        raise ConfigurationError(
            "The address of the database is not a URL that SQLAlchemy reads.",
            where=f"the block {BLOCK}",
            fix="write it like postgresql://user:password@host:5432/database: "
            f"uv run millrace secret {BLOCK}",
        ) from None  # its text may be the password
    return [_resource(table, url, schema, full_refresh) for table in TABLES]


def _resource(table: Table, url: str, schema: str | None, full_refresh: bool) -> DltResource:
    resource: DltResource = sql_table(
        credentials=url,
        table=table.name,
        schema=schema,
        chunk_size=CHUNK_ROWS,
        backend="pyarrow",
        reflection_level="full_with_precision",
        # Asked while rows are read, and not when the source is called.
        defer_table_reflect=True,
        table_adapter_callback=lambda found: _check_cursor(table, found),
    )
    if table.cursor is not None and not full_refresh:
        # Closed: rows of the newest instant come again, since others may have it; merged by key.
        newest: dlt.sources.incremental[Any] = dlt.sources.incremental(
            table.cursor, range_start="closed", on_cursor_value_missing="include"
        )
        resource.apply_hints(incremental=newest)
    resource.apply_hints(primary_key=table.key, write_disposition="merge")
    return resource.add_step(_made)


def _check_cursor(table: Table, found: sqlalchemy.Table) -> None:
    """Refuse a text for a cursor: the database may have another order of texts than dlt.

    Raises:
        ConfigurationError: rows would be missing without an error.
    """
    if table.cursor is not None and isinstance(
        found.columns[table.cursor].type, sqlalchemy.String | sqlalchemy.Uuid
    ):
        raise ConfigurationError(
            f"The cursor {table.cursor!r} of the table {table.name!r} is a text, whose order may "
            "be another one in the database than here.",
            where=f"TABLES of {__name__}",
            fix="name a column that is a number, a date or a timestamp; or none",
        )


def _made(rows: Any, meta: Any = None) -> Any:  # noqa: ARG001 (dlt's own name for it)
    """Rows as they are; in place of none, what makes the table all the same."""
    return dlt.mark.materialize_table_schema() if isinstance(rows, list) else rows
