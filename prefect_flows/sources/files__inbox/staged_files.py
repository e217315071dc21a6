"""Rows on their way: Parquet files on this machine, which dlt moves into its load package as is.

A file of the inbox is read once, and what it gave counts only when its end was reached: a file
whose last line is bad leaves nothing. Small files share a Parquet file, a large one has its own, so
memory holds no more than a row group of each table.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Bytes of rows in memory, which become one row group.
ROW_GROUP_BYTES = 8 << 20
# Bytes of rows in one Parquet file. The files of a table are loaded side by side.
PART_BYTES = 32 << 20
# Columns that repeat one value.
_REPEATING = ["_file", "_dlt_load_id"]


@dataclass(frozen=True)
class Part:
    """A finished Parquet file."""

    path: Path
    rows: int
    schema: pa.Schema


class _Writer:
    """Parquet files, one after the other; another one where a column comes in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.parts: list[Part] = []
        self._open: pq.ParquetWriter | None = None
        self._schema = pa.schema([])
        self._path = folder
        self._rows = self._bytes = 0

    def write(self, batches: list[pa.RecordBatch]) -> None:
        """Write a row group; a column that some of the batches do not have is null there."""
        tables = [self._schema.empty_table(), *(pa.Table.from_batches([one]) for one in batches)]
        table = pa.concat_tables(tables, promote_options="default")
        if table.schema != self._schema:
            self.close()
            self._schema = table.schema
        if self._open is None:
            self._path = self._folder / f"{uuid.uuid4().hex}.parquet"
            self._open = pq.ParquetWriter(
                self._path, self._schema, compression="snappy", use_dictionary=_REPEATING
            )
        self._open.write_table(table, row_group_size=len(table))
        self._rows += len(table)
        self._bytes += table.nbytes
        if self._bytes >= PART_BYTES:
            self.close()

    def close(self) -> None:
        """Finish the file that is open."""
        if self._open is not None:
            self._open.close()
            self.parts.append(Part(self._path, self._rows, self._schema))
            self._open, self._rows, self._bytes = None, 0, 0

    def discard(self) -> None:
        """Leave nothing of them."""
        self.close()
        for part in self.parts:
            part.path.unlink()
        self.parts = []


@dataclass
class ParsedFile:
    """All rows of one file of the inbox: in memory, or in files of their own when they are many."""

    rows: int = 0
    held: list[pa.RecordBatch] = field(default_factory=list)
    own: _Writer | None = None

    def discard(self) -> None:
        """Leave nothing of them."""
        self.held = []
        if self.own is not None:
            self.own.discard()


class Spool:
    """The rows of one table.

    Args:
        folder: where the Parquet files are made; exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shared = _Writer(folder)
        self._held: list[pa.RecordBatch] = []
        self._held_bytes = 0
        self._finished: list[Part] = []

    def take(self, batches: Iterable[pa.RecordBatch]) -> ParsedFile:
        """Read a file of the inbox to its end; an error on the way leaves nothing of it."""
        taken, size = ParsedFile(), 0
        with ExitStack() as until_its_end:
            until_its_end.callback(taken.discard)
            for batch in batches:
                taken.rows += len(batch)
                taken.held.append(batch)
                size += batch.nbytes
                if size >= ROW_GROUP_BYTES:
                    if taken.own is None:
                        taken.own = _Writer(self._folder)
                    taken.own.write(taken.held)
                    taken.held, size = [], 0
            until_its_end.pop_all()
        return taken

    def keep(self, taken: ParsedFile) -> None:
        """Make the rows of a file part of the load."""
        if taken.own is not None:
            if taken.held:
                taken.own.write(taken.held)
            taken.own.close()
            self._finished += taken.own.parts
            return
        self._held += taken.held
        self._held_bytes += sum(batch.nbytes for batch in taken.held)
        if self._held_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def finished(self, *, last: bool = False) -> Iterator[Part]:
        """The Parquet files that are whole, each once."""
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
