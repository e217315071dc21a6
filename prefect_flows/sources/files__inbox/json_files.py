"""JSON Lines: one object a line. Read in blocks by pyarrow; only a fault is looked for by line.

Objects and lists inside are kept as JSON text. That takes Python for each row, so a file that has
any is read at about a tenth of the speed.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
from pyarrow import json as arrow_json

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
    Guess,
    Types,
    name_of,
)
from prefect_flows.sources.files__inbox.faults import (
    Malformed,
    UnknownColumns,
    shortened,
)
from prefect_flows.sources.files__inbox.inbox import Content
from prefect_flows.sources.files__inbox.streams import Text

BLOCK = 1 << 20
# A line longer than this is not looked at.
LONGEST_LINE = 64 << 20
# Read as text, then cast: JSON has no such values.
_WRITTEN_AS_TEXT = (DATE, TIME, DATETIME, TIMESTAMP)
# The key of a column that holds objects or lists; a fault inside of one is none of ours.
_NESTED = re.compile(r"Column\(/(?:([^/)]*)/[^)]*\)|([^/)]*)\) changed from .*(?:object|array))")
# What pyarrow and Python say of lines that are no rows.
_FAULTS = (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError)


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

    def _refuse_zero_bytes(self, block: bytes) -> None:
        for number, line in enumerate(block.split(b"\n"), self.first_line):
            # Not every such text is one: the backslash may be escaped itself.
            if b"\\u0000" in line and "\\x00" in repr(json.loads(line)).replace("\\\\", ""):
                raise Malformed("it holds a zero byte", number)


def read(content: Content, names: Names, types: Types) -> Iterator[pa.RecordBatch]:
    """The rows of a file, typed.

    Raises:
        Malformed: a line is no JSON object, or holds a value that does not fit its column.
        UnknownColumns: a key of some line has no type yet.
    """
    with content.text() as stream:
        blocks = _Blocks(stream)
        keys: Types = {}

        def learn(new: Sequence[str]) -> None:
            names.add(new)
            if not types.keys() >= {names.columns[key] for key in new}:
                raise UnknownColumns
            keys.update({key: types[names.columns[key]] for key in new})
            # Whatever was made of them while nothing was known of them.
            blocks.nested -= {key for key in new if keys[key] != TEXT}

        for block in blocks:
            if not keys:
                learn(_keys_of_first_line(block))
            table = blocks.parse(block, keys)
            if new := [key for key in table.column_names if key not in keys]:
                learn(new)
                table = blocks.parse(block, keys)
            table = table.select([key for key in keys if key in table.column_names])
            columns = [names.columns[key] for key in table.column_names]
            yield from table.rename_columns(columns).combine_chunks().to_batches()


def infer(content: Content, names: Names, types: Types) -> Types:
    """The types of the keys that have none yet, from all lines; the null type without a value.

    Raises:
        Malformed: a line is no JSON object, or a key is of one type here and of another there.
    """
    known: Types = {}
    found: dict[str, pa.DataType | Guess | None] = {}
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
        names.columns[key]: (kind.kind or TEXT) if isinstance(kind, Guess) else (kind or pa.null())
        for key, kind in found.items()
    }


def _narrowed(
    before: pa.DataType | Guess | None, key: str, table: pa.Table, blocks: _Blocks, block: bytes
) -> pa.DataType | Guess | None:
    """The type of a key after one more block."""
    kind = table.schema.field(key).type
    if pa.types.is_null(kind):
        return before
    if key in blocks.nested or before == TEXT:
        return TEXT
    if pa.types.is_timestamp(kind) or kind == TEXT:
        return _narrowed_text(before, key, table, blocks, block)
    if isinstance(before, Guess):
        blocks.parse(block, {key: TEXT})  # says which line
    if kind == DOUBLE and before != DOUBLE and _is_good(block, {key: LARGE_INTEGER}, blocks.nested):
        kind = LARGE_INTEGER
    if before in (None, kind):
        return kind
    if BOOL in (before, kind):
        blocks.parse(block, {key: before})  # says which line
    return LARGE_INTEGER if {before, kind} == {BIGINT, LARGE_INTEGER} else DOUBLE


def _narrowed_text(
    before: pa.DataType | Guess | None, key: str, table: pa.Table, blocks: _Blocks, block: bytes
) -> Guess:
    """The type of a key that holds text, which may be that of times."""
    if isinstance(before, pa.DataType):
        blocks.parse(block, {key: before})  # says which line
    guess = before if isinstance(before, Guess) else Guess(only_times=True)
    if guess.kind != TEXT:
        # What pyarrow takes for a time may be less than its text said.
        is_text = table.schema.field(key).type == TEXT
        text = table if is_text else blocks.parse(block, {key: TEXT})
        guess.see(text[key].combine_chunks())
    return guess


def _keys_of_first_line(block: bytes) -> list[str]:
    """What most lines have; none where the line is no object, which is told when it is parsed."""
    try:
        row = json.loads(block.lstrip().partition(b"\n")[0])
    except json.JSONDecodeError:
        return []
    return list(row) if isinstance(row, dict) else []


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
    for line in block.split(b"\n"):
        if not line.strip():
            continue
        row = json.loads(line)
        if isinstance(row, dict):
            for key in keys:
                value = row.get(key)
                if value is not None and not isinstance(value, str):
                    row[key] = json.dumps(value, ensure_ascii=False)
        lines.append(json.dumps(row, ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _why(line: bytes, types: Types, error: Exception) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as fault:
        return f"no JSON: {fault.msg} at character {fault.colno}"
    if not isinstance(row, dict):
        return f"a JSON object belongs here, not {shortened(repr(row))}"
    for key, value in row.items():
        kind = types.get(key)
        if kind is None or pa.types.is_null(kind) or value is None:
            continue
        nested = {key} if isinstance(value, (dict, list)) and kind == TEXT else set()
        if not _is_good(json.dumps({key: value}).encode() + b"\n", {key: kind}, nested):
            return f"column {key!r}: {shortened(json.dumps(value))} is no {name_of(kind)}"
    return _as_said(error)


def _as_said(error: Exception) -> str:
    """What pyarrow says, less the place, which is the block's."""
    text = re.sub(r"^JSON parse error: ", "", str(error))
    return re.sub(r"Column\(/([^)]*)\)", r"column '\1'", re.sub(r",? in row \d+", "", text))
