"""Reads JSON Lines files (one object per line) into Arrow batches, and finds the line of a fault.

pyarrow reads the lines in blocks. Nested objects and lists keep the JSON text of the file; this
takes Python for each row, at about a tenth of the speed. pyarrow accepts some invalid JSON, and
changes some numbers, so Python checks the lines that may contain one.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from prefect_flows.core.formatting import shorten_middle
from prefect_flows.sources.files__inbox.byte_streams import TextStream
from prefect_flows.sources.files__inbox.column_names import Names
from prefect_flows.sources.files__inbox.column_types import (
    BIGINT,
    BOOL,
    DATE,
    DATETIME,
    DOUBLE,
    LARGE_INTEGER,
    TEXT,
    TIME,
    TIMESTAMP,
    TypeInference,
    Types,
    format_type,
    is_exact,
    is_valid,
)
from prefect_flows.sources.files__inbox.file_errors import MalformedFile, UnknownColumns
from prefect_flows.sources.files__inbox.inbox import Content

BLOCK = 1 << 20
# Longer lines are refused.
MAX_LINE_BYTES = 64 << 20
# Read as text, then cast, since JSON has no such types.
_READ_AS_TEXT = (DATE, TIME, DATETIME, TIMESTAMP)
# Matches pyarrow errors about a column of objects or lists, with its key. What is inside of them
# needs no type.
_NESTED_ERROR = re.compile(
    r"Column\(/(?:([^/)]*)/[^)]*\)|([^/)]*)\) changed from .*(?:object|array))"
)
# Matches pyarrow errors about a number or boolean in a text column, with its key.
_NON_TEXT_ERROR = re.compile(r"Column\(/([^/)]*)\) changed from string to (?:number|boolean)")
# Errors of pyarrow and Python for an invalid line.
_PARSE_ERRORS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError)
_IS_NUMBER_CHARACTER = np.zeros(256, bool)
_IS_NUMBER_CHARACTER[list(b".0123456789")] = True
# Deeper than real data, and within the limit of Python's reader. pyarrow crashes at many thousands.
MAX_NESTING = 400
_TOO_DEEP = f"its objects and lists are nested more than {MAX_NESTING} deep"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
# Change of depth by character.
_DEPTH_CHANGE = np.zeros(256, np.int8)
_DEPTH_CHANGE[list(b"[{")] = 1
_DEPTH_CHANGE[list(b"]}")] = -1
_WHITESPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Numbers that `jsonb` of Postgres cannot hold.
_NOT_IN_JSONB = re.compile(r"[eE][+-]?0*[1-9][0-9]{4}|\.[0-9]{16384}|[0-9]{131072}")
# Python refuses to convert much longer integers.
_MAX_INTEGER_DIGITS = 4_000


class _Number(str):
    """A number as the text of the file."""

    __slots__ = ()


class _Blocks:
    """Blocks of whole lines of a file, and the keys seen so far that hold objects or lists."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self.nested: set[str] = set()
        self.first_line = 1

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while data := self._stream.read(BLOCK):
            block, end, rest_of_data = data.rpartition(b"\n")
            if not end:
                rest += data
                if len(rest) > MAX_LINE_BYTES:
                    raise MalformedFile(
                        f"the line is longer than {MAX_LINE_BYTES >> 20} MB", self.first_line
                    )
                continue
            block = rest + block + end
            rest = rest_of_data
            yield block
            self.first_line += block.count(b"\n")

    def parse(self, block: bytes, types: Types) -> pa.Table:
        """Parse a block into a table; pyarrow infers the type of keys that are not in `types`.

        Raises:
            MalformedFile: a line is not an object, or a value does not fit its column.
        """
        self._refuse_invalid_json(block)
        try:
            table = self._parse_with_nested(block, types)
        except _PARSE_ERRORS as error:
            raise self._find_fault(block, types, error) from error
        if b"\\u0000" in block:
            self._refuse_zero_bytes(block)
        return table

    def _parse_with_nested(self, block: bytes, types: Types) -> pa.Table:
        """Parse a block, again with text for each key that turns out to hold objects or lists."""
        while True:
            try:
                table = _parse(block, types, self.nested)
            except pa.ArrowInvalid as error:
                match = _NESTED_ERROR.search(str(error))
                key = match and (match[1] or match[2])
                if (match := _NON_TEXT_ERROR.search(str(error))) and match[1] in types:
                    key = match[1]
                if key is None or types.get(key, TEXT) != TEXT or key in self.nested:
                    raise
                self.nested.add(key)
                continue
            found = {field.name for field in table.schema if pa.types.is_nested(field.type)}
            if not found:
                return table
            self.nested |= found

    def _find_fault(self, block: bytes, types: Types, error: Exception) -> MalformedFile:
        """Find the first line that is not a row of the table, by bisection."""
        lines = list(enumerate(block.split(b"\n")[:-1], self.first_line))
        lines = [(number, line) for number, line in lines if line.strip()]
        # Tests prefixes, since a line may be bad only after the lines before it.
        good, bad = 0, len(lines)
        while bad - good > 1:
            middle = (good + bad) // 2
            data = b"".join(line + b"\n" for _, line in lines[:middle])
            good, bad = (middle, bad) if _is_good(data, types, self.nested) else (good, middle)
        number, line = lines[bad - 1]
        return MalformedFile(_explain_fault(line, types, error), number)

    def refuse_other_numbers(self, block: bytes, types: Types) -> None:
        """Refuse numbers that a double or decimal column would change.

        Raises:
            MalformedFile: there is such a number.
        """
        has_decimal = any(pa.types.is_decimal(kind) for kind in types.values())
        if not types or not (has_decimal or _has_long_number(block)):
            return
        for number, line in enumerate(block.split(b"\n"), self.first_line):
            row = _loads(line, as_written=True) if line.strip() else {}
            for key in types.keys() & row.keys():
                value, kind = row[key], types[key]
                if value is not None and not _keeps_value(value, kind):
                    shown = shorten_middle(_format_value(value))
                    why = f"column {key!r}: {shown} is not a {format_type(kind)}"
                    if isinstance(value, _Number) and kind == DOUBLE:
                        why += ", which has fewer digits; declare the column decimal or text"
                    raise MalformedFile(why, number)

    def _refuse_invalid_json(self, block: bytes) -> None:
        """Refuse NaN, infinity and deep nesting, which pyarrow accepts."""
        brackets = block.count(b"[") + block.count(b"{") - block.count(b"\n")
        if brackets < MAX_NESTING and b"NaN" not in block and b"Inf" not in block:
            return
        for number, line in enumerate(block.split(b"\n"), self.first_line):
            brackets = line.count(b"[") + line.count(b"{")
            if brackets > MAX_NESTING or b"NaN" in line or b"Inf" in line:
                if _depth(line) > MAX_NESTING:
                    raise MalformedFile(_TOO_DEEP, number)
                try:
                    _loads(line)
                except ValueError as error:
                    raise MalformedFile(_invalid_json_reason(error), number) from error

    def _refuse_zero_bytes(self, block: bytes) -> None:
        for number, line in enumerate(block.split(b"\n"), self.first_line):
            # The backslash of `\u0000` may be escaped itself.
            if b"\\u0000" in line and "\\x00" in repr(_loads(line)).replace("\\\\", ""):
                raise MalformedFile("it holds a zero byte", number)


