"""Parquet: typed already. What a warehouse has no type for becomes the nearest that it has."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefect_flows.sources.files__inbox.column_names import Names
from prefect_flows.sources.files__inbox.column_types import (
    BIGINT,
    BINARY,
    BOOL,
    DATE,
    DATETIME,
    DOUBLE,
    TEXT,
    TIME,
    TIMESTAMP,
    Types,
    name_of,
)
from prefect_flows.sources.files__inbox.faults import Malformed, first_bad, shortened
from prefect_flows.sources.files__inbox.inbox import Content

ROWS_AT_ONCE = 65_536


def read(content: Content, names: Names, types: Types) -> Iterator[pa.RecordBatch]:
    """The rows of a file, in the types of the table; a column that is new to it in its own type.

    Raises:
        Malformed: the file is no Parquet, is cut off, or a value does not fit its column.
    """
    with content.on_this_machine() as path:
        if path.stat().st_size == 0:
            raise Malformed("the file is empty")
        try:
            with pq.ParquetFile(path) as file:
                yield from _batches(file, names, types)
        except pa.ArrowInvalid as error:
            raise Malformed(f"no whole Parquet file: {error}") from error
        except OSError as error:
            if error.errno is not None:  # the machine's trouble, and none of the file's
                raise
            raise Malformed(f"no whole Parquet file: {error}") from error


def _batches(file: pq.ParquetFile, names: Names, types: Types) -> Iterator[pa.RecordBatch]:
    schema = file.schema_arrow
    repeated = [key for key in schema.names if schema.names.count(key) > 1]
    if repeated:
        raise Malformed(f"column {shortened(repr(repeated[0]))} is there twice")
    names.add(schema.names)
    kinds = {
        field.name: types.get(names.columns[field.name]) or _nearest(field) for field in schema
    }
    first_row = 1
    for batch in file.iter_batches(ROWS_AT_ONCE):
        columns = {
            names.columns[key]: _cast(batch.column(key), kind, key, first_row)
            for key, kind in kinds.items()
            if not pa.types.is_null(kind)
        }
        first_row += len(batch)
        yield pa.RecordBatch.from_pydict(columns)


def _nearest(field: pa.Field) -> pa.DataType:
    """The type of a column that the table does not have yet."""
    kind, is_ = field.type, pa.types
    if is_.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if is_.is_uint64(kind):
        return pa.decimal128(20, 0)
    if is_.is_timestamp(kind):
        return DATETIME if kind.tz is None else TIMESTAMP
    if is_.is_decimal(kind) and kind.precision <= 38:
        return pa.decimal128(kind.precision, kind.scale)
    for is_it, nearest in (
        (is_.is_integer, BIGINT),
        (is_.is_floating, DOUBLE),
        (is_.is_boolean, BOOL),
        (is_.is_date, DATE),
        (is_.is_time, TIME),
        (is_.is_nested, TEXT),
        (is_.is_null, kind),
    ):
        if is_it(kind):
            return nearest
    if is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind):
        return TEXT
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind):
        return BINARY
    raise Malformed(f"column {field.name!r} is of type {kind}, for which there is no column")


def _cast(values: pa.Array, kind: pa.DataType, key: str, first_row: int) -> pa.Array:
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_nested(values.type) and kind == TEXT:
        values = pa.array(
            [None if value is None else json.dumps(value, default=str, ensure_ascii=False)
             for value in values.to_pylist()], TEXT,
        )  # fmt: skip
    elif pa.types.is_timestamp(values.type) and values.type.unit == "ns":
        # Warehouses keep microseconds; what is finer is cut off.
        values = values.cast(pa.timestamp("us", values.type.tz), safe=False)
    if values.type != kind:
        values = _safely(values, kind, key, first_row)
    if kind == TEXT and pc.any(pc.match_substring(values, "\0")).as_py():
        row = pc.index(pc.fill_null(pc.match_substring(values, "\0"), False), True).as_py()
        raise Malformed(f"column {key!r}: it holds a zero byte", first_row + row)
    return values


def _safely(values: pa.Array, kind: pa.DataType, key: str, first_row: int) -> pa.Array:
    one_has_zone = pa.types.is_timestamp(values.type) and pa.types.is_timestamp(kind)
    if one_has_zone and (values.type.tz is None) != (kind.tz is None):
        raise Malformed(
            f"column {key!r} is {name_of(values.type)}, and the table's {name_of(kind)}"
        )
    try:
        return values.cast(kind)
    except pa.ArrowNotImplementedError as error:
        raise Malformed(
            f"column {key!r} is {name_of(values.type)}, and the table's {name_of(kind)}"
        ) from error
    except pa.ArrowInvalid as error:

        def fit(some: pa.Array) -> bool:
            try:
                some.cast(kind)
            except pa.ArrowInvalid:
                return False
            return True

        row = first_bad(values, fit)
        value = shortened(repr(values[row].as_py()))
        raise Malformed(
            f"column {key!r}: {value} is no {name_of(kind)}", first_row + row
        ) from error
