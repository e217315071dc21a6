"""Common parts of the database readers: columns, keys, incremental cursor, SQL, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import psycopg2
import pyarrow as pa
import sqlalchemy
from sqlalchemy import exc

from prefect_flows.core.date_window import DateWindow
from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.core.failure_class import FailureClass, classify
from prefect_flows.sources.sql__database.table_config import TableConfig

# dlt hints of a text column that holds JSON.
JSON = {"data_type": "json"}
# Quotes a name as an SQL identifier.
Quote = Callable[[str], str]


@dataclass(frozen=True)
class Column:
    """A column to read.

    Attributes:
        expression: its expression in the select list, in the source's SQL.
        hints: dlt hints, where the Arrow type does not say everything.
        arrow: type to cast its values to; None to keep them.
        required: whether it belongs to the key, and is never null.
        days: how days are compared with it; None if its values are no dates or timestamps.
        ordered: expression that a cursor is compared by, in the source's SQL, with the same order
            as in Arrow and Python; None if there is none.
    """

    expression: str
    hints: Mapping[str, Any] = field(default_factory=dict)
    arrow: pa.DataType | None = None
    required: bool = False
    ordered: str | None = None
    days: Literal["as dates", "as moments"] | None = None


@dataclass(frozen=True)
class IncrementalCursor:
    """Position where the last load ended, or the days to read again.

    Attributes:
        cursor: column whose values only grow.
        value: its highest value so far, or the begin of the days.
        is_inclusive: whether to read rows with exactly this value again.
        end: the end of the days, not included; None to read all rows from `value` on.
    """

    cursor: str
    value: Any
    is_inclusive: bool
    end: Any | None = None

    @classmethod
    def from_window(cls, name: str, column: Column, window: DateWindow) -> IncrementalCursor:
        """Build the cursor of a column of dates or timestamps for the days of a backfill."""
        moments = column.days == "as moments"
        begin, end = window.moments() if moments else (window.first, window.end)
        return cls(name, begin, is_inclusive=True, end=end)


class Reader(Protocol):
    """Interface of a database reader."""

    def describe(self, name: str, config: TableConfig) -> tuple[dict[str, Column], list[str]]:
        """Return the columns of a table or query, and its key."""

    def read(
        self,
        name: str,
        config: TableConfig,
        columns: Mapping[str, Column],
        since: IncrementalCursor | None,
        *,
        as_text: bool = False,
    ) -> Iterator[pa.Table]:
        """Yield the rows in batches; an empty batch if there are none.

        Args:
            name: name of the table here.
            config: what to read.
            columns: columns to read.
            since: where the last load ended; None to read everything.
            as_text: whether numbers may stay text after they were checked.
        """


def format_url(engine: sqlalchemy.Engine) -> str:
    """Return the database's URL without its password, for error messages."""
    return engine.url.render_as_string(hide_password=True)


def format_relation(quote: Quote, name: str, config: TableConfig, schema_name: str | None) -> str:
    """Return the SQL after `from`: the table, or the query in brackets."""
    if config.query is not None:
        # The bracket is on its own line, since the query may end with a comment.
        return f"({config.query.rstrip().rstrip(';')}\n) as query"
    schema = config.schema_name or schema_name
    table = quote(config.table or name)
    return table if schema is None else f"{quote(schema)}.{table}"


def add_key(
    engine: sqlalchemy.Engine,
    name: str,
    config: TableConfig,
    schema_name: str | None,
    columns: Mapping[str, Column],
) -> tuple[dict[str, Column], list[str]]:
    """Return columns and key: the configured key, or the table's own."""
    key = _find_key(engine, name, config, schema_name)
    return {
        column: replace(described, required=column in key) for column, described in columns.items()
    }, key


def _find_key(
    engine: sqlalchemy.Engine, name: str, config: TableConfig, schema_name: str | None
) -> list[str]:
    if config.key is not None:
        return list(config.key)
    if config.query is not None:
        return []
    found = sqlalchemy.inspect(engine).get_pk_constraint(
        config.table or name, schema=config.schema_name or schema_name
    )
    return list(found["constrained_columns"])


def literal_sql(sql: str) -> sqlalchemy.TextClause:
    """Return SQL that SQLAlchemy sends unchanged; `text` would treat `:word` as a parameter."""
    return sqlalchemy.text(sql.replace(":", r"\:"))


def build_select(
    source: str, columns: Mapping[str, Column], since: IncrementalCursor | None
) -> sqlalchemy.Select[Any]:
    """Build the select of the columns, limited to rows from the cursor on if there is one."""
    select_list: list[Any] = [
        sqlalchemy.literal_column(column.expression).label(name) for name, column in columns.items()
    ]
    select = sqlalchemy.select(*select_list).select_from(literal_sql(source))
    if since is None:
        return select
    place: sqlalchemy.ColumnClause[Any] = sqlalchemy.literal_column(
        str(columns[since.cursor].ordered)
    )
    value = sqlalchemy.literal(since.value)
    if since.end is not None:
        return select.where(place >= value, place < sqlalchemy.literal(since.end))
    return select.where((place >= value if since.is_inclusive else place > value) | place.is_(None))


@contextmanager
def translate_errors(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """Turn errors of the source into errors that name the table and the database.

    Raises:
        IngestionError: retryable if the database is unreachable or too busy.
        ConfigurationError: the table does not exist.
    """
    from adbc_driver_manager import Error as AdbcError

    try:
        yield
    except exc.NoSuchTableError as error:
        raise ConfigurationError(
            f"Table {error} does not exist.",
            where=format_url(engine),
            fix=f"correct tables.{name} of the arguments of source 'sql__database'",
        ) from error
    except (exc.DBAPIError, psycopg2.Error, AdbcError) as error:
        first = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise IngestionError(
            f"Table {name!r} cannot be read: {first}",
            where=format_url(engine),
            fix="see that the database answers, and that the user of the secret `url` may read it",
            retryable=classify(error) is FailureClass.TRANSIENT,
        ) from error
    except pa.ArrowException as error:
        raise IngestionError(
            f"Table {name!r} holds a value that cannot be kept: {error}.",
            where=format_url(engine),
            fix=f"give tables.{name} a query that turns it into text or null",
        ) from error
