"""Reads Parquet files into Arrow batches of the table's types, without changing values.

A new column gets the nearest type that a warehouse has. A value that would change in an existing
column's type is a fault. Lists and objects become JSON text: decimals, dates, times, NaN and
infinity become strings in it, bytes become base64, and a map becomes a list of pairs.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefect_flows.core.formatting import shorten_middle
from prefect_flows.sources.files__inbox.column_names import Names, refuse_many_columns
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
    format_type,
    is_exact,
    is_valid,
    parse,
)
from prefect_flows.sources.files__inbox.file_errors import MalformedFile, find_first_bad
from prefect_flows.sources.files__inbox.inbox import Content

BATCH_ROWS = 65_536
# Text in memory at a time.
_MAX_TEXT_BYTES = 64 << 20


def read(content: Content, names: Names, types: Types) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file in the table's types; a new column keeps its own type.

    Raises:
        MalformedFile: the file is not valid Parquet, or a value does not fit its column.
    """
    with content.open_local() as path:
        if path.stat().st_size == 0:
            raise MalformedFile("the file is empty")
        try:
            texts = [field.name for field in pq.read_schema(path) if _has_long_values(field.type)]
            with pq.ParquetFile(path, read_dictionary=texts) as file:
                yield from _read_batches(file, names, types)
        except pa.ArrowInvalid as error:
            raise MalformedFile(f"not a valid Parquet file: {error}") from error
        except OSError as error:
            if error.errno is not None:  # an I/O error of this machine, not a fault of the file
                raise
            raise MalformedFile(f"not a valid Parquet file: {error}") from error


def _read_batches(file: pq.ParquetFile, names: Names, types: Types) -> Iterator[pa.RecordBatch]:
    schema = file.schema_arrow
    refuse_many_columns(len(schema.names))
    repeated = [key for key in schema.names if schema.names.count(key) > 1]
    if repeated:
        raise MalformedFile(f"column {shorten_middle(repr(repeated[0]))} is duplicated")
    names.add(schema.names)
    kinds = {
        field.name: types.get(names.columns[field.name]) or _nearest_type(field) for field in schema
    }
    first_row = 1
    for batch in chain.from_iterable(map(_split_batch, file.iter_batches(BATCH_ROWS))):
        columns = {
            names.columns[key]: _cast(batch.column(key), kind, key, first_row)
            for key, kind in kinds.items()
            if not pa.types.is_null(kind)
        }
        first_row += len(batch)
        yield pa.RecordBatch.from_pydict(columns)


