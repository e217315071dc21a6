"""Reader for Postgres: reads by COPY into Arrow, with types from the server."""

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
from prefect_flows.ingest.destinations.postgres import open_interruptible
from prefect_flows.sources.sql__database.readers.base import (
    JSON,
    Column,
    IncrementalCursor,
    add_key,
    build_select,
    format_relation,
    format_url,
    translate_errors,
)
from prefect_flows.sources.sql__database.table_config import TableConfig

# Size of a batch as the server sends it; it takes a few times as much memory.
BATCH_BYTES = 4 * 2**20
# Precision and scale for numbers that declare none: those of BigQuery's BIGNUMERIC.
MAX_PRECISION_AND_SCALE = (76, 38)
# Casts of types that Arrow and the warehouse support, some as another type. All others are read as
# text.
CAST_BY_TYPE = {"float4": "::float8", "oid": "::int8"} | dict.fromkeys(
    (
        "int2", "int4", "float8", "bool", "text", "varchar", "bpchar", "name", "char",
        "date", "time", "timestamptz", "bytea",
    ),
    "",
)  # fmt: skip
# Types that the server, Arrow and Python order alike, with the collation for it: texts have the
# same order if they are compared by their bytes.
COLLATION_BY_ORDERED_TYPE = dict.fromkeys(
    (
        "int2", "int4", "int8", "oid", "float4", "float8", "numeric", "date", "timestamp",
        "timestamptz", "uuid",
    ),
    "",
) | dict.fromkeys(("text", "varchar", "name"), ' collate "C"')  # fmt: skip
# A moment is a literal with a time zone, which Postgres ignores for the first two.
TIME_TYPES = frozenset({"date", "timestamp", "timestamptz"})
# dlt derives no precision from Arrow's int64, so its contract would not see a column get wider.
INT64_HINTS = {"data_type": "bigint", "precision": 64}
# Tables with fewer pages (of 8 kB) are not read in parts.
MIN_PAGES_TO_SPLIT = 4_000
SET_REPEATABLE_READ = "set transaction isolation level repeatable read read only"
YEARS_1_TO_9999 = {
    "date": (-719162, 2932896),  # days of 0001-01-01 and 9999-12-31
    "timestamp": (-62135596800000000, 253402300799999999),  # microseconds of the same
}


