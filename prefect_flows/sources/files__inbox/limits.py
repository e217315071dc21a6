"""Checks the limits of warehouses (years, row width) before a load, which would fail as a whole."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefect_flows.sources.files__inbox.file_errors import MalformedFile

# Postgres keeps a row within a page of 8 kB, except for texts of more than this many bytes.
_MAX_ROW_BYTES, _INLINE_BYTES = 8_160, 24
# With fewer columns no row is too wide, whatever its values.
_MAX_SAFE_COLUMNS = 300
# Row header and the columns that the load adds.
_OVERHEAD_BYTES = 24 + 80
_MIN_TIME, _MAX_TIME = dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)  # noqa: DTZ001


def refuse_far_times(name: str, values: pa.Array, first_row: int) -> None:
    """Refuse dates and timestamps outside of the years 1 to 9999, the range of all warehouses.

    Raises:
        MalformedFile: there is one.
    """
    if not (pa.types.is_date(values.type) or pa.types.is_timestamp(values.type)):
        return
    whole = pa.int32() if pa.types.is_date(values.type) else pa.int64()
    first, last = (pa.scalar(each).cast(values.type).cast(whole) for each in (_MIN_TIME, _MAX_TIME))
    numbers = values.cast(whole)
    far = pc.or_(pc.less(numbers, first), pc.greater(numbers, last))
    if pc.any(far).as_py():
        row = first_row + pc.index(pc.fill_null(far, False), True).as_py()
        raise MalformedFile(f"column {name!r}: row {row:,} has a year that is not from 1 to 9999")


def refuse_wide_rows(columns: Sequence[pa.Array], first_row: int) -> None:
    """Refuse rows that do not fit into a Postgres page.

    Raises:
        MalformedFile: there is one.
    """
    if len(columns) <= _MAX_SAFE_COLUMNS:
        return
    widths = np.full(len(columns[0]), _OVERHEAD_BYTES + len(columns) // 8, np.int64)
    fixed = 0
    for values in columns:
        if pa.types.is_string(values.type) or pa.types.is_binary(values.type):
            lengths = pc.fill_null(pc.binary_length(values), -1).to_numpy(zero_copy_only=False)
            widths += np.minimum(lengths + 1, _INLINE_BYTES)
        else:
            size = _INLINE_BYTES if pa.types.is_decimal(values.type) else 8
            widths += size * pc.is_valid(values).to_numpy(zero_copy_only=False)
            fixed += 1
    # Numbers are aligned to 8 bytes: a text before one may need padding.
    widths += 7 * min(fixed, len(columns) - fixed)
    if (widest := int(widths.argmax())) >= 0 and widths[widest] > _MAX_ROW_BYTES:
        raise MalformedFile(
            f"row {first_row + widest:,} may need {widths[widest]:,} bytes, and Postgres keeps "
            f"{_MAX_ROW_BYTES:,} of a row; split its columns over several files"
        )
