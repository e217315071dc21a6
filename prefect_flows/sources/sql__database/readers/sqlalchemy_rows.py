"""Any other database, read row by row through SQLAlchemy, a batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import sqlalchemy
from dlt.sources.sql_database.arrow_helpers import row_tuples_to_arrow
from dlt.sources.sql_database.schema_types import table_to_columns

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.sources.sql__database.readers.base import (
    Column,
    IncrementalCursor,
    as_written,
    relation,
    said_of,
    statement,
    with_key,
)
from prefect_flows.sources.sql__database.table_config import TableConfig

# dlt's names of the types that every database orders as Arrow and Python do.
ORDERED = frozenset({"bigint", "decimal", "date", "timestamp"})


class SqlAlchemyReader:
    """Reads a database that SQLAlchemy has a dialect for."""

    def __init__(
        self, engine: sqlalchemy.Engine, schema_name: str | None, rows_at_once: int
    ) -> None:
        self._engine = engine
        self._schema_name = schema_name
        self._rows_at_once = rows_at_once
        self._quote = engine.dialect.identifier_preparer.quote

    def describe(self, name: str, dump: TableConfig) -> tuple[dict[str, Column], list[str]]:
        """The columns as SQLAlchemy reflects them, those of a query by name alone; and the key."""
        quote = self._quote
        with said_of(self._engine, name), self._engine.connect() as connection:
            if dump.query is not None:
                source = relation(quote, name, dump, self._schema_name)
                nothing = connection.execute(as_written(f"select * from {source} where 1 = 0"))  # noqa: S608
                columns = {
                    column: Column(quote(column), ordered=self._ordered(column, None))
                    for column in nothing.keys()  # noqa: SIM118
                }
            else:
                table = sqlalchemy.Table(
                    dump.table or name,
                    sqlalchemy.MetaData(),
                    schema=dump.schema_name or self._schema_name,
                    autoload_with=connection,
                )
                columns = {
                    column: Column(
                        quote(column),
                        {k: v for k, v in hints.items() if k != "name"},
                        ordered=self._ordered(column, hints.get("data_type")),
                    )
                    for column, hints in table_to_columns(table, "full_with_precision").items()
                }
            return with_key(self._engine, name, dump, self._schema_name, columns)

    def read(
        self,
        name: str,
        dump: TableConfig,
        columns: Mapping[str, Column],
        since: IncrementalCursor | None,
        *,
        as_text: bool = False,  # noqa: ARG002 # a row's numbers are Python's
    ) -> Iterator[pa.Table]:
        """The rows in batches; an empty batch when there are none."""
        source = relation(self._quote, name, dump, self._schema_name)
        hints: dict[str, Any] = {
            column: dict(wanted.hints) | {"name": column} for column, wanted in columns.items()
        }
        asked = statement(source, columns, since)
        schema: pa.Schema | None = None
        with said_of(self._engine, name), self._engine.connect() as connection:
            options = {"yield_per": self._rows_at_once}
            for rows in connection.execution_options(**options).execute(asked).partitions():
                data = row_tuples_to_arrow([tuple(row) for row in rows], columns=hints, tz="UTC")
                # The first batch says what the columns are that nobody declared.
                if schema is None and dump.cursor is not None:
                    self._check_cursor(name, dump.cursor, data.schema.field(dump.cursor).type)
                schema = schema or data.schema
                yield data.cast(schema)
            if schema is None:
                yield row_tuples_to_arrow([], columns=hints, tz="UTC")

    def _ordered(self, column: str, data_type: str | None) -> str | None:
        """What a cursor is compared by; see `Column`. Of a query, the types are not known yet."""
        if self._is_sqlite:
            # Of texts, it is the order of their bytes; of all else, it changes nothing.
            return f"{self._quote(column)} collate binary"
        return self._quote(column) if data_type in {None, *ORDERED} else None

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def _check_cursor(self, name: str, cursor: str, arrow: pa.DataType) -> None:
        """Refuse a query's cursor that the database orders in another way than this process.

        Raises:
            ConfigurationError: it is a text, whose collation is not known, or the like.
        """
        is_ordered = pa.types.is_integer(arrow) or pa.types.is_decimal(arrow)
        # Nulls alone say nothing; whatever follows them would be another type, and is refused.
        is_ordered |= pa.types.is_null(arrow)
        is_ordered |= pa.types.is_date(arrow) or pa.types.is_timestamp(arrow)
        if self._is_sqlite:
            is_ordered |= pa.types.is_floating(arrow) or pa.types.is_string(arrow)
        if not is_ordered:
            raise ConfigurationError(
                f"Table {name!r} cannot be dumped: the cursor {cursor!r} is of the type {arrow}, "
                "whose order may be another one in the source than here.",
                where=f"tables.{name} of the arguments of source 'sql__database'",
                fix="name a cursor that is a whole number, a decimal, a date or a timestamp; "
                "or cast it to one in the query",
            )