class PostgresReader:
    """Reader for Postgres."""

    def __init__(self, engine: sqlalchemy.Engine, schema_name: str | None) -> None:
        self._engine = engine
        self._schema_name = schema_name

    def describe(self, name: str, config: TableConfig) -> tuple[dict[str, Column], list[str]]:
        """Return the columns of a table or query as the server describes them, and its key."""
        source = format_relation(_quote, name, config, self._schema_name)
        with translate_errors(self._engine, name), self._engine.connect() as connection:
            # Not through SQLAlchemy, which treats a percent sign as the start of a parameter.
            cursor: Any = connection.connection.cursor()
            cursor.execute(f"select * from {source} limit 0")  # noqa: S608
            described = cursor.description
            types = self._types(connection, {column.type_code for column in described})
            columns = {
                column.name: replace(
                    self._column(
                        column.name, *types[column.type_code], column.precision, column.scale
                    ),
                    ordered=_order_expression(column.name, *types[column.type_code]),
                    days="as moments" if types[column.type_code][0] in TIME_TYPES else None,
                )
                for column in described
            }
            return add_key(self._engine, name, config, self._schema_name, columns)

    def read(
        self,
        name: str,
        config: TableConfig,
        columns: Mapping[str, Column],
        since: IncrementalCursor | None,
        *,
        as_text: bool = False,
    ) -> Iterator[pa.Table]:
        """Yield the rows of one snapshot in batches; an empty batch if there are none."""
        import adbc_driver_postgresql
        from adbc_driver_postgresql import dbapi

        sql = self._statement(name, config, columns, since)
        with translate_errors(self._engine, name), dbapi.connect(self._uri) as connection:  # noqa: SIM117
            with connection.cursor() as adbc_cursor:
                hint = adbc_driver_postgresql.StatementOptions.BATCH_SIZE_HINT_BYTES.value
                adbc_cursor.adbc_statement.set_options(**{hint: str(BATCH_BYTES)})
                adbc_cursor.execute(sql)
                reader = adbc_cursor.fetch_record_batch()
                empty = True
                for batch in reader:
                    empty = False
                    data = pa.Table.from_batches([batch])
                    yield self._convert(name, config, data, columns, as_text)
                if empty:
                    data = reader.schema.empty_table()
                    yield self._convert(name, config, data, columns, as_text)

    def read_empty(self, name: str, config: TableConfig, columns: Mapping[str, Column]) -> pa.Table:
        """Return the Arrow table that `read` yields for an empty table."""
        from adbc_driver_postgresql import dbapi

        sql = f"{self._statement(name, config, columns, None)} limit 0"
        with translate_errors(self._engine, name), dbapi.connect(self._uri) as connection:  # noqa: SIM117
            with connection.cursor() as adbc_cursor:
                adbc_cursor.execute(sql)
                data = adbc_cursor.fetch_arrow_table()
                return self._convert(name, config, data, columns, as_text=False)

    def copy(
        self, name: str, config: TableConfig, expressions: Iterable[str], folder: Path
    ) -> list[tuple[Path, int]]:
        """Write all rows of one snapshot to files in COPY's binary format; return the row counts.

        Reads a large table in parts in parallel if the server supports it: an ordinary table of
        Postgres 14 or newer.

        Args:
            name: name of the table here.
            config: what to read.
            expressions: expressions of the select list, in the source's SQL.
            folder: an empty folder.
        """
        source = format_relation(_quote, name, config, self._schema_name)
        select = f"select {', '.join(expressions)} from {source}"  # noqa: S608

        def copy_part(number: int, where: str) -> tuple[Path, int]:
            file = folder / str(number)
            with self._engine.connect() as connection, open_interruptible(file) as opened:
                cursor: Any = connection.connection.cursor()
                cursor.execute(SET_REPEATABLE_READ)
                cursor.execute("set transaction snapshot %s", [snapshot])
                cursor.copy_expert(f"copy ({select} {where}) to stdout (format binary)", opened)
                return file, int(cursor.rowcount)

        with translate_errors(self._engine, name), self._engine.connect() as first:
            cursor: Any = first.connection.cursor()
            cursor.execute(f"{SET_REPEATABLE_READ}; select pg_export_snapshot()")
            ((snapshot,),) = cursor.fetchall()
            parts = [""] if config.query is not None else _split_conditions(cursor, source)
            with ThreadPoolExecutor(len(parts)) as pool:
                return list(pool.map(copy_part, range(len(parts)), parts))

    def _statement(
        self,
        name: str,
        config: TableConfig,
        columns: Mapping[str, Column],
        since: IncrementalCursor | None,
    ) -> str:
        source = format_relation(_quote, name, config, self._schema_name)
        return str(
            build_select(source, columns, since).compile(
                # A parameter style in which a percent sign has no meaning.
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
        """Return name, kind and whether it is an array, by type OID."""
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
        quoted = _quote(name)
        if is_array or kind == "c":
            return Column(f"to_json({quoted})::text", JSON)
        if type_name == "numeric":
            digits, places = _precision_and_scale(precision, scale)
            wide = pa.decimal128 if digits <= 38 else pa.decimal256
            return Column(
                f"{quoted}::text",
                {"data_type": "decimal", "precision": digits, "scale": places},
                wide(digits, places),
            )
        if type_name == "timestamp":
            return Column(quoted, {"data_type": "timestamp", "timezone": False})
        if type_name == "int8":
            return Column(quoted, INT64_HINTS)
        taken_as = CAST_BY_TYPE.get(type_name, "::text")
        return Column(quoted + taken_as, JSON if type_name in {"json", "jsonb"} else {})

    def _convert(
        self,
        name: str,
        config: TableConfig,
        data: pa.Table,
        columns: Mapping[str, Column],
        as_text: bool,
    ) -> pa.Table:
        """Convert numbers (those of the cursor even with `as_text`); refuse unsupported values."""
        for index, (column, described_column) in enumerate(columns.items()):
            values = data.column(index)
            if described_column.arrow is not None:
                try:
                    number = values.cast(described_column.arrow)
                except pa.ArrowInvalid as error:
                    raise self._unsupported_value_error(name, column, str(error)) from error
                if not as_text or column == config.cursor:
                    data = data.set_column(index, column, number)
            elif pa.types.is_temporal(values.type) and not pa.types.is_time(values.type):
                is_date = pa.types.is_date(values.type)
                low, high = YEARS_1_TO_9999["date" if is_date else "timestamp"]
                numbers = values.cast(pa.int32() if is_date else pa.int64())
                span = pc.min_max(numbers)
                if span["min"].is_valid and (
                    span["min"].as_py() < low or span["max"].as_py() > high
                ):
                    raise self._unsupported_value_error(
                        name, column, "a moment before the year 1, after 9999, or infinity"
                    )
            elif column == config.cursor and pa.types.is_floating(values.type):
                is_number: Any = pc.all(pc.is_finite(values), min_count=0)
                if not is_number.as_py():
                    raise self._unsupported_value_error(
                        name, column, "a cursor that is NaN or infinity"
                    )
        fields = [
            field.with_nullable(not described_column.required).remove_metadata()
            for field, described_column in zip(data.schema, columns.values(), strict=True)
        ]
        return data.cast(pa.schema(fields))

    def _unsupported_value_error(self, name: str, column: str, why: str) -> IngestionError:
        return IngestionError(
            f"Table {name!r}: column {column!r} holds a value that cannot be kept: {why}.",
            where=format_url(self._engine),
            fix=f"give tables.{name} a query that turns the value into text or null",
        )


def _split_conditions(cursor: Any, source: str) -> list[str]:
    """Return `where` clauses that split a table by row position (ctid), or one empty clause."""
    cursor.execute(
        "select relkind = 'r' and current_setting('server_version_num')::int >= 140000, "
        "pg_relation_size(oid) / current_setting('block_size')::int "
        "from pg_class where oid = to_regclass(%s)",
        [source],
    )
    ((has_ctid_scans, pages),) = cursor.fetchall()
    if not has_ctid_scans or pages < MIN_PAGES_TO_SPLIT:
        return [""]
    middle = f"'({pages // 2},0)'"
    return [f"where ctid < {middle}", f"where ctid >= {middle}"]


def _quote(name: str) -> str:
    """Quote a name as a Postgres identifier."""
    return '"' + name.replace('"', '""') + '"'


def _order_expression(name: str, type_name: str, kind: str, is_array: bool) -> str | None:
    """Return the expression that a cursor is compared by; see `Column.ordered`."""
    if is_array or kind == "c" or type_name not in COLLATION_BY_ORDERED_TYPE:
        return None
    return _quote(name) + COLLATION_BY_ORDERED_TYPE[type_name]


def _precision_and_scale(precision: int | None, scale: int | None) -> tuple[int, int]:
    """Return precision and scale of a column; the maximum if it declares none.

    The server then reports 65535 for both.
    """
    if (
        precision is None
        or scale is None
        or not 0 <= scale <= precision <= MAX_PRECISION_AND_SCALE[0]
    ):
        return MAX_PRECISION_AND_SCALE
    return precision, scale
