"""Reads CSV files (delimiter, header, quoting as in RFC 4180) into Arrow batches, and finds faults.

pyarrow reads values as text in blocks, and `column_types.parse` converts them, since pyarrow itself
converts more texts to numbers than it should. Only after a fault, the rows are searched one by one.
An empty value is null, quoted or not: programs that quote everything also quote missing values.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
from pyarrow import csv as arrow_csv

from prefect_flows.core.formatting import shorten_middle
from prefect_flows.sources.files__inbox.byte_streams import CHUNK, QuoteChecker, TextStream
from prefect_flows.sources.files__inbox.column_names import Names, refuse_many_columns
from prefect_flows.sources.files__inbox.column_types import (
    TEXT,
    TypeInference,
    Types,
    format_type,
    is_valid,
    parse,
)
from prefect_flows.sources.files__inbox.file_errors import (
    LongRow,
    MalformedFile,
    UnknownColumns,
    find_first_bad,
)
from prefect_flows.sources.files__inbox.inbox import Content

# A row has to fit into a block. The large size is for files with a row that does not fit into the
# normal one, since several blocks are in memory at a time.
BLOCK, LARGE_BLOCK = 1 << 20, 64 << 20
# Size of a batch of rows in the search for a bad value.
_SEARCH_ROWS = 10_000
_SEARCH_CHARACTERS = 16 << 20
_TOO_LONG = f"a row is longer than {LARGE_BLOCK >> 20} MB"
_OTHER_DELIMITERS = ",;|\t"
# Converts text to the column's type; returns None if a value does not fit.
Parser = Callable[[pa.Array], pa.Array | None]


@dataclass(frozen=True)
class Dialect:
    """CSV dialect and parsing options.

    Attributes:
        delimiter: character between values.
        nulls: values that mean null.
        escape: escape character; None if there is none.
        declared: columns with a declared type, which take everything that pyarrow can cast to it.
        block: size of a block in bytes.
    """

    delimiter: str = ","
    nulls: tuple[str, ...] = ("",)
    escape: str | None = None
    declared: frozenset[str] = frozenset()
    block: int = BLOCK


class _DoesNotFit(Exception):
    """A value does not fit its column."""


class _RowTooLong(Exception):
    """A row is longer than the large block size."""


def read(
    content: Content, names: Names, types: Types, dialect: Dialect
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, with typed columns.

    Raises:
        MalformedFile: the file is not valid CSV, or a value does not fit its column.
        UnknownColumns: a column of the file has no type yet.
        LongRow: a row is longer than a block of the dialect.
    """
    try:
        with content.open_text() as stream:
            columns = _read_header(stream, names, dialect)
            if not types.keys() >= set(columns):
                raise UnknownColumns
            kinds = {column: types[column] for column in columns}
            quoted = _check_quotes(stream, dialect)
            parsers = _build_parsers(kinds, dialect)
            for batch in _read_batches(quoted, columns, kinds, dialect):
                yield _convert_batch(batch, parsers)
        if not quoted.is_regular or quoted.is_open:
            fault = _find_fault(content, columns, {}, dialect)
            if fault is not None:
                raise fault
    except (pa.ArrowInvalid, _DoesNotFit) as error:
        _raise_if_row_is_long(error, dialect)
        raise _find_fault(content, columns, kinds, dialect) or _arrow_error(error) from error


