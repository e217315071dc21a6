"""Rows of JSON answers as Arrow tables of declared columns, so that a changed API is found out.

A field that no column names is left out. A field that is gone is null where its column may be,
and else refused; so is a value that does not read as its column's type without loss.
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
INTEGERS = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        path: of the field in a row of an answer, dots between the names: `owner.login`.
        kind: TEXT, INTEGER, BOOLEAN, DATE or TIMESTAMP. A list of texts reads as a TEXT with
            commas between.
        required: a row without a value is refused.
    """

    path: str
    kind: pa.DataType
    required: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its columns by name, and the names of its key."""

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, Column]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema, `_loaded_at` included."""
        fields = [
            pa.field(name, column.kind, nullable=not column.required)
            for name, column in self.columns.items()
        ]
        return pa.schema([*fields, pa.field("_loaded_at", TIMESTAMP, nullable=False)])

    def row(self, answer: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """A row of the table from a row of an answer.

        Raises:
            IngestionError: a required field is gone, or a value is of another type.
        """
        return {
            name: self._value(name, column, answer, where) for name, column in self.columns.items()
        }

    def arrow(self, rows: Iterable[Mapping[str, Any]], loaded_at: datetime) -> pa.Table:
        """Rows as Arrow; a table without rows still makes the table in the warehouse."""
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
            return READERS[column.kind](value)
        except ValueError as error:
            raise IngestionError(
                f"Table {self.name!r}: field {column.path!r} does not read as {column.kind}: "
                f"{json.dumps(value)[:100]}.",
                where=where,
                fix=fix,
            ) from error


def resources_of(
    read: Callable[[], Iterator[tuple[Table, list[dict[str, Any]]]]],
    tables: Sequence[Table],
) -> list[DltResource]:
    """Resources of tables that are read together, merged by their keys.

    Args:
        read: yields rows for one table after another, in any order; called once a load. The
            state it keeps is `dlt.current.source_state()`.
        tables: all of them; also those of which nothing is read are made in the warehouse.
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
            # What tells a table that was loaded before from one that never was.
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


def fingerprint(row: Mapping[str, Any]) -> str:
    """8 characters that differ when a row does; short, since the state keeps them for each row."""
    text = json.dumps(row, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def today() -> date:
    """The day of a snapshot, in UTC wherever the run is."""
    return datetime.now(UTC).date()


def _text(value: Any) -> str:
    if isinstance(value, str):
        # Postgres keeps no null character.
        return value.replace("\x00", "")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value).replace("\x00", "")
    raise ValueError(value)


def _integer(value: Any) -> int:
    """An integer, also one in quotes, as Google writes those of 64 bits."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value not in INTEGERS:
        raise ValueError(value)
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(value)  # noqa: TRY004 (every reader refuses alike)
    return value


def _date(value: Any) -> date:
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    return date.fromisoformat(_text(value))


def _timestamp(value: Any) -> datetime:
    """An instant; one without a zone could be any of them."""
    at = datetime.fromisoformat(_text(value))
    if at.tzinfo is None:
        raise ValueError(value)
    return at.astimezone(UTC)


READERS: dict[pa.DataType, Callable[[Any], Any]] = {
    TEXT: _text,
    INTEGER: _integer,
    BOOLEAN: _boolean,
    DATE: _date,
    TIMESTAMP: _timestamp,
}
