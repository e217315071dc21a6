"""Postgres, read by COPY into Arrow: types are told by the server, values never pass Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy
from sqlalchemy.dialects import postgresql

from prefect_flows.core.errors import IngestionError
from prefect_flows.ingest.destinations.postgres import written
from prefect_flows.sources.sql__database.readers.base import (
    JSON,
    Column,
    IncrementalCursor,
    place_of,
    relation,
    said_of,
    statement,
    with_key,
)
from prefect_flows.sources.sql__database.table_config import TableConfig

# Bytes of a batch as the server sends them; a few times as many in memory.
BATCH_BYTES = 4 * 2**20
# What Arrow and the warehouses hold of a number without declared precision: BigQuery's BIGNUMERIC.
WIDEST = (76, 38)
# Types whose values Arrow and the warehouse hold as they are, or as another type. All others come
# as text.
AS_THEY_ARE = {"float4": "::float8", "oid": "::int8"} | dict.fromkeys(
    (
        "int2", "int4", "float8", "bool", "text", "varchar", "bpchar", "name", "char",
        "date", "time", "timestamptz", "bytea",
    ),
    "",
)  # fmt: skip
# Types whose values have one order in the server, in Arrow and in Python; and texts, which have it
# when they are compared by their bytes, whatever their collation.
ORDERED = dict.fromkeys(
    (
        "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "date", "timestamp",
        "timestamptz", "uuid",
    ),
    "",
) | dict.fromkeys(("text", "varchar", "name"), ' collate "C"')  # fmt: skip
# Arrow's 64 bits are no precision to dlt, whose contract would not see that a column got wider.
WIDE_INTEGER = {"data_type": "bigint", "precision": 64}
# A table of fewer pages (of 8 KB) is not read in parts.
PAGES_OF_A_PART = 4_000
ONE_MOMENT = "set transaction isolation level repeatable read read only"
YEARS = {
    "date": (-719162, 2932896),  # days of 0001-01-01 and 9999-12-31
    "timestamp": (-62135596800000000, 253402300799999999),  # microseconds of the same
}


class PostgresReader:
    """Reads a Postgres."""

    def __init__(self, engine: sqlalchemy.Engine, schema_name: str | None) -> None:
        self._engine = engine
        self._schema_name = schema_name

    def describe(self, name: str, dump: TableConfig) -> tuple[dict[str, Column], list[str]]:
        """The columns of a table or query as the server describes them, and its key."""
        source = relation(_quoted, name, dump, self._schema_name)
        with said_of(self._engine, name), self._engine.connect() as connection:
            # Not through SQLAlchemy, to which a percent sign is the beginning of a parameter.
            cursor: Any = connection.connection.cursor()
            cursor.execute(f"select * from {source} limit 0")  # noqa: S608
            described = cursor.description
            types = self._types(connection, {column.type_code for column in described})
            columns = {
                column.name: replace(
                    self._column(
                        column.name, *types[column.type_code], column.precision, column.scale
                    ),
                    ordered=_ordered(column.name, *types[column.type_code]),
                )
                for column in described
            }
            return with_key(self._engine, name, dump, self._schema_name, columns)

    def read(
        self,
        name: str,
        dump: TableConfig,
        columns: Mapping[str, Column],
        since: IncrementalCursor | None,
        *,
        as_text: bool = False,
    ) -> Iterator[pa.Table]:
        """The rows in batches, all of one moment; an empty batch when there are none."""
        import adbc_driver_postgresql
        from adbc_driver_postgresql import dbapi

        sql = self._statement(name, dump, columns, since)
        with said_of(self._engine, name), dbapi.connect(self._uri) as connection:  # noqa: SIM117
            with connection.cursor() as asked:
                hint = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value
                asked.adbc_statement.set_options(**{hint: str(BATCH_BYTES)})
                asked.execute(sql)
                reader = asked.fetch_record_batch()
                empty = True
                for batch in reader:
                    empty = False
                    data = pa.Table.from_batches([batch])
                    yield self._as_wanted(name, dump, data, columns, as_text)
                if empty:
                    data = reader.schema.empty_table()
                    yield self._as_wanted(name, dump, data, columns, as_text)

    def no_rows(self, name: str, dump: TableConfig, columns: Mapping[str, Column]) -> pa.Table:
        """What `read` gives of an empty table: its columns, as Arrow has them."""
        from adbc_driver_postgresql import dbapi

        sql = f"{self._statement(name, dump, columns, None)} limit 0"
        with said_of(self._engine, name), dbapi.connect(self._uri) as connection:  # noqa: SIM117
            with connection.cursor() as asked:
                asked.execute(sql)
                data = asked.fetch_arrow_table()
                return self._as_wanted(name, dump, data, columns, as_text=False)

    def copy(
        self, name: str, dump: TableConfig, expressions: Iterable[str], folder: Path
    ) -> list[tuple[Path, int]]:
        """Write all rows of one moment to files, in COPY's binary form; each file and its rows.

        A large table is read in parts side by side, as far as its server can: an ordinary table of
        Postgres 14 or newer.

        Args:
            name: of the table here.
            dump: what is read.
            expressions: of the select list, in the source's SQL.
            folder: an empty one.
        """
        source = relation(_quoted, name, dump, self._schema_name)
        select = f"select {', '.join(expressions)} from {source}"  # noqa: S608

        def copied(number: int, where: str) -> tuple[Path, int]:
            file = folder / str(number)
            with self._engine.connect() as connection, written(file) as opened:
                cursor: Any = connection.connection.cursor()
                cursor.execute(ONE_MOMENT)
                cursor.execute("set transaction snapshot %s", [snapshot])
                cursor.copy_expert(f"copy ({select} {where}) to stdout (format binary)", opened)
                return file, int(cursor.rowcount)

        with said_of(self._engine, name), self._engine.connect() as first:
            cursor: Any = first.connection.cursor()
            cursor.execute(f"{ONE_MOMENT}; select pg_export_snapshot()")
            ((snapshot,),) = cursor.fetchall()
            parts = [""] if dump.query is not None else _parts(cursor, source)
            with ThreadPoolExecutor(len(parts)) as pool:
                return list(pool.map(copied, range(len(parts)), parts))

    def _statement(
        self,
        name: str,
        dump: TableConfig,
        columns: Mapping[str, Column],
        since: IncrementalCursor | None,
    ) -> str:
        source = relation(_quoted, name, dump, self._schema_name)
        return str(
            statement(source, columns, since).compile(
                # One that takes no percent sign for the beginning of a parameter.
                dialect=postgresql.dialect(paramstyle="named"),  # type: ignore[no-untyped-call]
                compile_kwargs={"literal_binds": True},
            )
        )

    @cached_property
    def _uri(self) -> str:
        return self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @staticmethod
    def _types(
        connection: sqlalchemy.Connection, codes: set[int]
    ) -> dict[int, tuple[str, str, bool]]:
        """Type's number → its name, its kind, and whether it is an array."""
        found = connection.execute(
            sqlalchemy.text(
                "select oid, typname, typtype, typcategory = 'A' from pg_type where oid = any(:o)"
            ),
            {"o": list(codes)},
        )
        return {oid: (name, kind, is_array) for oid, name, kind, is_array in found}

    def _column(
        self,
        name: str,
        type_name: str,
        kind: str,
        is_array: bool,
        precision: int | None,
        scale: int | None,
    ) -> Column:
        quoted = _quoted(name)
        if is_array or kind == "c":
            return Column(f"to_json({quoted})::text", JSON)
        if type_name == "numeric":
            digits, places = _number(precision, scale)
            wide = pa.decimal128 if digits <= 38 else pa.decimal256
            return Column(
                f"{quoted}::text",
                {"data_type": "decimal", "precision": digits, "scale": places},
                wide(digits, places),
            )
        if type_name == "timestamp":
            return Column(quoted, {"data_type": "timestamp", "timezone": False})
        if type_name == "int8":
            return Column(quoted, WIDE_INTEGER)
        taken_as = AS_THEY_ARE.get(type_name, "::text")
        return Column(quoted + taken_as, JSON if type_name in {"json", "jsonb"} else {})

    def _as_wanted(
        self,
        name: str,
        dump: TableConfig,
        data: pa.Table,
        columns: Mapping[str, Column],
        as_text: bool,
    ) -> pa.Table:
        """Numbers as numbers, the cursor's in any case; refuses what no warehouse holds."""
        for place, (column, wanted) in enumerate(columns.items()):
            values = data.column(place)
            if wanted.arrow is not None:
                try:
                    number = values.cast(wanted.arrow)
                except pa.ArrowInvalid as error:
                    raise self._refused(name, column, str(error)) from error
                if not as_text or column == dump.cursor:
                    data = data.set_column(place, column, number)
            elif pa.types.is_temporal(values.type) and not pa.types.is_time(values.type):
                is_date = pa.types.is_date(values.type)
                low, high = YEARS["date" if is_date else "timestamp"]
                numbers = values.cast(pa.int32() if is_date else pa.int64())
                span = pc.min_max(numbers)
                if span["min"].is_valid and (
                    span["min"].as_py() < low or span["max"].as_py() > high
                ):
                    raise self._refused(
                        name, column, "a moment before the year 1, after 9999, or infinity"
                    )
            elif column == dump.cursor and pa.types.is_floating(values.type):
                is_number: Any = pc.all(pc.is_finite(values), min_count=0)
                if not is_number.as_py():
                    raise self._refused(name, column, "a cursor that is NaN or infinity")
        fields = [
            field.with_nullable(not wanted.required).remove_metadata()
            for field, wanted in zip(data.schema, columns.values(), strict=True)
        ]
        return data.cast(pa.schema(fields))

    def _refused(self, name: str, column: str, why: str) -> IngestionError:
        return IngestionError(
            f"Table {name!r}: column {column!r} holds a value that cannot be kept: {why}.",
            where=place_of(self._engine),
            fix=f"give tables.{name} a query that turns the value into text or null",
        )


