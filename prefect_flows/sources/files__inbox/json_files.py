"""JSON Lines: one object a line. Read in blocks by pyarrow; only a fault is looked for by line.

Objects and lists inside are kept as the JSON text that the file has. That takes Python for each
row, so a file that has any is read at about a tenth of the speed. pyarrow takes some things that
are no JSON, and some numbers for others, so lines that may have one are looked at by Python too.
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

from prefect_flows.sources.files__inbox.byte_streams import Text
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
    is_exact,
    is_valid,
    name_of,
)
from prefect_flows.sources.files__inbox.file_errors import Malformed, UnknownColumns, shortened
from prefect_flows.sources.files__inbox.inbox import Content

BLOCK = 1 << 20
# A line longer than this is not looked at.
LONGEST_LINE = 64 << 20
# Read as text, then cast: JSON has no such values.
_WRITTEN_AS_TEXT = (DATE, TIME, DATETIME, TIMESTAMP)
# The key of a column that holds objects or lists; a fault inside of one is none of ours.
_NESTED = re.compile(r"Column\(/(?:([^/)]*)/[^)]*\)|([^/)]*)\) changed from .*(?:object|array))")
# The key of a number or a truth value in a column of text.
_OTHER_THAN_TEXT = re.compile(r"Column\(/([^/)]*)\) changed from string to (?:number|boolean)")
# What pyarrow and Python say of lines that are no rows.
_FAULTS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError)
_IN_A_NUMBER = np.zeros(256, bool)
_IN_A_NUMBER[list(b".0123456789")] = True
# Deeper than any data, and less deep than Python's reader goes. pyarrow crashes on many thousands.
MOST_NESTED = 400
_TOO_DEEP = f"its objects and lists are nested more than {MOST_NESTED} deep"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
# What a bracket adds to the depth.
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1
_GAP = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Numbers and their digits that Postgres has no place for in `jsonb`.
_HUGE = re.compile(r"[eE][+-]?0*[1-9][0-9]{4}|\.[0-9]{16384}|[0-9]{131072}")
# Of a number that Python reads as one.
_MOST_DIGITS = 4_000


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


class _Blocks:
    """The blocks of a file, and which keys hold objects or lists, as far as it was read."""

    def __init__(self, stream: Text) -> None:
        self._stream = stream
        self.nested: set[str] = set()
        self.first_line = 1

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        while data := self._stream.read(BLOCK):
            block, end, rest_of_data = data.rpartition(b"\n")
            if not end:
                rest += data
                if len(rest) > LONGEST_LINE:
                    raise Malformed(
                        f"the line is longer than {LONGEST_LINE >> 20} MB", self.first_line
                    )
                continue
            block = rest + block + end
            rest = rest_of_data
            yield block
            self.first_line += block.count(b"\n")

    def parse(self, block: bytes, types: Types) -> pa.Table:
        """A block as a table, typed; keys that are not in `types` as pyarrow finds them.

        Raises:
            Malformed: a line is no object, or holds a value that does not fit its column.
        """
        self._refuse_what_pyarrow_takes(block)
        try:
            table = self._parsed(block, types)
        except _FAULTS as error:
            raise self._fault(block, types, error) from error
        if b"\\u0000" in block:
            self._refuse_zero_bytes(block)
        return table

    def _parsed(self, block: bytes, types: Types) -> pa.Table:
        """As `parse`, with objects and lists as text as soon as one was met."""
        while True:
            try:
                table = _parse(block, types, self.nested)
            except pa.ArrowInvalid as error:
                match = _NESTED.search(str(error))
                key = match and (match[1] or match[2])
                if (match := _OTHER_THAN_TEXT.search(str(error))) and match[1] in types:
                    key = match[1]
                if key is None or types.get(key, TEXT) != TEXT or key in self.nested:
                    raise
                self.nested.add(key)
                continue
            found = {field.name for field in table.schema if pa.types.is_nested(field.type)}
            if not found:
                return table
            self.nested |= found

    def _fault(self, block: bytes, types: Types, error: Exception) -> Malformed:
        """The first line that is no row of the table."""
        lines = list(enumerate(block.split(b"\n")[:-1], self.first_line))
        lines = [(number, line) for number, line in lines if line.strip()]
        # A prefix, since a line may be bad only beside the lines before it.
        good, bad = 0, len(lines)
        while bad - good > 1:
            middle = (good + bad) // 2
            data = b"".join(line + b"\n" for _, line in lines[:middle])
            good, bad = (middle, bad) if _is_good(data, types, self.nested) else (good, middle)
        number, line = lines[bad - 1]
        return Malformed(_why(line, types, error), number)

    def refuse_other_numbers(self, block: bytes, types: Types) -> None:
        """Look for numbers that their columns, doubles or decimals, would not keep as written.

        Raises:
            Malformed: there is one.
        """
        has_decimal = any(pa.types.is_decimal(kind) for kind in types.values())
        if not types or not (has_decimal or _has_long_number(block)):
            return
        for number, line in enumerate(block.split(b"\n"), self.first_line):
            row = _loads(line, as_written=True) if line.strip() else {}
            for key in types.keys() & row.keys():
                value, kind = row[key], types[key]
                if value is not None and not _is_kept(value, kind):
                    why = f"column {key!r}: {shortened(_text_of(value))} is no {name_of(kind)}"
                    if isinstance(value, _Number) and kind == DOUBLE:
                        why += ", which has fewer digits; declare the column decimal or text"
                    raise Malformed(why, number)

    def _refuse_what_pyarrow_takes(self, block: bytes) -> None:
        """Look for NaN and infinity, which are no JSON, and for nesting that is too deep."""
        brackets = block.count(b"[") + block.count(b"{") - block.count(b"\n")
        if brackets < MOST_NESTED and b"NaN" not in block and b"Inf" not in block:
            return
        for number, line in enumerate(block.split(b"\n"), self.first_line):
            brackets = line.count(b"[") + line.count(b"{")
            if brackets > MOST_NESTED or b"NaN" in line or b"Inf" in line:
                if _depth(line) > MOST_NESTED:
                    raise Malformed(_TOO_DEEP, number)
                try:
                    _loads(line)
                except ValueError as error:
                    raise Malformed(_no_json(error), number) from error

    def _refuse_zero_bytes(self, block: bytes) -> None:
        for number, line in enumerate(block.split(b"\n"), self.first_line):
            # Not every such text is one: the backslash may be escaped itself.
            if b"\\u0000" in line and "\\x00" in repr(_loads(line)).replace("\\\\", ""):
                raise Malformed("it holds a zero byte", number)


def read(
    content: Content, names: Names, types: Types, declared: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """The rows of a file, typed.

    Args:
        declared: columns whose type a person declared: a number that is rounded is taken.

    Raises:
        Malformed: a line is no JSON object, or holds a value that does not fit its column.
        UnknownColumns: a key of some line has no type yet.
    """
    with content.text() as stream:
        blocks = _Blocks(stream)
        keys: Types = {}
        exact: Types = {}

        def learn(new: Sequence[str]) -> None:
            names.add(new)
            if not types.keys() >= {names.columns[key] for key in new}:
                raise UnknownColumns
            keys.update({key: types[names.columns[key]] for key in new})
            # Whatever was made of them while nothing was known of them.
            blocks.nested -= {key for key in new if keys[key] != TEXT}
            exact.update({key: keys[key] for key in new if names.columns[key] not in declared})

        for block in blocks:
            if not keys:
                learn(_keys_of_first_line(block))
            table = blocks.parse(block, keys)
            if new := [key for key in table.column_names if key not in keys]:
                learn(new)
                table = blocks.parse(block, keys)
            blocks.refuse_other_numbers(block, _fractional(exact))
            table = table.select([key for key in keys if key in table.column_names])
            columns = [names.columns[key] for key in table.column_names]
            yield from table.rename_columns(columns).combine_chunks().to_batches()


def infer(content: Content, names: Names, types: Types) -> Types:
    """The types of the keys that have none yet, from all lines; the null type without a value.

    Raises:
        Malformed: a line is no JSON object, or a key is of one type here and of another there.
    """
    known: Types = {}
    found: dict[str, pa.DataType | TypeInference | None] = {}
    with content.text() as stream:
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
                found[key] = _narrowed(found[key], key, table, blocks, block)
    return {
        names.columns[key]: (kind.kind or TEXT)
        if isinstance(kind, TypeInference)
        else (kind or pa.null())
        for key, kind in found.items()
    }


def _narrowed(
    before: pa.DataType | TypeInference | None,
    key: str,
    table: pa.Table,
    blocks: _Blocks,
    block: bytes,
) -> pa.DataType | TypeInference | None:
    """The type of a key after one more block."""
    kind = table.schema.field(key).type
    if pa.types.is_null(kind):
        return before
    if key in blocks.nested or before == TEXT:
        return TEXT
    if pa.types.is_timestamp(kind) or kind == TEXT:
        return _narrowed_text(before, key, table, blocks, block)
    if isinstance(before, TypeInference):
        blocks.parse(block, {key: TEXT})  # says which line
    if kind == DOUBLE and before != DOUBLE and _are_whole(block, key):
        kind = LARGE_INTEGER
    if before in (None, kind):
        return kind
    if BOOL in (before, kind):
        blocks.parse(block, {key: before})  # says which line
    return LARGE_INTEGER if {before, kind} == {BIGINT, LARGE_INTEGER} else DOUBLE


def _narrowed_text(
    before: pa.DataType | TypeInference | None,
    key: str,
    table: pa.Table,
    blocks: _Blocks,
    block: bytes,
) -> TypeInference:
    """The type of a key that holds text, which may be that of times."""
    if isinstance(before, pa.DataType):
        blocks.parse(block, {key: before})  # says which line
    guess = before if isinstance(before, TypeInference) else TypeInference(only_times=True)
    if guess.kind != TEXT:
        # What pyarrow takes for a time may be less than its text said.
        is_text = table.schema.field(key).type == TEXT
        text = table if is_text else blocks.parse(block, {key: TEXT})
        guess.see(text[key].combine_chunks())
    return guess


def _keys_of_first_line(block: bytes) -> list[str]:
    """What most lines have; none where the line is no object, which is told when it is parsed."""
    try:
        row = _loads(block.lstrip().partition(b"\n")[0])
    except ValueError:
        return []
    return list(row) if isinstance(row, dict) else []


def _fractional(types: Types) -> Types:
    return {key: kind for key, kind in types.items() if kind == DOUBLE or pa.types.is_decimal(kind)}


def _are_whole(block: bytes, key: str) -> bool:
    """Whether a key's numbers are written without a fraction, and have no more digits than fit."""
    rows = (_loads(line, as_written=True) for line in block.split(b"\n") if line.strip())
    numbers = (row.get(key) for row in rows)
    return all(
        value is None or (value.lstrip("-").isdigit() and len(value.lstrip("-")) <= 38)
        for value in numbers
    )


