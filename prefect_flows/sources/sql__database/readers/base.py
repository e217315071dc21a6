"""Reading a database in batches: what its columns are, and their rows as Arrow tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import psycopg2
import pyarrow as pa
import sqlalchemy
from sqlalchemy import exc

from prefect_flows.core.errors import ConfigurationError, IngestionError
from prefect_flows.core.failure_class import FailureClass, classify
from prefect_flows.sources.sql__database.table_config import TableConfig

# Hints of a column whose text is JSON.
JSON = {"data_type": "json"}
# Makes an identifier of a name.
Quote = Callable[[str], str]


@dataclass(frozen=True)
class Column:
    """A column as it is read.

    Attributes:
        expression: its place in the select list, in the source's SQL.
        hints: dlt's, where Arrow does not say it.
        arrow: type that its values are turned into; none where they come as they should.
        required: whether it is of the key, and never null.
        ordered: what a cursor is compared by, in the source's SQL, in the order that its values
            have here too; none where the two orders differ.
    """

    expression: str
    hints: Mapping[str, Any] = field(default_factory=dict)
    arrow: pa.DataType | None = None
    required: bool = False
    ordered: str | None = None


@dataclass(frozen=True)
class IncrementalCursor:
    """Where the load before ended.

    Attributes:
        cursor: column that only grows.
        value: its highest value so far.
        again: whether rows that have just this value are read again.
    """

    cursor: str
    value: Any
    again: bool


class Reader(Protocol):
    """Reads one database."""

    def describe(self, name: str, dump: TableConfig) -> tuple[dict[str, Column], list[str]]:
        """The columns of a table or query, and its key."""

    def read(
        self,
        name: str,
        dump: TableConfig,
        columns: Mapping[str, Column],
        since: IncrementalCursor | None,
        *,
        as_text: bool = False,
    ) -> Iterator[pa.Table]:
        """Its rows in batches; an empty one when there are none.

        Args:
            name: of the table here.
            dump: what is read.
            columns: those to read.
            since: where the load before ended; everything when none.
            as_text: whether numbers that are checked may stay the text they came as.
        """


def place_of(engine: sqlalchemy.Engine) -> str:
    """The database as an error names it."""
    return engine.url.render_as_string(hide_password=True)


def relation(quote: Quote, name: str, dump: TableConfig, schema_name: str | None) -> str:
    """What stands behind `from`: the table, or the query in brackets."""
    if dump.query is not None:
        # On a line of its own: the last one of the query may end with a comment.
        return f"({dump.query.rstrip().rstrip(';')}\n) as dump"
    schema = dump.schema_name or schema_name
    table = quote(dump.table or name)
    return table if schema is None else f"{quote(schema)}.{table}"


def with_key(
    engine: sqlalchemy.Engine,
    name: str,
    dump: TableConfig,
    schema_name: str | None,
    columns: Mapping[str, Column],
) -> tuple[dict[str, Column], list[str]]:
    """The columns and the key: the one that was given, or the table's own."""
    key = _key_of(engine, name, dump, schema_name)
    return {
        column: replace(described, required=column in key) for column, described in columns.items()
    }, key


def _key_of(
    engine: sqlalchemy.Engine, name: str, dump: TableConfig, schema_name: str | None
) -> list[str]:
    if dump.key is not None:
        return list(dump.key)
    if dump.query is not None:
        return []
    found = sqlalchemy.inspect(engine).get_pk_constraint(
        dump.table or name, schema=dump.schema_name or schema_name
    )
    return list(found["constrained_columns"])


def as_written(sql: str) -> sqlalchemy.TextClause:
    """SQL that SQLAlchemy sends as it is: `text` takes `:word` for a parameter, in literals too."""
    return sqlalchemy.text(sql.replace(":", r"\:"))


def statement(
    source: str, columns: Mapping[str, Column], since: IncrementalCursor | None
) -> sqlalchemy.Select[Any]:
    """The select: the columns, and where a load ended before, only what is not below it."""
    asked: list[Any] = [
        sqlalchemy.literal_column(column.expression).label(name) for name, column in columns.items()
    ]
    select = sqlalchemy.select(*asked).select_from(as_written(source))
    if since is None:
        return select
    place: sqlalchemy.ColumnClause[Any] = sqlalchemy.literal_column(
        str(columns[since.cursor].ordered)
    )
    value = sqlalchemy.literal(since.value)
    return select.where((place >= value if since.again else place > value) | place.is_(None))


@contextmanager
def said_of(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """Say of the source's errors where they come from.

    Raises:
        IngestionError: retryable when the database went away, or is too busy.
        ConfigurationError: there is no such table.
    """
    from adbc_driver_manager import Error as AdbcError

    try:
        yield
    except exc.NoSuchTableError as error:
        raise ConfigurationError(
            f"Table {error} does not exist.",
            where=place_of(engine),
            fix=f"correct tables.{name} of the arguments of source 'sql__database'",
        ) from error
    except (exc.DBAPIError, psycopg2.Error, AdbcError) as error:
        first = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise IngestionError(
            f"Table {name!r} cannot be read: {first}",
            where=place_of(engine),
            fix="see that the database answers, and that the user of the secret `url` may read it",
            retryable=classify(error) is FailureClass.TRANSIENT,
        ) from error
    except pa.ArrowException as error:
        raise IngestionError(
            f"Table {name!r} holds a value that cannot be kept: {error}.",
            where=place_of(engine),
            fix=f"give tables.{name} a query that turns it into text or null",
        ) from error