def _parts(cursor: Any, source: str) -> list[str]:
    """Conditions that part a table by where its rows lie; an empty one where they cannot."""
    cursor.execute(
        "select relkind = 'r' and current_setting('server_version_num')::int >= 140000, "
        "pg_relation_size(oid) / current_setting('block_size')::int "
        "from pg_class where oid = to_regclass(%s)",
        [source],
    )
    ((has_places, pages),) = cursor.fetchall()
    if not has_places or pages < PAGES_OF_A_PART:
        return [""]
    middle = f"'({pages // 2},0)'"
    return [f"where ctid < {middle}", f"where ctid >= {middle}"]


def _quoted(name: str) -> str:
    """An identifier of Postgres, whatever the name."""
    return '"' + name.replace('"', '""') + '"'


def _ordered(name: str, type_name: str, kind: str, is_array: bool) -> str | None:
    """What a cursor is compared by; see `Column`."""
    if is_array or kind == "c" or type_name not in ORDERED:
        return None
    return _quoted(name) + ORDERED[type_name]


def _number(precision: int | None, scale: int | None) -> tuple[int, int]:
    """Precision and scale of a column; the widest for one that declares none.

    The server's description says 65535 for both of them then.
    """
    if precision is None or scale is None or not 0 <= scale <= precision <= WIDEST[0]:
        return WIDEST
    return precision, scale