def _has_long_number(block: bytes) -> bool:
    """Whether one may have more digits than every double keeps, or be next to nothing."""
    is_long = _IN_A_NUMBER[np.frombuffer(block, np.uint8)]
    for step in (1, 2, 4, 8):  # runs of 2, 4, 8 and 16 characters
        is_long = is_long[:-step] & is_long[step:]
    return bool(is_long.any()) or re.search(rb"[0-9][eE]-[0-9]{3}", block) is not None


def _is_kept(value: Any, kind: pa.DataType) -> bool:
    """Whether a value, as it is written, is what a column of doubles or decimals keeps."""
    if not isinstance(value, _Number):
        return False
    if kind == DOUBLE:
        return is_exact(value)
    return kind.scale > 0 or not re.search(r"[.eE]", value)


def _depth(line: bytes) -> int:
    """How deep the objects and lists of a line are nested."""
    steps = _STEP[np.frombuffer(_STRING.sub(b"", line), np.uint8)]
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _loads(line: bytes, *, as_written: bool = False) -> Any:
    """A line's value.

    Args:
        as_written: numbers are kept as their text; else whole ones of any length are, which Python
            takes for an attack.

    Raises:
        ValueError: the line is no JSON, or nested too deep.
    """
    number = _Number if as_written else None
    whole = _Number if as_written else _whole_number
    try:
        return json.loads(
            line, parse_float=number, parse_int=whole, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def _whole_number(text: str) -> int | _Number:
    return int(text) if len(text) <= _MOST_DIGITS else _Number(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_whole_number)


def _parse(block: bytes, types: Types, nested: set[str]) -> pa.Table:
    """Lines as a table, with JSON text for what the `nested` keys hold."""
    data = _with_text_for(nested, block) if nested else block
    explicit = [
        (key, TEXT if kind in _WRITTEN_AS_TEXT else kind)
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
    if len(table) != _lines(block):
        raise pa.ArrowInvalid("other rows than lines")
    for key, kind in types.items():
        if pa.types.is_decimal(kind) and not is_valid(table[key]):
            raise pa.ArrowInvalid(f"Column(/{key}) has a number of too many digits")
        if kind in _WRITTEN_AS_TEXT:
            at = table.column_names.index(key)
            table = table.set_column(at, key, table[key].cast(kind))
    return table


def _is_good(block: bytes, types: Types, nested: set[str]) -> bool:
    try:
        _parse(block, types, nested)
    except _FAULTS:
        return False
    return True


def _lines(block: bytes) -> int:
    """Lines that are not empty."""
    lines = block.count(b"\n")
    if b"\n\n" in block or b"\n\r\n" in block or block[:1] in b"\r\n":
        lines = sum(1 for line in block.split(b"\n") if line.strip())
    return lines


def _with_text_for(keys: set[str], block: bytes) -> bytes:
    """The block with JSON text in place of what these keys hold, where that is no text."""
    lines = []
    for line in block.decode().split("\n"):
        if not line.strip():
            continue
        parts, done = [], 0
        for key, start, end, value in _members(line):
            if key in keys and value is not None and not isinstance(value, str):
                _refuse_no_jsonb(line[start:end], value)
                parts += [line[done:start], json.dumps(line[start:end], ensure_ascii=False)]
                done = end
        lines.append("".join([*parts, line[done:]]))
    return ("\n".join(lines) + "\n").encode()


def _members(line: str) -> Iterator[tuple[str, int, int, Any]]:
    """The keys of a line's object, where their values begin and end, and the values.

    What is no object ends it: pyarrow says why.

    Raises:
        ValueError: a key or a value is no JSON.
    """

    def after_gap(at: int) -> int:
        match = _GAP.match(line, at)
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


def _refuse_no_jsonb(text: str, value: Any) -> None:
    """Raise where Postgres takes no such JSON: half a surrogate pair, or a number beyond all."""
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("The surrogate pair in string is invalid.") from error
    if _HUGE.search(text):
        json.loads(text, parse_float=_refuse_huge, parse_int=_refuse_huge)


def _refuse_huge(number: str) -> None:
    if _HUGE.search(number):
        raise ValueError(f"{shortened(number)} is too large, too small or too long a number")


def _no_json(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg} at character {error.colno}"
    return f"no JSON: {error}"


def _why(line: bytes, types: Types, error: Exception) -> str:
    try:
        row = _loads(line)
    except ValueError as fault:
        return _no_json(fault)
    if not isinstance(row, dict):
        return f"a JSON object belongs here, not {shortened(repr(row))}"
    for key, value in row.items():
        kind = types.get(key)
        if kind is None or pa.types.is_null(kind) or value is None:
            continue
        nested = {key} if isinstance(value, (dict, list)) and kind == TEXT else set()
        block = f"{{{json.dumps(key)}: {_text_of(value)}}}\n".encode()
        if not _is_good(block, {key: kind}, nested):
            return f"column {key!r}: {shortened(_text_of(value))} is no {name_of(kind)}"
    return _as_said(error)


def _text_of(value: Any) -> str:
    return value if isinstance(value, _Number) else json.dumps(value)


def _as_said(error: Exception) -> str:
    """What pyarrow says, less the place, which is the block's."""
    text = re.sub(r"^JSON parse error: ", "", str(error))
    return re.sub(r"Column\(/([^)]*)\)", r"column '\1'", re.sub(r",? in row \d+", "", text))
