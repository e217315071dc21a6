"""Rows of a Parquet file in the binary form of Postgres' COPY, a piece in memory at a time.

The columns of the table say what each value becomes. What has no such form here is named by
`unsupported_columns`, before a row is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pgpq import ArrowToPostgresBinaryEncoder, encoders, schema

# Rows that are read at once, and bytes of them that are encoded at once.
ROWS_AT_ONCE = 10_000
BYTES_AT_ONCE = 8 << 20


@dataclass(frozen=True)
class _Kind:
    """What a type of Postgres takes.

    Attributes:
        takes: whether values of an Arrow type keep all that they say.
        sent_as: Arrow's type whose encoding is that of the type; that of the values when none.
        of_nulls: Arrow's type of a column that has no type, since it has no value.
    """

    takes: Callable[[pa.DataType], bool]
    sent_as: pa.DataType | None
    of_nulls: pa.DataType


def _kind(takes: Callable[[pa.DataType], bool], sent_as: pa.DataType) -> _Kind:
    return _Kind(takes, sent_as, sent_as)


def _whole(sent_as: pa.DataType) -> _Kind:
    """A signed integer, which takes what is not wider."""

    def takes(given: pa.DataType) -> bool:
        if pa.types.is_unsigned_integer(given):
            return bool(given.bit_width < sent_as.bit_width)
        return bool(pa.types.is_signed_integer(given) and given.bit_width <= sent_as.bit_width)

    return _kind(takes, sent_as)


def _floating(sent_as: pa.DataType) -> _Kind:
    def takes(given: pa.DataType) -> bool:
        return bool(pa.types.is_floating(given) and given.bit_width <= sent_as.bit_width)

    return _kind(takes, sent_as)


def _is_text(given: pa.DataType) -> bool:
    return bool(pa.types.is_string(given) or pa.types.is_large_string(given))


def _is_binary(given: pa.DataType) -> bool:
    is_fixed = pa.types.is_fixed_size_binary(given)
    return bool(pa.types.is_binary(given) or pa.types.is_large_binary(given) or is_fixed)


# The number of a type in pg_type, where it is the same in every Postgres.
JSONB = 3802
_TEXT = _kind(_is_text, pa.string())
# A moment has the same bytes with a time zone and without.
_MOMENT = _kind(pa.types.is_timestamp, pa.timestamp("us"))
KINDS: Mapping[int, _Kind] = {
    16: _kind(pa.types.is_boolean, pa.bool_()),
    17: _kind(_is_binary, pa.binary()),
    20: _whole(pa.int64()),
    21: _whole(pa.int16()),
    23: _whole(pa.int32()),
    25: _TEXT,
    114: _TEXT,  # json
    700: _floating(pa.float32()),
    701: _floating(pa.float64()),
    1043: _TEXT,  # varchar
    1082: _kind(pa.types.is_date32, pa.date32()),
    1083: _kind(pa.types.is_time, pa.time64("us")),
    1114: _MOMENT,
    1184: _MOMENT,
    1700: _Kind(pa.types.is_decimal128, None, pa.decimal128(38, 0)),
    JSONB: _TEXT,
}


def unsupported_columns(given: pa.Schema, types: Mapping[str, int]) -> list[str]:
    """The columns that have no encoding here, a line each with the reason.

    Args:
        given: of the Parquet file.
        types: number of the type of each column of the table.
    """
    reasons = []
    for field in given:
        oid = types.get(field.name)
        if oid is None:
            reasons.append(f"{field.name}: the table has no such column")
        elif oid not in KINDS:
            reasons.append(f"{field.name}: type {oid} of Postgres")
        elif not (pa.types.is_null(field.type) or KINDS[oid].takes(_plain(field.type))):
            reasons.append(f"{field.name}: {field.type} into type {oid} of Postgres")
    return reasons


def encoded(file: pq.ParquetFile, types: Mapping[str, int]) -> Iterator[bytes]:
    """The rows of a file as COPY takes them, its header and trailer included; no piece is empty.

    Args:
        file: none of whose columns is `unsupported_columns`.
        types: number of the type of each column of the table.

    Raises:
        pyarrow.ArrowInvalid: a time says what is below a microsecond, which Postgres cannot keep.
    """
    sent = pa.schema(
        [(field.name, _sent_as(field.type, types[field.name])) for field in file.schema_arrow]
    )
    encoder = ArrowToPostgresBinaryEncoder.new_with_encoders(
        sent, {field.name: _encoder(field, types[field.name]) for field in sent}
    )
    yield encoder.write_header()
    for batch in file.iter_batches(ROWS_AT_ONCE):
        for part in _parts(batch):
            # Nothing, until there is a megabyte.
            if piece := encoder.write_batch(_as_sent(part, sent)):
                yield piece
    yield encoder.finish()


def _plain(given: pa.DataType) -> pa.DataType:
    """The type of the values; dlt writes its load's id as a dictionary of one value."""
    return given.value_type if pa.types.is_dictionary(given) else given


def _sent_as(given: pa.DataType, oid: int) -> pa.DataType:
    if pa.types.is_null(given):
        return KINDS[oid].of_nulls
    return KINDS[oid].sent_as or _plain(given)


def _encoder(field: pa.Field, oid: int) -> Any:
    if oid == JSONB:
        return encoders.StringEncoderBuilder.new_with_output(field, schema.Jsonb())
    return ArrowToPostgresBinaryEncoder.infer_encoder(field)


def _as_sent(batch: pa.RecordBatch, sent: pa.Schema) -> pa.RecordBatch:
    columns = [
        values if values.type == field.type else values.cast(field.type)
        for values, field in zip(batch.columns, sent, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=sent)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows of a batch, fewer at a time where they are long."""
    rows = max(1, len(batch) * BYTES_AT_ONCE // max(batch.nbytes, BYTES_AT_ONCE))
    for start in range(0, len(batch), rows):
        yield batch.slice(start, rows)