def read_guessing(
    content: Content, names: Names, types: Types, dialect: Dialect
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, with the types of new columns inferred from the first block.

    This parses the file only once if its later rows agree with the first ones, as they mostly do.

    Raises:
        MalformedFile: the file is not valid CSV.
        UnknownColumns: later rows need other types, or a row is invalid. `infer` and `read` then
            find the types or the fault.
    """
    try:
        with content.open_text() as stream:
            columns = _read_header(stream, names, dialect)
            guesses = {column: TypeInference() for column in columns if column not in types}
            kinds = {column: types.get(column, TEXT) for column in columns}
            parsers = _build_parsers(kinds, dialect)
            parsers |= {column: guess.cast for column, guess in guesses.items()}
            quoted = _check_quotes(stream, dialect)
            first = True
            for batch in _read_batches(quoted, columns, kinds, dialect):
                if first:
                    for column, guess in guesses.items():
                        guess.update(batch[column])
                    first = False
                yield _convert_batch(batch, parsers)
    except (pa.ArrowInvalid, _DoesNotFit) as error:
        raise UnknownColumns from error
    if not quoted.is_regular or quoted.is_open:
        raise UnknownColumns


def _check_quotes(stream: TextStream, dialect: Dialect) -> QuoteChecker:
    return QuoteChecker(stream, dialect.delimiter, dialect.escape)


def _build_parsers(kinds: Types, dialect: Dialect) -> dict[str, Parser]:
    """Return a parser by column: converts text, or checks values that pyarrow has converted."""
    parsers: dict[str, Parser] = {}
    for column, kind in kinds.items():
        if column not in dialect.declared:
            parsers[column] = partial(parse, kind=kind)
        elif pa.types.is_decimal(kind):
            parsers[column] = lambda values: values if is_valid(values) else None
    return parsers


def _convert_batch(batch: pa.RecordBatch, parsers: Mapping[str, Parser]) -> pa.RecordBatch:
    for index, name in enumerate(batch.schema.names):
        if name in parsers:
            if (values := parsers[name](batch.column(index))) is None:
                raise _DoesNotFit(f"column {name!r} has a value that does not fit")
            batch = batch.set_column(index, name, values)
    return batch


def infer(content: Content, names: Names, types: Types, dialect: Dialect) -> Types:
    """Infer the types of new columns from all rows; the null type for a column without a value.

    Raises:
        MalformedFile: the file is not valid CSV.
        LongRow: a row is longer than a block of the dialect.
    """
    try:
        with content.open_text() as stream:
            columns = _read_header(stream, names, dialect)
            guesses = {column: TypeInference() for column in columns if column not in types}
            as_text = dict.fromkeys(columns, TEXT)
            for batch in _read_batches(stream, columns, as_text, dialect, only=list(guesses)):
                for column, guess in guesses.items():
                    guess.update(batch[column])
    except pa.ArrowInvalid as error:
        _raise_if_row_is_long(error, dialect)
        raise _find_fault(content, columns, {}, dialect) or _arrow_error(error) from error
    return {column: guess.get_type or pa.null() for column, guess in guesses.items()}


def _read_header(stream: TextStream, names: Names, dialect: Dialect) -> list[str]:
    """Return the column names of the header, and leave the stream at its start."""
    csv.field_size_limit(sys.maxsize)
    start = stream.read(CHUNK)
    stream.unread(start)
    lines = io.StringIO(start.decode(errors="ignore"), newline="")
    rows = csv.reader(lines, delimiter=dialect.delimiter, escapechar=dialect.escape)
    try:
        keys = next(rows, [])
    except csv.Error as error:
        raise MalformedFile(_explain_csv_error(error), 1) from error
    if len(start) >= CHUNK - len(codecs.BOM_UTF8) and not lines.read(1):
        raise MalformedFile(
            f"the header is longer than {CHUNK >> 20} MB, or a quotation mark in it is never "
            "closed",
            1,
        )
    refuse_many_columns(len(keys))
    if not keys:
        raise MalformedFile("the first line is empty; a header is expected", 1)
    if len(keys) == 1 and any(other in keys[0] for other in _OTHER_DELIMITERS):
        raise MalformedFile(
            f"the header is one column, {shorten_middle(repr(keys[0]))}: the delimiter is not "
            f"{dialect.delimiter!r}",
            1,
        )
    for number, key in enumerate(keys):
        if key in keys[:number]:
            raise MalformedFile(f"column {shorten_middle(repr(key))} is duplicated", 1)
    names.add(keys)
    return [names.columns[key] for key in keys]


def _read_batches(
    stream: TextStream | QuoteChecker,
    columns: Sequence[str],
    types: Types,
    dialect: Dialect,
    only: list[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    yield from arrow_csv.open_csv(
        stream,
        # The header is skipped as a row, since a quoted name may contain a line break.
        arrow_csv.ReadOptions(
            column_names=columns, skip_rows_after_names=1, block_size=dialect.block
        ),
        arrow_csv.ParseOptions(
            delimiter=dialect.delimiter,
            escape_char=dialect.escape or False,
            newlines_in_values=True,
        ),
        _convert_options(types, dialect, only),
    )


def _convert_options(
    types: Types, dialect: Dialect, only: list[str] | None = None
) -> arrow_csv.ConvertOptions:
    return arrow_csv.ConvertOptions(
        column_types={
            column: kind if column in dialect.declared else TEXT for column, kind in types.items()
        },
        include_columns=only,
        null_values=dialect.nulls,
        strings_can_be_null=True,
        check_utf8=False,  # the stream has checked it
    )


def _find_fault(
    content: Content, columns: Sequence[str], types: Types, dialect: Dialect
) -> MalformedFile | None:
    """Search row by row for the first invalid row; None if all rows are valid."""
    typed = {columns.index(column): kind for column, kind in types.items() if kind != TEXT}
    with (
        content.open_text() as stream,
        io.TextIOWrapper(io.BufferedReader(stream, CHUNK), "utf-8", newline="") as text,
    ):
        lines = _BoundedLines(text)
        rows = csv.reader(
            iter(lines), delimiter=dialect.delimiter, escapechar=dialect.escape, strict=True
        )
        batch: list[tuple[int, list[str]]] = []
        fault, start, batch_characters = None, 1, 0
        try:
            next(rows)
            start = rows.line_num + 1
            lines.in_row = 0
            for row in rows:
                batch_characters += lines.in_row
                lines.in_row = 0
                if row and len(row) != len(columns):
                    fault = MalformedFile(
                        f"it has {len(row)} values, and the header {len(columns)}", start
                    )
                    break
                if row:
                    batch.append((start, row))
                start = rows.line_num + 1
                if len(batch) == _SEARCH_ROWS or batch_characters > _SEARCH_CHARACTERS:
                    if (bad := _bad_value(batch, columns, typed, dialect)) is not None:
                        return bad
                    batch, batch_characters = [], 0
        except csv.Error as error:
            fault = MalformedFile(_explain_csv_error(error), start)
        except _RowTooLong:
            fault = MalformedFile(f"{_TOO_LONG}, or a quotation mark is never closed", start)
        return _bad_value(batch, columns, typed, dialect) or fault


class _BoundedLines:
    """Lines for Python's csv reader, which would keep a row of any length in memory.

    Attributes:
        in_row: characters since the caller last reset it to 0.
    """

    def __init__(self, lines: io.TextIOWrapper) -> None:
        self._lines = lines
        self.in_row = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._lines.readline(LARGE_BLOCK):
            self.in_row += len(line)
            # An incomplete line has the length of a block, and more follows.
            if self.in_row >= LARGE_BLOCK:
                raise _RowTooLong
            yield line


def _bad_value(
    rows: list[tuple[int, list[str]]], columns: Sequence[str], types: dict[int, pa.DataType],
    dialect: Dialect,
) -> MalformedFile | None:  # fmt: skip
    """Return the first value that does not fit its column."""
    found: MalformedFile | None = None
    for index, kind in types.items():

        def fit(
            batch: Sequence[tuple[int, list[str]]], at: int = index, to: pa.DataType = kind
        ) -> bool:
            values = [row[at] for _, row in batch]
            if columns[at] in dialect.declared:
                return _arrow_converts(values, to, dialect)
            as_text = [None if value in dialect.nulls else value for value in values]
            return parse(pa.array(as_text, TEXT), to) is not None

        if rows and not fit(rows):
            line, row = rows[find_first_bad(rows, fit)]
            if found is None or found.line is None or line < found.line:
                value = shorten_middle(repr(row[index]))
                why = f"column {columns[index]!r}: {value} is not a {format_type(kind)}"
                if columns[index] not in dialect.declared and _arrow_converts(
                    [row[index]], kind, dialect
                ):
                    why += (
                        " that would be written so; to convert such values, declare the column's "
                        "type in the parameter types"
                    )
                found = MalformedFile(why, line)
    return found


def _explain_csv_error(error: csv.Error) -> str:
    """Rewrite a message of Python's csv reader to say what to do."""
    if "end of data" in str(error):
        return "a quotation mark is never closed"
    if "expected after" in str(error):
        return (
            "text follows the quotation mark that closes a value (inside a value it is written "
            'twice, ""; a file that writes \\" is read with the parameter escape)'
        )
    return str(error)


def _arrow_converts(values: list[str], kind: pa.DataType, dialect: Dialect) -> bool:
    """Return whether pyarrow itself converts the values to a type."""
    text = io.StringIO(newline="")
    # With a second column, since pyarrow skips a row that is one empty value.
    csv.writer(text, delimiter=dialect.delimiter, quoting=csv.QUOTE_ALL).writerows(
        (value, "") for value in values
    )
    try:
        table = arrow_csv.read_csv(
            io.BytesIO(text.getvalue().encode()),
            arrow_csv.ReadOptions(column_names=["value", "rest"]),
            arrow_csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True),
            _convert_options(
                {"value": kind, "rest": TEXT}, replace(dialect, declared=frozenset(["value"]))
            ),
        )
    except pa.ArrowInvalid:
        return False
    return not pa.types.is_decimal(kind) or is_valid(table["value"])


def _raise_if_row_is_long(error: Exception, dialect: Dialect) -> None:
    if "straddling" in str(error) and dialect.block < LARGE_BLOCK:
        raise LongRow from error


def _arrow_error(error: Exception) -> MalformedFile:
    """Return pyarrow's message as an error, for a fault that no row explains."""
    if "straddling" in str(error):
        return MalformedFile(_TOO_LONG)
    return MalformedFile(re.sub(r"^CSV parse error: ", "", str(error)))