def read(
    content: Content, names: Names, types: Types, declared: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, with typed columns.

    Args:
        declared: columns with a declared type, which take numbers that are rounded.

    Raises:
        MalformedFile: a line is not a JSON object, or holds a value that does not fit its column.
        UnknownColumns: a key of a line has no type yet.
    """
    with content.open_text() as stream:
        blocks = _Blocks(stream)
        keys: Types = {}
        exact: Types = {}

        def learn(new: Sequence[str]) -> None:
            names.add(new)
            if not types.keys() >= {names.columns[key] for key in new}:
                raise UnknownColumns
            keys.update({key: types[names.columns[key]] for key in new})
            # These keys were parsed before their types were known.
            blocks.nested -= {key for key in new if keys[key] != TEXT}
            exact.update({key: keys[key] for key in new if names.columns[key] not in declared})

        for block in blocks:
            if not keys:
                learn(_first_line_keys(block))
            table = blocks.parse(block, keys)
            if new := [key for key in table.column_names if key not in keys]:
                learn(new)
                table = blocks.parse(block, keys)
            blocks.refuse_other_numbers(block, _fractional_columns(exact))
            table = table.select([key for key in keys if key in table.column_names])
            columns = [names.columns[key] for key in table.column_names]
            yield from table.rename_columns(columns).combine_chunks().to_batches()


def infer(content: Content, names: Names, types: Types) -> Types:
    """Infer the types of new keys from all lines; the null type for a key without a value.

    Raises:
        MalformedFile: a line is not a JSON object, or a key has different types in different lines.
    """
    known: Types = {}
    found: dict[str, pa.DataType | TypeInference | None] = {}
    with content.open_text() as stream:
        blocks = _Blocks(stream)
        for block in blocks:
            table = blocks.parse(block, known)
            new = [key for key in table.column_names if key not in known and key not in found]
            if new:
                names.add(new)
                known |= {
                    key: types[names.columns[key]] for key in new if names.columns[key] in types
                }
                found |= {key: None for key in new if key not in known}
                table = blocks.parse(block, known)
            for key in [key for key in table.column_names if key in found]:
                found[key] = _narrow_type(found[key], key, table, blocks, block)
    return {
        names.columns[key]: (kind.get_type or TEXT)
        if isinstance(kind, TypeInference)
        else (kind or pa.null())
        for key, kind in found.items()
    }


def _narrow_type(
    before: pa.DataType | TypeInference | None,
    key: str,
    table: pa.Table,
    blocks: _Blocks,
    block: bytes,
) -> pa.DataType | TypeInference | None:
    """Return the type of a key after one more block."""
    kind = table.schema.field(key).type
    if pa.types.is_null(kind):
        return before
    if key in blocks.nested or before == TEXT:
        return TEXT
    if pa.types.is_timestamp(kind) or kind == TEXT:
        return _narrow_text_type(before, key, table, blocks, block)
    if isinstance(before, TypeInference):
        blocks.parse(block, {key: TEXT})  # raises with the line
    if kind == DOUBLE and before != DOUBLE and _are_integers(block, key):
        kind = LARGE_INTEGER
    if before in (None, kind):
        return kind
    if BOOL in (before, kind):
        blocks.parse(block, {key: before})  # raises with the line
    return LARGE_INTEGER if {before, kind} == {BIGINT, LARGE_INTEGER} else DOUBLE


def _narrow_text_type(
    before: pa.DataType | TypeInference | None,
    key: str,
    table: pa.Table,
    blocks: _Blocks,
    block: bytes,
) -> TypeInference:
    """Return the type of a key that holds strings, which may be times, after one more block."""
    if isinstance(before, pa.DataType):
        blocks.parse(block, {key: before})  # raises with the line
    guess = before if isinstance(before, TypeInference) else TypeInference(only_times=True)
    if guess.get_type != TEXT:
        # A time that pyarrow parsed may have lost digits of its text.
        is_text = table.schema.field(key).type == TEXT
        text = table if is_text else blocks.parse(block, {key: TEXT})
        guess.update(text[key].combine_chunks())
    return guess


def _first_line_keys(block: bytes) -> list[str]:
    """Return the keys of the first line, which most lines share; empty if it is not an object."""
    try:
        row = _loads(block.lstrip().partition(b"\n")[0])
    except ValueError:
        return []
    return list(row) if isinstance(row, dict) else []


def _fractional_columns(types: Types) -> Types:
    return {key: kind for key, kind in types.items() if kind == DOUBLE or pa.types.is_decimal(kind)}


def _are_integers(block: bytes, key: str) -> bool:
    """Return whether a key's numbers are written without a fraction, in at most 38 digits."""
    rows = (_loads(line, as_written=True) for line in block.split(b"\n") if line.strip())
    numbers = (row.get(key) for row in rows)
    return all(
        value is None or (value.lstrip("-").isdigit() and len(value.lstrip("-")) <= 38)
        for value in numbers
    )


def _has_long_number(block: bytes) -> bool:
    """Return whether a number may have more digits than a double keeps, or be close to zero."""
    is_long = _IS_NUMBER_CHARACTER[np.frombuffer(block, np.uint8)]
    for step in (1, 2, 4, 8):  # runs of 2, 4, 8 and 16 characters
        is_long = is_long[:-step] & is_long[step:]
    return bool(is_long.any()) or re.search(rb"[0-9][eE]-[0-9]{3}", block) is not None


def _keeps_value(value: Any, kind: pa.DataType) -> bool:
    """Return whether a column of doubles or decimals keeps a value as it is written."""
    if not isinstance(value, _Number):
        return False
    if kind == DOUBLE:
        return is_exact(value)
    return kind.scale > 0 or not re.search(r"[.eE]", value)


def _depth(line: bytes) -> int:
    """Return how deep the objects and lists of a line are nested."""
    steps = _DEPTH_CHANGE[np.frombuffer(_STRING.sub(b"", line), np.uint8)]
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _loads(line: bytes, *, as_written: bool = False) -> Any:
    """Parse a line.

    Args:
        as_written: keep numbers as text. Otherwise only very long integers stay text, which Python
            refuses to convert.

    Raises:
        ValueError: the line is not valid JSON, or is nested too deep.
    """
    number = _Number if as_written else None
    whole = _Number if as_written else _parse_integer
    try:
        return json.loads(
            line, parse_float=number, parse_int=whole, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def _parse_integer(text: str) -> int | _Number:
    return int(text) if len(text) <= _MAX_INTEGER_DIGITS else _Number(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_parse_integer)


def _parse(block: bytes, types: Types, nested: set[str]) -> pa.Table:
    """Parse lines into a table, with JSON text for the `nested` keys."""
    data = _nested_as_text(nested, block) if nested else block
    explicit = [
        (key, TEXT if kind in _READ_AS_TEXT else kind)
        for key, kind in types.items()
        if not pa.types.is_null(kind)
    ]
    table = arrow_json.read_json(
        io.BytesIO(data),
        arrow_json.ReadOptions(block_size=len(data) + 1),
        arrow_json.ParseOptions(
            explicit_schema=pa.schema(explicit) if explicit else None,
            unexpected_field_behavior="infer",
        ),
    )
    if len(table) != _count_lines(block):
        raise pa.ArrowInvalid("other rows than lines")
    for key, kind in types.items():
        if pa.types.is_decimal(kind) and not is_valid(table[key]):
            raise pa.ArrowInvalid(f"Column(/{key}) has a number of too many digits")
        if kind in _READ_AS_TEXT:
            at = table.column_names.index(key)
            table = table.set_column(at, key, table[key].cast(kind))
    return table


def _is_good(block: bytes, types: Types, nested: set[str]) -> bool:
    try:
        _parse(block, types, nested)
    except _PARSE_ERRORS:
        return False
    return True


def _count_lines(block: bytes) -> int:
    """Count the lines that are not empty."""
    lines = block.count(b"\n")
    if b"\n\n" in block or b"\n\r\n" in block or block[:1] in b"\r\n":
        lines = sum(1 for line in block.split(b"\n") if line.strip())
    return lines


def _nested_as_text(keys: set[str], block: bytes) -> bytes:
    """Replace the values of these keys by their JSON text, unless they are strings."""
    lines = []
    for line in block.decode().split("\n"):
        if not line.strip():
            continue
        parts, copied_to = [], 0
        for key, start, end, value in _members(line):
            if key in keys and value is not None and not isinstance(value, str):
                _refuse_unsupported_jsonb(line[start:end], value)
                parts += [line[copied_to:start], json.dumps(line[start:end], ensure_ascii=False)]
                copied_to = end
        lines.append("".join([*parts, line[copied_to:]]))
    return ("\n".join(lines) + "\n").encode()


def _members(line: str) -> Iterator[tuple[str, int, int, Any]]:
    """Yield each key of a line's object, with start and end of its value, and the value.

    It stops where the line is not an object; pyarrow then reports the fault.

    Raises:
        ValueError: a key or a value is not valid JSON.
    """

    def after_gap(at: int) -> int:
        match = _WHITESPACE.match(line, at)
        return match.end() if match else at

    at, separator = after_gap(0), "{"
    while line.startswith(separator, at):
        at = after_gap(at + 1)
        if not line.startswith('"', at):
            return
        key, at = _DECODER.raw_decode(line, at)
        start = after_gap(after_gap(at) + 1)  # after the colon
        try:
            value, end = _DECODER.raw_decode(line, start)
        except RecursionError as error:
            raise ValueError(_TOO_DEEP) from error
        yield key, start, end, value
        at, separator = after_gap(end), ","


def _refuse_unsupported_jsonb(text: str, value: Any) -> None:
    """Refuse JSON that Postgres does not accept: half a surrogate pair, an extreme number."""
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("The surrogate pair in string is invalid.") from error
    if _NOT_IN_JSONB.search(text):
        json.loads(
            text, parse_float=_refuse_unsupported_number, parse_int=_refuse_unsupported_number
        )


def _refuse_unsupported_number(number: str) -> None:
    if _NOT_IN_JSONB.search(number):
        raise ValueError(f"{shorten_middle(number)} is too large, too small or too long a number")


def _invalid_json_reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg} at character {error.colno}"
    return f"no JSON: {error}"


def _explain_fault(line: bytes, types: Types, error: Exception) -> str:
    try:
        row = _loads(line)
    except ValueError as fault:
        return _invalid_json_reason(fault)
    if not isinstance(row, dict):
        return f"a JSON object belongs here, not {shorten_middle(repr(row))}"
    for key, value in row.items():
        kind = types.get(key)
        if kind is None or pa.types.is_null(kind) or value is None:
            continue
        nested = {key} if isinstance(value, (dict, list)) and kind == TEXT else set()
        block = f"{{{json.dumps(key)}: {_format_value(value)}}}\n".encode()
        if not _is_good(block, {key: kind}, nested):
            shown = shorten_middle(_format_value(value))
            return f"column {key!r}: {shown} is not a {format_type(kind)}"
    return _clean_arrow_message(error)


def _format_value(value: Any) -> str:
    return value if isinstance(value, _Number) else json.dumps(value)


def _clean_arrow_message(error: Exception) -> str:
    """Return pyarrow's message without its position, which is relative to the block."""
    text = re.sub(r"^JSON parse error: ", "", str(error))
    return re.sub(r"Column\(/([^)]*)\)", r"column '\1'", re.sub(r",? in row \d+", "", text))
