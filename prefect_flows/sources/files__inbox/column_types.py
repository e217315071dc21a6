"""Types of columns: their names, how a table's are known, and how a new column's is found.

A table's types are those that dlt keeps of it, so a file that disagrees is refused rather than
put into a second column. A type is found once, from all rows of the first file that has a value.

A text is a number only if the number, formatted, gives the text back, zeros at the end of a
fraction aside. `+4915112345678`, `0x00ff`, `007`, `1E5` and `NaN` stay text.
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

# The first that holds every value is a column's type.
_LADDER = (BIGINT, LARGE_INTEGER, DOUBLE, BOOL, DATE, DATETIME, TIMESTAMP, TEXT)
# JSON tells numbers from text by itself.
_TIMES = (DATE, DATETIME, TIMESTAMP, TEXT)

# How numbers and truth values are formatted. pyarrow casts more than that: `+1`, `01`, `1E5`.
_FRACTION = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$"
_FRACTION_OR_SCIENTIFIC = rf"{_FRACTION}|^-?[1-9](?:\.[0-9]+)?e[+-][0-9]+$"
_TRUTH = r"(?i)^(?:true|false)$"
# A double keeps every number of so many digits, and some of two more.
_DIGITS = 15


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
        fix=f"name one of: {', '.join(NAMES)}, decimal(18,2)",
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


class TypeInference:
    """The type of a new column, narrowed by all its values; text where nothing else holds them.

    Args:
        only_times: the values are text already, which may be that of dates and times.
    """

    def __init__(self, *, only_times: bool = False) -> None:
        self._possible = _TIMES if only_times else _LADDER
        self._has_value = False

    @property
    def kind(self) -> pa.DataType | None:
        """The type; none where every value was null."""
        return self._possible[0] if self._has_value else None

    def see(self, values: pa.Array) -> None:
        """Take account of more values, given as text."""
        if values.null_count == len(values):
            return
        self._has_value = True
        self._possible = tuple(
            kind for kind in self._possible if kind == TEXT or parse(values, kind) is not None
        )

    def typed(self, values: pa.Array) -> pa.Array | None:
        """Values, given as text, in the type as it is now; none where they make it another one."""
        if values.null_count == len(values):
            return pa.nulls(len(values), self.kind)
        return None if self.kind is None else parse(values, self.kind)


def parse(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """Values, given as text, in a type; none where one of them, formatted, is another text."""
    if kind == TEXT:
        return values
    if pa.types.is_null(kind):
        return pa.nulls(len(values)) if values.null_count == len(values) else None
    try:
        parsed = values.cast(kind)
    except pa.ArrowInvalid:
        return None
    return parsed if _are_formatted(values, parsed) else None


def _are_formatted(values: pa.Array, parsed: pa.Array) -> bool:
    """Whether texts are what their numbers are formatted as; all others are, as they were cast."""
    kind = parsed.type
    if kind == BIGINT or (pa.types.is_decimal(kind) and kind.scale == 0):
        return bool(parsed.cast(TEXT).equals(values))
    if pa.types.is_decimal(kind):
        return _all_match(values, _decimal_pattern(kind))
    if kind == DOUBLE:
        return _all_match(values, _FRACTION_OR_SCIENTIFIC) and _are_exact(values, parsed)
    return kind != BOOL or _all_match(values, _TRUTH)


def _decimal_pattern(kind: pa.DataType) -> str:
    """How decimals are formatted that fit; pyarrow casts longer ones to anything."""
    whole = kind.precision - kind.scale
    first = rf"(?:0|[1-9][0-9]{{0,{whole - 1}}})" if whole else "0"
    return rf"^-?{first}(?:\.[0-9]{{1,{38 - whole}}})?$"


def _all_match(values: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(values, pattern)).as_py() is not False


def _are_exact(values: pa.Array, doubles: pa.Array) -> bool:
    """Whether numbers are the same as doubles; only the long ones may not be."""
    is_long = pc.greater(pc.binary_length(values), _DIGITS)
    is_scientific = pc.match_substring(values, "e")
    doubtful = pc.or_(is_long, is_scientific)
    if not pc.any(doubtful).as_py():
        return True
    values, doubles = values.filter(doubtful), doubles.filter(doubtful)
    # As most programs write them, and so does pyarrow.
    others = values.filter(pc.not_equal(values, doubles.cast(TEXT)))
    return all(
        _is_formatted(text) if "e" in text else is_exact(text) for text in others.to_pylist()
    )


def is_valid(values: pa.Array | pa.ChunkedArray) -> bool:
    """Whether decimals fit their precision and text is UTF-8; pyarrow reads others all the same."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def is_exact(number: str) -> bool:
    """Whether a double has all digits of a number."""
    digits = re.sub(r"[eE].*|[-.]", "", number).strip("0")
    if len(digits) > _DIGITS + 2:
        return False
    return Decimal(f"{float(number):.{len(digits)}g}") == Decimal(number)


def _is_formatted(number: str) -> bool:
    """Whether a number with an exponent is formatted so, with the fewest or with all digits."""

    def bare(text: str) -> str:
        return re.sub(r"(?<=e[+-])0+", "", text)

    return bare(number) in {bare(repr(float(number))), bare(f"{float(number):.17g}")}
