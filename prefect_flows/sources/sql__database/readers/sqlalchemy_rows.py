"""Reader for all databases but Postgres: reads row by row through SQLAlchemy, in batches."""

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
    add_key,
    build_select,
    format_relation,
    literal_sql,
    translate_errors,
)
from prefect_flows.sources.sql__database.table_config import TableConfig

# dlt names of the types that every database orders like Arrow and Python.
ORDERED_TYPES = frozenset({"bigint", "decimal", "date", "timestamp"})
TIME_TYPES = frozenset({"date", "timestamp"})


class SqlAlchemyReader:
    """Reader for any database with a SQLAlchemy dialect."""

    def __init__(
        self, engine: sqlalchemy.Engine, schema_name: str | None, rows_at_once: int
    ) -> None:
        self._engine = engine
        self._schema_name = schema_name
        self._rows_at_once = rows_at_once
        self._quote = engine.dialect.identifier_preparer.quote

    def describe(self, name: str, config: TableConfig) -> tuple[dict[str, Column], list[str]]:
        """Return the columns that SQLAlchemy reflects (only names for a query), and the key."""
        quote = self._quote
        with translate_errors(self._engine, name), self._engine.connect() as connection:
            if config.query is not None:
                source = format_relation(quote, name, config, self._schema_name)
                empty_result = connection.execute(
                    literal_sql(f"select * from {source} where 1 = 0")  # noqa: S608 (the user's own query)
                )
                columns = {
                    column: Column(quote(column), ordered=self._order_expression(column, None))
                    for column in empty_result.keys()  # noqa: SIM118
                }
            else:
                table = sqlalchemy.Table(
                    config.table or name,
                    sqlalchemy.MetaData(),
                    schema=config.schema_name or self._schema_name,
                    autoload_with=connection,
                )
                columns = {
                    column: Column(
                        quote(column),
                        {k: v for k, v in hints.items() if k != "name"},
                        ordered=self._order_expression(column, hints.get("data_type")),
                        # SQLite compares texts: `2013-03-01` is not after `2013-03-01 00:00:00`.
                        days="as dates" if hints.get("data_type") in TIME_TYPES else None,
                    )
                    for column, hints in table_to_columns(table, "full_with_precision").items()
                }
            return add_key(self._engine, name, config, self._schema_name, columns)

    def read(
        self,
        name: str,
        config: TableConfig,
        columns: Mapping[str, Column],
        since: IncrementalCursor | None,
        *,
        as_text: bool = False,  # noqa: ARG002 # numbers are Python objects here
    ) -> Iterator[pa.Table]:
        """Yield the rows in batches; an empty batch if there are none."""
        source = format_relation(self._quote, name, config, self._schema_name)
        hints: dict[str, Any] = {
            column: dict(described_column.hints) | {"name": column}
            for column, described_column in columns.items()
        }
        select = build_select(source, columns, since)
        schema: pa.Schema | None = None
        with translate_errors(self._engine, name), self._engine.connect() as connection:
            options = {"yield_per": self._rows_at_once}
            for rows in connection.execution_options(**options).execute(select).partitions():
                data = row_tuples_to_arrow([tuple(row) for row in rows], columns=hints, tz="UTC")
                # The first batch determines the types of columns without a declared type.
                if schema is None and config.cursor is not None:
                    self._check_cursor(name, config.cursor, data.schema.field(config.cursor).type)
                schema = schema or data.schema
                yield data.cast(schema)
            if schema is None:
                yield row_tuples_to_arrow([], columns=hints, tz="UTC")

    def _order_expression(self, column: str, data_type: str | None) -> str | None:
        """Return the expression that a cursor is compared by; a query's types are not known yet."""
        if self._is_sqlite:
            # Orders texts by their bytes, and does not affect other values.
            return f"{self._quote(column)} collate binary"
        return self._quote(column) if data_type in {None, *ORDERED_TYPES} else None

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def _check_cursor(self, name: str, cursor: str, arrow: pa.DataType) -> None:
        """Refuse a query's cursor whose order in the database may differ from Python's.

        Raises:
            ConfigurationError: it is a text, whose collation is not known, or a similar type.
        """
        is_ordered = pa.types.is_integer(arrow) or pa.types.is_decimal(arrow)
        # Nulls do not determine a type; a later batch of another type is refused by the cast.
        is_ordered |= pa.types.is_null(arrow)
        is_ordered |= pa.types.is_date(arrow) or pa.types.is_timestamp(arrow)
        if self._is_sqlite:
            is_ordered |= pa.types.is_floating(arrow) or pa.types.is_string(arrow)
        if not is_ordered:
            raise ConfigurationError(
                f"Table {name!r} cannot be loaded: the cursor {cursor!r} is of the type {arrow}, "
                "whose order may be another one in the source than here.",
                where=f"tables.{name} of the arguments of source 'sql__database'",
                fix="name a cursor that is a whole number, a decimal, a date or a timestamp; "
                "or cast it to one in the query",
            )
