"""Converts rows of JSON responses to Arrow tables with declared columns, so that API changes show.

Fields without a column are ignored. A missing field is null if its column is optional, otherwise an
error. A value that does not convert to its column's type without loss is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import dlt
import pyarrow as pa
from dlt.extract import DltResource

from prefect_flows.core.errors import IngestionError

TEXT, INTEGER, BOOLEAN, DATE = pa.string(), pa.int64(), pa.bool_(), pa.date32()
TIMESTAMP = pa.timestamp("us", tz="UTC")
INT64_RANGE = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        path: path of the field in a row of the response, with dots: `owner.login`.
        kind: TEXT, INTEGER, BOOLEAN, DATE or TIMESTAMP. A list of texts becomes a TEXT, joined with
            commas.
        required: whether a row without a value is an error.
    """

    path: str
    kind: pa.DataType
    required: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its columns by name, and the names of its key columns."""

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, Column]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the table, with `_loaded_at`."""
        fields = [
            pa.field(name, column.kind, nullable=not column.required)
            for name, column in self.columns.items()
        ]
        return pa.schema([*fields, pa.field("_loaded_at", TIMESTAMP, nullable=False)])

    def row(self, answer: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """Convert a row of a response to a row of the table.

        Raises:
            IngestionError: a required field is missing, or a value has the wrong type.
        """
        return {
            name: self._value(name, column, answer, where) for name, column in self.columns.items()
        }

    def arrow(self, rows: Iterable[Mapping[str, Any]], loaded_at: datetime) -> pa.Table:
        """Convert rows to an Arrow table; an empty one still creates the table in the warehouse."""
        return pa.Table.from_pylist(
            [{**row, "_loaded_at": loaded_at} for row in rows], schema=self.schema
        )

    def _value(self, name: str, column: Column, answer: Mapping[str, Any], where: str) -> Any:
        value: Any = answer
        for part in column.path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        fix = "compare the API's documentation with the source's source.py"
        if value is None:
            if not column.required:
                return None
            raise IngestionError(
                f"Table {self.name!r}: the API's answer has no field {column.path!r} any more, "
                f"which column {name!r} needs (it has: {', '.join(answer)}).",
                where=where,
                fix=fix,
            )
        try:
            return CONVERTERS[column.kind](value)
        except ValueError as error:
            raise IngestionError(
                f"Table {self.name!r}: field {column.path!r} does not read as {column.kind}: "
                f"{json.dumps(value)[:100]}.",
                where=where,
                fix=fix,
            ) from error


def build_resources(
    read: Callable[[], Iterator[tuple[Table, list[dict[str, Any]]]]],
    tables: Sequence[Table],
) -> list[DltResource]:
    """Build dlt resources for tables that are read together and merged by their keys.

    Args:
        read: yields rows for one table after another, in any order; called once per load. It keeps
            its state in `dlt.current.source_state()`.
        tables: all tables; those without rows are created in the warehouse as well.
    """

    def answers() -> Iterator[tuple[str, pa.Table]]:
        now = datetime.now(UTC)
        for table in tables:
            yield table.name, table.arrow([], now)
        for table, rows in read():
            if rows:
                yield table.name, table.arrow(rows, now)

    parent = dlt.resource(answers, name="answers")

    def resource(table: Table) -> DltResource:
        def rows(answer: tuple[str, pa.Table]) -> Iterator[pa.Table]:
            # Distinguishes a table that was loaded before from a new one.
            dlt.current.resource_state()["read"] = True
            name, data = answer
            if name == table.name:
                yield data

        return dlt.transformer(
            rows,
            data_from=parent,
            name=table.name,
            primary_key=table.key,
            write_disposition="merge",
        )

    return [resource(table) for table in tables]


def get_fingerprint(row: Mapping[str, Any]) -> str:
    """Return a hash of 8 characters for a row; short, since the state keeps one for each row."""
    text = json.dumps(row, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def today() -> date:
    """Return today's date in UTC, the date of a snapshot."""
    return datetime.now(UTC).date()


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        # Postgres cannot store a null character.
        return value.replace("\x00", "")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value).replace("\x00", "")
    raise ValueError(value)


def _to_integer(value: Any) -> int:
    """Convert to an integer, also from a string, as Google writes 64-bit integers."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value not in INT64_RANGE:
        raise ValueError(value)
    return value


def _to_boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)  # noqa: TRY004 (all converters raise the same error)
    return value


def _to_date(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    return date.fromisoformat(_to_text(value))


def _to_timestamp(value: Any) -> datetime:
    """Convert to a UTC timestamp; refuse one without a time zone, which is ambiguous."""
    at = datetime.fromisoformat(_to_text(value))
    if at.tzinfo is None:
        raise ValueError(value)
    return at.astimezone(UTC)


CONVERTERS: dict[pa.DataType, Callable[[Any], Any]] = {
    TEXT: _to_text,
    INTEGER: _to_integer,
    BOOLEAN: _to_boolean,
    DATE: _to_date,
    TIMESTAMP: _to_timestamp,
}
