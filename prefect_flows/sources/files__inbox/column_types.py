"""Types of columns: their names, how a table's are known, and how a new column's is found.

A table's types are those that dlt keeps of it, so a file that disagrees is refused rather than
put into a second column. A type is found once, from all rows of the first file that has a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prefect_flows.errors import ConfigurationError

Types = dict[str, pa.DataType]

TEXT, BIGINT, DOUBLE, BOOL, BINARY = (
    pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary(),
)  # fmt: skip
DATE, TIME = pa.date32(), pa.time64("us")
DATETIME, TIMESTAMP = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
# Whole numbers that are too large for 64 bits.
LARGE_INTEGER = pa.decimal128(38, 0)

NAMES = {
    "text": TEXT,
    "bigint": BIGINT,
    "double": DOUBLE,
    "bool": BOOL,
    "date": DATE,
    "time": TIME,
    "datetime": DATETIME,
    "timestamp": TIMESTAMP,
    "binary": BINARY,
}
_DECIMAL = re.compile(r"decimal\((\d{1,2}), *(\d{1,2})\)")

# The first that holds every value is a column's type; more values may make it a wider one. A
# whole number of many digits is never made a double, which would round it.
_LADDER = (BIGINT, LARGE_INTEGER, DOUBLE, BOOL, DATE, DATETIME, TIMESTAMP, TEXT)
# JSON tells numbers from text by itself.
_TIMES = (DATE, DATETIME, TIMESTAMP, TEXT)
_WIDER = {
    BIGINT: (LARGE_INTEGER, DOUBLE, TEXT),
    LARGE_INTEGER: (TEXT,),
    DOUBLE: (TEXT,),
    BOOL: (TEXT,),
    DATE: (DATETIME, TEXT),
    DATETIME: (TEXT,),
    TIMESTAMP: (TEXT,),
}
# A postal code, an account: as a number it would lose its zeros.
_LEADING_ZERO = r"^[+-]?0[0-9]"
_ZERO, _PLUS, _MINUS = b"0+-"


def declared(types: Mapping[str, Mapping[str, str]] | None) -> dict[str, Types]:
    """The types that a person declared, by table and column.

    Raises:
        ConfigurationError: a type has no such name.
    """
    return {
        table: {column: _of_name(name, f"{table}.{column}") for column, name in columns.items()}
        for table, columns in (types or {}).items()
    }


def _of_name(name: str, where: str) -> pa.DataType:
    if name in NAMES:
        return NAMES[name]
    match = _DECIMAL.fullmatch(name)
    if match and 0 < int(match[1]) <= 38 and int(match[2]) <= int(match[1]):
        return pa.decimal128(int(match[1]), int(match[2]))
    raise ConfigurationError(
        f"There is no type {name!r} for a column.",
        where=f"parameter types, {where}",
        mend=f"name one of: {', '.join(NAMES)}, decimal(18,2)",
    )


def name_of(kind: pa.DataType) -> str:
    """How a type is called, in messages as in the parameter `types`."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return next((name for name, known in NAMES.items() if known == kind), str(kind))


def of_table(columns: Mapping[str, Mapping[str, Any]]) -> Types:
    """The types of a table that dlt knows, by column; those that dlt adds itself left out."""
    return {
        name: _of_dlt(column)
        for name, column in columns.items()
        if "data_type" in column and not name.startswith("_dlt_")
    }


def _of_dlt(column: Mapping[str, Any]) -> pa.DataType:
    kind = column["data_type"]
    if kind == "decimal":
        return pa.decimal128(column.get("precision") or 38, column.get("scale") or 0)
    if kind == "timestamp":
        return TIMESTAMP if column.get("timezone", True) else DATETIME
    return NAMES[kind]


class Guess:
    """The type of a new column, narrowed by all its values; text where nothing else holds them.

    Args:
        only_times: the values are text already, which may be that of dates and times.
    """

    def __init__(self, *, only_times: bool = False) -> None:
        self._kind: pa.DataType | None = None
        self._ladder = _TIMES if only_times else _LADDER

    @property
    def kind(self) -> pa.DataType | None:
        """The type; none where every value was null."""
        return self._kind

    def see(self, values: pa.Array) -> None:
        """Take account of more values, given as text."""
        if self._kind == TEXT or values.null_count == len(values):
            return
        if _has_leading_zero(values):
            self._kind = TEXT
        elif self._kind is None:
            self._kind = next(kind for kind in self._ladder if _holds(kind, values))
        elif not _holds(self._kind, values):
            self._kind = next(kind for kind in _WIDER[self._kind] if _holds(kind, values))

    def typed(self, values: pa.Array) -> pa.Array | None:
        """Values, given as text, in the type as it is now; none where they make it another one."""
        if self._kind == TEXT:
            return values
        if values.null_count == len(values):
            return pa.nulls(len(values), self._kind)
        if self._kind is None or _has_leading_zero(values):
            return None
        return _cast(self._kind, values)


def _has_leading_zero(values: pa.Array) -> bool:
    """Whether one has; the pattern is asked of those alone that begin like it."""
    _, offsets, text = values.buffers()
    if text is None or not text.size:
        return False
    starts = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values)]
    characters = np.frombuffer(text, np.uint8)
    # What is empty or null is taken to begin with what comes next, which asks too much, not too
    # little.
    first = characters[np.minimum(starts, len(characters) - 1)]
    begins = (first == _ZERO) | (first == _PLUS) | (first == _MINUS)
    if not begins.any():
        return False
    some = values.filter(pa.array(begins))
    return bool(pc.any(pc.match_substring_regex(some, _LEADING_ZERO)).as_py())


def _holds(kind: pa.DataType, values: pa.Array) -> bool:
    return _cast(kind, values) is not None


def _cast(kind: pa.DataType, values: pa.Array) -> pa.Array | None:
    """The values in a type; none where one of them is none of it."""
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        return None
