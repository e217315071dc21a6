"""Encodes Parquet rows in the binary format of Postgres COPY, one chunk in memory at a time.

The column types of the table decide how each value is encoded. `unsupported_columns` names what has
no encoding here, before any row is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pgpq import ArrowToPostgresBinaryEncoder, encoders, schema

# Size of a batch: rows read from Parquet at a time, and at most these bytes of them encoded.
BATCH_ROWS = 10_000
BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class _PostgresType:
    """Arrow types that a Postgres type accepts, and how to encode them.

    Attributes:
        accepts: whether the type holds all values of an Arrow type without loss.
        encode_as: Arrow type to encode the values as; None to encode them as they are.
        null_type: Arrow type for a column that holds nulls only.
    """

    accepts: Callable[[pa.DataType], bool]
    encode_as: pa.DataType | None
    null_type: pa.DataType


def _same_type(accepts: Callable[[pa.DataType], bool], encode_as: pa.DataType) -> _PostgresType:
    return _PostgresType(accepts, encode_as, encode_as)


def _integer_type(encode_as: pa.DataType) -> _PostgresType:
    """Return a signed integer type, which accepts integers that are not wider."""

    def accepts(given: pa.DataType) -> bool:
        if pa.types.is_unsigned_integer(given):
            return bool(given.bit_width < encode_as.bit_width)
        return bool(pa.types.is_signed_integer(given) and given.bit_width <= encode_as.bit_width)

    return _same_type(accepts, encode_as)


def _float_type(encode_as: pa.DataType) -> _PostgresType:
    def accepts(given: pa.DataType) -> bool:
        return bool(pa.types.is_floating(given) and given.bit_width <= encode_as.bit_width)

    return _same_type(accepts, encode_as)


def _is_text(given: pa.DataType) -> bool:
    return bool(pa.types.is_string(given) or pa.types.is_large_string(given))


def _is_binary(given: pa.DataType) -> bool:
    is_fixed = pa.types.is_fixed_size_binary(given)
    return bool(pa.types.is_binary(given) or pa.types.is_large_binary(given) or is_fixed)


# Type OIDs of pg_type, which are the same in every Postgres.
JSONB = 3802
_TEXT = _same_type(_is_text, pa.string())
# A timestamp has the same bytes with and without a time zone.
_TIMESTAMP = _same_type(pa.types.is_timestamp, pa.timestamp("us"))
POSTGRES_TYPES: Mapping[int, _PostgresType] = {
    16: _same_type(pa.types.is_boolean, pa.bool_()),
    17: _same_type(_is_binary, pa.binary()),
    20: _integer_type(pa.int64()),
    21: _integer_type(pa.int16()),
    23: _integer_type(pa.int32()),
    25: _TEXT,
    114: _TEXT,  # json
    700: _float_type(pa.float32()),
    701: _float_type(pa.float64()),
    1043: _TEXT,  # varchar
    1082: _same_type(pa.types.is_date32, pa.date32()),
    1083: _same_type(pa.types.is_time, pa.time64("us")),
    1114: _TIMESTAMP,
    1184: _TIMESTAMP,
    1700: _PostgresType(pa.types.is_decimal128, None, pa.decimal128(38, 0)),
    JSONB: _TEXT,
}


def unsupported_columns(given: pa.Schema, types: Mapping[str, int]) -> list[str]:
    """List the columns that cannot be encoded here, one line each with the reason.

    Args:
        given: schema of the Parquet file.
        types: type OID of each column of the table.
    """
    reasons = []
    for field in given:
        oid = types.get(field.name)
        if oid is None:
            reasons.append(f"{field.name}: the table has no such column")
        elif oid not in POSTGRES_TYPES:
            reasons.append(f"{field.name}: type {oid} of Postgres")
        elif not (
            pa.types.is_null(field.type) or POSTGRES_TYPES[oid].accepts(_value_type(field.type))
        ):
            reasons.append(f"{field.name}: {field.type} into type {oid} of Postgres")
    return reasons


def encode_rows(file: pq.ParquetFile, types: Mapping[str, int]) -> Iterator[bytes]:
    """Yield a file's rows in COPY's binary format, with header and trailer, in non-empty chunks.

    Args:
        file: a file without `unsupported_columns`.
        types: type OID of each column of the table.

    Raises:
        pyarrow.ArrowInvalid: a time is finer than a microsecond, which Postgres cannot keep.
    """
    encoded_schema = pa.schema(
        [(field.name, _encoded_type(field.type, types[field.name])) for field in file.schema_arrow]
    )
    encoder = ArrowToPostgresBinaryEncoder.new_with_encoders(
        encoded_schema, {field.name: _encoder(field, types[field.name]) for field in encoded_schema}
    )
    yield encoder.write_header()
    for batch in file.iter_batches(BATCH_ROWS):
        for part in _split_batch(batch):
            # The encoder buffers up to a megabyte, and returns nothing until then.
            if piece := encoder.write_batch(_cast_batch(part, encoded_schema)):
                yield piece
    yield encoder.finish()


def _value_type(given: pa.DataType) -> pa.DataType:
    """Return the type of the values; dlt writes its load id as a dictionary of one value."""
    return given.value_type if pa.types.is_dictionary(given) else given


def _encoded_type(given: pa.DataType, oid: int) -> pa.DataType:
    if pa.types.is_null(given):
        return POSTGRES_TYPES[oid].null_type
    return POSTGRES_TYPES[oid].encode_as or _value_type(given)


def _encoder(field: pa.Field, oid: int) -> Any:
    if oid == JSONB:
        return encoders.StringEncoderBuilder.new_with_output(field, schema.Jsonb())
    return ArrowToPostgresBinaryEncoder.infer_encoder(field)


def _cast_batch(batch: pa.RecordBatch, encoded_schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        values if values.type == field.type else values.cast(field.type)
        for values, field in zip(batch.columns, encoded_schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=encoded_schema)


def _split_batch(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch into slices of at most about `BATCH_BYTES` bytes."""
    rows = max(1, len(batch) * BATCH_BYTES // max(batch.nbytes, BATCH_BYTES))
    for start in range(0, len(batch), rows):
        yield batch.slice(start, rows)