def _has_long_values(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _split_batch(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch so that each slice fits into memory once its dictionaries are decoded.

    A long text that many rows share takes a megabyte in the file, and many gigabytes as rows.
    """
    sizes = np.zeros(len(batch), np.int64)
    for values in batch.columns:
        if pa.types.is_dictionary(values.type) and _has_long_values(values.type.value_type):
            lengths = pc.binary_length(values.dictionary).take(values.indices)
            sizes += pc.fill_null(lengths, 0).to_numpy(zero_copy_only=False)
    ends, start = sizes.cumsum(), 0
    while start < len(batch):
        before = ends[start] - sizes[start]
        end = max(start + 1, int(np.searchsorted(ends, before + _MAX_TEXT_BYTES, "right")))
        yield batch.slice(start, end - start)
        start = end


def _nearest_type(field: pa.Field) -> pa.DataType:
    """Return the type for a column that the table does not have yet."""
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
    if _is_text(kind):
        return TEXT
    if _is_bytes(kind):
        return BINARY
    raise MalformedFile(f"column {field.name!r} is of type {kind}, for which there is no column")


def _cast(values: pa.Array, kind: pa.DataType, key: str, first_row: int) -> pa.Array:
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_nested(values.type) and kind == TEXT:
        return _as_json(values, key, first_row)
    # Warehouses keep microseconds; nanoseconds are truncated.
    values = values.cast(_to_microseconds(values.type), safe=False)
    if values.type != kind:
        values = _convert_or_refuse(values, kind, key, first_row)
    if kind == TEXT:
        _refuse_bad_text(values, key, first_row)
    return values


def _to_microseconds(kind: pa.DataType) -> pa.DataType:
    """Return the type with times in microseconds, also within lists and objects."""
    is_ = pa.types
    if is_.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if kind == pa.time64("ns"):
        return TIME
    if is_.is_map(kind):
        return pa.map_(_to_microseconds(kind.key_type), _to_microseconds(kind.item_type))
    if is_.is_struct(kind):
        return pa.struct([field.with_type(_to_microseconds(field.type)) for field in kind])
    for is_it, make in (
        (is_.is_list, pa.list_),
        (is_.is_large_list, pa.large_list),
        (is_.is_fixed_size_list, lambda field: pa.list_(field, kind.list_size)),
    ):
        if is_it(kind):
            field = kind.value_field
            return make(field.with_type(_to_microseconds(field.type)))
    return kind


def _as_json(values: pa.Array, key: str, first_row: int) -> pa.Array:
    """Convert lists and objects to JSON text that warehouses accept."""
    values = values.cast(_to_microseconds(values.type), safe=False)
    texts = []
    for row, value in enumerate(values, first_row):
        try:
            plain = _to_json_value(value.as_py())
        except (ValueError, OverflowError) as error:
            raise MalformedFile(f"column {key!r}: {error}", row) from error
        texts.append(None if plain is None else json.dumps(plain, ensure_ascii=False))
    return pa.array(texts, TEXT)


def _to_json_value(value: Any) -> Any:
    """Convert a value to types that JSON has.

    Raises:
        ValueError: JSON or Postgres has no such value.
    """
    if isinstance(value, str) and "\0" in value:
        raise ValueError("it holds a zero byte")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {_to_json_value(key): _to_json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_value(item) for item in value]
    if isinstance(value, (Decimal, dt.date, dt.time)):
        return str(value)
    if isinstance(value, dt.timedelta):
        raise ValueError("JSON has no value for a duration")  # noqa: TRY004 (a fault of the file)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _refuse_bad_text(values: pa.Array, key: str, first_row: int) -> None:
    if not is_valid(values):
        row = find_first_bad(values, is_valid)
        raise MalformedFile(f"column {key!r}: the text is not UTF-8", first_row + row)
    if pc.any(pc.match_substring(values, "\0")).as_py():
        row = pc.index(pc.fill_null(pc.match_substring(values, "\0"), False), True).as_py()
        raise MalformedFile(f"column {key!r}: it holds a zero byte", first_row + row)


def _convert_or_refuse(values: pa.Array, kind: pa.DataType, key: str, first_row: int) -> pa.Array:
    try:
        return _convert(values, kind)
    except pa.ArrowNotImplementedError as error:
        raise MalformedFile(
            f"column {key!r} is {format_type(values.type)}, and the table's {format_type(kind)}"
        ) from error
    except pa.ArrowInvalid as error:

        def fit(some: pa.Array) -> bool:
            try:
                _convert(some, kind)
            except pa.ArrowInvalid:
                return False
            return True

        row = find_first_bad(values, fit)
        value = shorten_middle(repr(values[row].as_py()))
        raise MalformedFile(
            f"column {key!r}: {value} is not a {format_type(kind)}", first_row + row
        ) from error


def _convert(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert values to another type without changing them.

    Raises:
        ArrowNotImplementedError: the types are incompatible.
        ArrowInvalid: a value does not fit, or would be rounded.
    """
    source_type = values.type
    if kind == TEXT:
        return values.cast(TEXT)
    if _is_text(source_type):
        if (parsed := parse(values.cast(TEXT), kind)) is None:
            raise pa.ArrowInvalid("another text when it is formatted")
        return parsed
    if not _is_convertible(source_type, kind):
        raise pa.ArrowNotImplementedError("of another family")
    if pa.types.is_decimal(kind) and not pa.types.is_decimal(source_type):
        # pyarrow would round doubles, and does not cast integers to a small decimal.
        texts = values.cast(TEXT).to_pylist()
        return pa.array([None if text is None else Decimal(text) for text in texts], kind)
    converted = values.cast(kind)
    if pa.types.is_decimal(source_type) and kind == DOUBLE:
        if not all(value is None or is_exact(str(value)) for value in values.to_pylist()):
            raise pa.ArrowInvalid("more digits than a double keeps")
    elif (
        _is_naive_timestamp(source_type)
        and kind == DATE
        and not converted.cast(source_type).equals(values)
    ):
        raise pa.ArrowInvalid("it has a time of day")
    return converted


def _is_convertible(source_type: pa.DataType, kind: pa.DataType) -> bool:
    """Return whether a type's values may exist in another type, other than text."""
    is_ = pa.types
    if is_.is_date(source_type) or _is_naive_timestamp(source_type):
        return kind in (DATE, DATETIME)
    if is_.is_timestamp(source_type):
        return bool(kind == TIMESTAMP)
    return any(
        is_it(source_type) and (is_it(kind) or is_.is_null(source_type))
        for is_it in (_is_number, _is_bytes, is_.is_boolean, is_.is_time, is_.is_null)
    )


def _is_number(kind: pa.DataType) -> bool:
    is_ = pa.types
    return bool(is_.is_integer(kind) or is_.is_floating(kind) or is_.is_decimal(kind))


def _is_naive_timestamp(kind: pa.DataType) -> bool:
    """Return whether the type is a timestamp without a time zone."""
    return bool(pa.types.is_timestamp(kind) and kind.tz is None)


def _is_text(kind: pa.DataType) -> bool:
    is_ = pa.types
    return bool(is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    is_ = pa.types
    return bool(is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind))
