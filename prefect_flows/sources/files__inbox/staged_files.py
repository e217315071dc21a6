"""Stages rows in local Parquet files, which dlt moves into its load package unchanged.

A file of the inbox is read once, and its rows count only after its end was reached: a file whose
last line is bad leaves nothing. Small files share a Parquet file and a large one has its own, so
memory holds at most one row group per table.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Size of a row group, in memory.
ROW_GROUP_BYTES = 8 << 20
# Size of a Parquet file. The files of a table are loaded in parallel.
PART_BYTES = 32 << 20
# Columns that repeat one value, which Parquet stores in a dictionary.
_DICTIONARY_COLUMNS = ["_file", "_dlt_load_id"]


@dataclass(frozen=True)
class Part:
    """A complete Parquet file."""

    path: Path
    rows: int
    schema: pa.Schema


class _Writer:
    """Writes Parquet files one after the other; it starts a new one when a column is added."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.parts: list[Part] = []
        self._open: pq.ParquetWriter | None = None
        self._schema = pa.schema([])
        self._path = folder
        self._rows = self._bytes = 0

    def write(self, batches: list[pa.RecordBatch]) -> None:
        """Write a row group; a column that a batch does not have is null there."""
        tables = [self._schema.empty_table(), *(pa.Table.from_batches([one]) for one in batches)]
        table = pa.concat_tables(tables, promote_options="default")
        if table.schema != self._schema:
            self.close()
            self._schema = table.schema
        if self._open is None:
            self._path = self._folder / f"{uuid.uuid4().hex}.parquet"
            self._open = pq.ParquetWriter(
                self._path, self._schema, compression="snappy", use_dictionary=_DICTIONARY_COLUMNS
            )
        self._open.write_table(table, row_group_size=len(table))
        self._rows += len(table)
        self._bytes += table.nbytes
        if self._bytes >= PART_BYTES:
            self.close()

    def close(self) -> None:
        """Finish the open file."""
        if self._open is not None:
            self._open.close()
            self.parts.append(Part(self._path, self._rows, self._schema))
            self._open, self._rows, self._bytes = None, 0, 0

    def discard(self) -> None:
        """Delete all files."""
        self.close()
        for part in self.parts:
            part.path.unlink()
        self.parts = []


@dataclass
class ParsedFile:
    """All rows of one inbox file: in memory, or in Parquet files of its own if there are many."""

    rows: int = 0
    batches: list[pa.RecordBatch] = field(default_factory=list)
    writer: _Writer | None = None

    def discard(self) -> None:
        """Drop the rows and delete the files."""
        self.batches = []
        if self.writer is not None:
            self.writer.discard()


class Spool:
    """Collects the rows of one table in Parquet files.

    Args:
        folder: existing folder for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared = _Writer(folder)
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._finished: list[Part] = []

    def parse(self, batches: Iterable[pa.RecordBatch]) -> ParsedFile:
        """Read an inbox file to its end; an error on the way discards its rows."""
        parsed, size = ParsedFile(), 0
        with ExitStack() as on_error:
            on_error.callback(parsed.discard)
            for batch in batches:
                parsed.rows += len(batch)
                parsed.batches.append(batch)
                size += batch.nbytes
                if size >= ROW_GROUP_BYTES:
                    if parsed.writer is None:
                        parsed.writer = _Writer(self._folder)
                    parsed.writer.write(parsed.batches)
                    parsed.batches, size = [], 0
            on_error.pop_all()
        return parsed

    def add(self, parsed: ParsedFile) -> None:
        """Add the rows of a parsed file to the load."""
        if parsed.writer is not None:
            if parsed.batches:
                parsed.writer.write(parsed.batches)
            parsed.writer.close()
            self._finished += parsed.writer.parts
            return
        self._held += parsed.batches
        self._held_bytes += sum(batch.nbytes for batch in parsed.batches)
        if self._held_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def take_finished_parts(self, *, last: bool = False) -> Iterator[Part]:
        """Yield the Parquet files that are complete, each once."""
        if last:
            self._flush()
            self._shared.close()
        self._finished += self._shared.parts
        self._shared.parts = []
        parts, self._finished = self._finished, []
        yield from parts

    def _flush(self) -> None:
        if self._held:
            self._shared.write(self._held)
            self._held, self._held_bytes = [], 0
