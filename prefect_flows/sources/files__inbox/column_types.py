"""Column types: type names, type inference from values, and parsing of text into types.

A table's types are those in dlt's schema, so a file that disagrees is refused rather than loaded
into a second column. A type is inferred once, from all rows of the first file that has a value.

A text counts as a number only if formatting the number returns the text, except for trailing zeros
of a fraction. `+4915112345678`, `0x00ff`, `007`, `1E5` and `NaN` stay text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prefect_flows.core.errors import ConfigurationError

Types = dict[str, pa.DataType]

TEXT, BIGINT, DOUBLE, BOOL, BINARY = (
    pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary(),
)  # fmt: skip
DATE, TIME = pa.date32(), pa.time64("us")
DATETIME, TIMESTAMP = pa.timestamp("us"), pa.timestamp("us", tz="UTC")
# Integers that do not fit into 64 bits.
LARGE_INTEGER = pa.decimal128(38, 0)

TYPE_BY_NAME = {
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

# The first type that holds every value becomes the column's type.
_CANDIDATES = (BIGINT, LARGE_INTEGER, DOUBLE, BOOL, DATE, DATETIME, TIMESTAMP, TEXT)
# For JSON, which distinguishes numbers from text itself.
_TIME_CANDIDATES = (DATE, DATETIME, TIMESTAMP, TEXT)

# Accepted formats of numbers and booleans. pyarrow casts more than these: `+1`, `01`, `1E5`.
_FRACTION = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$"
_FRACTION_OR_SCIENTIFIC = rf"{_FRACTION}|^-?[1-9](?:\.[0-9]+)?e[+-][0-9]+$"
_BOOLEAN = r"(?i)^(?:true|false)$"
# A double keeps every number of this many digits, and some numbers of two more.
_EXACT_DIGITS = 15


def parse_declared_types(types: Mapping[str, Mapping[str, str]] | None) -> dict[str, Types]:
    """Parse the types that a user declared, by table and column.

    Raises:
        ConfigurationError: a type name does not exist.
    """
    return {
        table: {
            column: _parse_type_name(name, f"{table}.{column}") for column, name in columns.items()
        }
        for table, columns in (types or {}).items()
    }


def _parse_type_name(name: str, where: str) -> pa.DataType:
    if name in TYPE_BY_NAME:
        return TYPE_BY_NAME[name]
    match = _DECIMAL.fullmatch(name)
    if match and 0 < int(match[1]) <= 38 and int(match[2]) <= int(match[1]):
        return pa.decimal128(int(match[1]), int(match[2]))
    raise ConfigurationError(
        f"There is no type {name!r} for a column.",
        where=f"parameter types, {where}",
        fix=f"name one of: {', '.join(TYPE_BY_NAME)}, decimal(18,2)",
    )


def format_type(kind: pa.DataType) -> str:
    """Return the name of a type, as in messages and in the parameter `types`."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return next((name for name, known in TYPE_BY_NAME.items() if known == kind), str(kind))


def types_from_dlt(columns: Mapping[str, Mapping[str, Any]]) -> Types:
    """Return the column types of a dlt table schema, without dlt's own columns."""
    return {
        name: _from_dlt(column)
        for name, column in columns.items()
        if "data_type" in column and not name.startswith("_dlt_")
    }


def _from_dlt(column: Mapping[str, Any]) -> pa.DataType:
    kind = column["data_type"]
    if kind == "decimal":
        return pa.decimal128(column.get("precision") or 38, column.get("scale") or 0)
    if kind == "timestamp":
        return TIMESTAMP if column.get("timezone", True) else DATETIME
    return TYPE_BY_NAME[kind]


class TypeInference:
    """Infers the type of a new column from all its values; text if no other type holds them.

    Args:
        only_times: the values are JSON strings, which may be dates and times but not numbers.
    """

    def __init__(self, *, only_times: bool = False) -> None:
        self._possible = _TIME_CANDIDATES if only_times else _CANDIDATES
        self._has_value = False

    @property
    def get_type(self) -> pa.DataType | None:
        """The inferred type; None if every value was null."""
        return self._possible[0] if self._has_value else None

    def update(self, values: pa.Array) -> None:
        """Narrow the type by more values, given as text."""
        if values.null_count == len(values):
            return
        self._has_value = True
        self._possible = tuple(
            kind for kind in self._possible if kind == TEXT or parse(values, kind) is not None
        )

    def cast(self, values: pa.Array) -> pa.Array | None:
        """Convert text values to the inferred type; None if they do not fit it."""
        if values.null_count == len(values):
            return pa.nulls(len(values), self.get_type)
        return None if self.get_type is None else parse(values, self.get_type)


def parse(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Convert text values to a type; None if formatting one of them would return another text."""
    if kind == TEXT:
        return values
    if pa.types.is_null(kind):
        return pa.nulls(len(values)) if values.null_count == len(values) else None
    try:
        parsed = values.cast(kind)
    except pa.ArrowInvalid:
        return None
    return parsed if _round_trip(values, parsed) else None


def _round_trip(values: pa.Array, parsed: pa.Array) -> bool:
    """Return whether the numbers format back to their texts; other types always do."""
    kind = parsed.type
    if kind == BIGINT or (pa.types.is_decimal(kind) and kind.scale == 0):
        return bool(parsed.cast(TEXT).equals(values))
    if pa.types.is_decimal(kind):
        return _all_match(values, _decimal_pattern(kind))
    if kind == DOUBLE:
        return _all_match(values, _FRACTION_OR_SCIENTIFIC) and _are_exact(values, parsed)
    return kind != BOOL or _all_match(values, _BOOLEAN)


def _decimal_pattern(kind: pa.DataType) -> str:
    """Return a pattern of decimals that fit the type; pyarrow casts longer ones to wrong values."""
    whole = kind.precision - kind.scale
    first = rf"(?:0|[1-9][0-9]{{0,{whole - 1}}})" if whole else "0"
    return rf"^-?{first}(?:\.[0-9]{{1,{38 - whole}}})?$"


def _all_match(values: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(values, pattern)).as_py() is not False


def _are_exact(values: pa.Array, doubles: pa.Array) -> bool:
    """Return whether doubles keep all digits of the numbers; only long ones may not."""
    is_long = pc.greater(pc.binary_length(values), _EXACT_DIGITS)
    is_scientific = pc.match_substring(values, "e")
    doubtful = pc.or_(is_long, is_scientific)
    if not pc.any(doubtful).as_py():
        return True
    values, doubles = values.filter(doubtful), doubles.filter(doubtful)
    # Skips numbers that are formatted like pyarrow and most programs do.
    others = values.filter(pc.not_equal(values, doubles.cast(TEXT)))
    return all(
        _float_round_trips(text) if "e" in text else is_exact(text) for text in others.to_pylist()
    )


def is_valid(values: pa.Array | pa.ChunkedArray) -> bool:
    """Return whether decimals fit their precision and text is UTF-8; pyarrow reads others too."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def is_exact(number: str) -> bool:
    """Return whether a double keeps all digits of a number."""
    digits = re.sub(r"[eE].*|[-.]", "", number).strip("0")
    if len(digits) > _EXACT_DIGITS + 2:
        return False
    return Decimal(f"{float(number):.{len(digits)}g}") == Decimal(number)


def _float_round_trips(number: str) -> bool:
    """Return whether a number with an exponent has the shortest or the full form of its double."""

    def bare(text: str) -> str:
        return re.sub(r"(?<=e[+-])0+", "", text)

    return bare(number) in {bare(repr(float(number))), bare(f"{float(number):.17g}")}
