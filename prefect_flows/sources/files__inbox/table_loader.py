"""The new files of one table, taken one after the other: whole, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import dlt
import numpy as np
import pyarrow as pa

from prefect_flows.ingest.source_load import reject
from prefect_flows.sources.files__inbox import csv_files, json_files, ledger, parquet_files
from prefect_flows.sources.files__inbox.column_names import (
    FILE,
    LOAD_ID,
    ROW,
    Names,
    refuse_many_columns,
)
from prefect_flows.sources.files__inbox.column_types import BIGINT, TEXT, Types
from prefect_flows.sources.files__inbox.file_errors import LongRow, Malformed, UnknownColumns
from prefect_flows.sources.files__inbox.inbox import Content, File, Inbox
from prefect_flows.sources.files__inbox.limits import refuse_far_times, refuse_wide_rows
from prefect_flows.sources.files__inbox.staged_files import ParsedFile, Part, Spool

log = logging.getLogger(__name__)

CSV, JSON, PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)


@dataclass(frozen=True)
class Options:
    """How files are read, and which.

    Attributes:
        declared: types of columns that are not to be found in the files.
        min_age_seconds: a file that was changed later than this long ago is left for the next run.
        again: files are taken again that were loaded before, in place of their rows.
        quarantined_again: files are looked at again that were refused as they are.
    """

    dialect: csv_files.Dialect
    declared: Types
    min_age_seconds: float
    again: bool
    quarantined_again: bool


@dataclass
class TableLoader:
    """One table's part of a load.

    Attributes:
        types: of the table's columns, as far as they are known.
        entries: rows of the ledger, one a file.
        replaces: whether rows of earlier loads are replaced, file by file.
    """

    table: str
    inbox: Inbox
    files: list[File]
    options: Options
    pipeline: dlt.Pipeline
    types: Types
    normalize: Callable[[str], str]
    load_id: str
    folder: Path
    entries: list[dict[str, object]] = field(default_factory=list)
    replaces: bool = False

    def parts(self) -> Iterator[Part]:
        """Take all new files; their rows, as Parquet files.

        Files that replace others come first, so that what is asked of the whole table's load is
        known before its first rows.

        Raises:
            IngestionError: the inbox cannot be read.
        """
        known = ledger.known_files(self.pipeline, self.table)
        new = [file for file in self.files if self._is_new(file, known.get(file.name))]
        new.sort(key=lambda file: not known.get(file.name, ledger.FileStatus()).has_rows)
        spool = Spool(self.folder)
        for file in new:
            self._take(file, known.get(file.name, ledger.FileStatus()), spool)
            yield from spool.finished()
        yield from spool.finished(last=True)

    def _is_new(self, file: File, known: ledger.FileStatus | None) -> bool:
        age = (datetime.now(UTC) - file.modified_at).total_seconds()
        if age < self.options.min_age_seconds:
            log.info("%s: changed %.1f s ago; left for the next run", file.name, age)
            return False
        if known is None or known.stamp != file.stamp or known.is_being_replaced:
            return True
        if known.is_quarantined:
            return self.options.quarantined_again or self.options.again
        return self.options.again

    def _take(self, file: File, known: ledger.FileStatus, spool: Spool) -> None:
        if file.refusal is not None:
            self._quarantine(file, Malformed(file.refusal))
            return
        content = self.inbox.content(file, self.folder)
        fault, taken = None, ParsedFile()
        with self.inbox.said("read", file.name):
            try:
                taken = self._read(file, content, spool)
            except FileNotFoundError:
                log.info("%s: gone since it was listed", file.name)
                return
            except Malformed as error:
                fault = error
        if not self.inbox.is_as_listed(file):
            taken.discard()
            log.info("%s: changed while it was read; left for the next run", file.name)
        elif fault is not None:
            self._quarantine(file, fault)
        elif known.has_rows and not self._is_other(content, known):
            taken.discard()
            self._enter(file, ledger.UNCHANGED, digest=content.digest)
        else:
            if known.has_rows:
                ledger.mark_replaced(self.pipeline, self.table, [file.name])
                self.replaces = True
            self._enter(file, ledger.LOADED, digest=content.digest, rows=taken.rows)
            spool.keep(taken)

    def _is_other(self, content: Content, known: ledger.FileStatus) -> bool:
        """Whether the content is not that which was loaded, or is to be loaded all the same."""
        changed = known.digest != content.digest
        return changed or known.is_being_replaced or self.options.again

    def _read(self, file: File, content: Content, spool: Spool) -> ParsedFile:
        """The rows of a file; a column that is new has its type found first.

        Raises:
            Malformed: the file is not taken.
        """
        try:
            return self._read_with(self.options.dialect, file, content, spool)
        except LongRow:
            larger = replace(self.options.dialect, block=csv_files.LARGE_BLOCK)
            return self._read_with(larger, file, content, spool)

    def _read_with(
        self, dialect: csv_files.Dialect, file: File, content: Content, spool: Spool
    ) -> ParsedFile:
        names = Names(self.normalize)
        for batches in _readers(file, content, names, dialect, self.options.declared):
            seen: Types = {}
            try:
                taken = spool.take(self._with_own_columns(batches(self.types), file, seen))
            except UnknownColumns:
                continue
            self.types |= seen
            return taken
        raise Malformed("it was changed while it was read")

    def _with_own_columns(
        self, batches: Iterator[pa.RecordBatch], file: File, seen: Types
    ) -> Iterator[pa.RecordBatch]:
        """The rows with where they are from; `seen` is given the types of their columns."""
        row = 1
        for batch in batches:
            with_values = {
                name: values
                for name, values in zip(batch.schema.names, batch.columns, strict=True)
                if not pa.types.is_null(values.type)
            }
            seen |= {name: values.type for name, values in with_values.items()}
            refuse_many_columns(len((self.types | seen).keys() - {FILE, ROW}))
            if not (count := len(batch)):
                continue
            for name, values in with_values.items():
                refuse_far_times(name, values, row)
            if self.pipeline.destination.destination_name == "postgres":
                refuse_wide_rows(list(with_values.values()), row)
            yield pa.RecordBatch.from_arrays(
                [
                    *with_values.values(),
                    pa.repeat(file.name, count),
                    pa.array(np.arange(row, row + count)),
                    pa.repeat(self.load_id, count),
                ],
                schema=pa.schema(
                    [
                        *((name, values.type) for name, values in with_values.items()),
                        pa.field(FILE, TEXT, nullable=False),
                        pa.field(ROW, BIGINT),
                        pa.field(LOAD_ID, TEXT, nullable=False),
                    ]
                ),
            )
            row += count

    def _quarantine(self, file: File, fault: Malformed) -> None:
        self._enter(file, ledger.QUARANTINED, line=fault.line, reason=fault.why)
        at = f", line {fault.line}" if fault.line is not None else ""
        reject(self.table, where=f"{self.inbox.url}/{file.name}{at}", why=fault.why)

    def _enter(self, file: File, status: str, **facts: object) -> None:
        self.entries.append(ledger.entry(self.table, file, status, **facts))  # type: ignore[arg-type]


def _readers(
    file: File, content: Content, names: Names, dialect: csv_files.Dialect, declared: Types
) -> list[Callable[[Types], Iterator[pa.RecordBatch]]]:
    """How a file is read, by its ending: the first way that knows its columns' types is the one.

    Each is given the types of the table's columns, and raises `UnknownColumns` where others are
    needed.

    Raises:
        Malformed: no reader knows the ending.
    """
    if file.suffix in CSV:
        if file.suffix == ".tsv":
            dialect = replace(dialect, delimiter="\t")

        def read_csv(types: Types) -> Iterator[pa.RecordBatch]:
            return csv_files.read(content, names, types, dialect)

        def guess_csv(types: Types) -> Iterator[pa.RecordBatch]:
            return csv_files.read_guessing(content, names, declared | types, dialect)

        def infer_csv(types: Types) -> Iterator[pa.RecordBatch]:
            found = csv_files.infer(content, names, types, dialect)
            return read_csv(_known(types, found, declared))

        return [read_csv, guess_csv, infer_csv]
    if file.suffix in JSON:

        def read_json(types: Types) -> Iterator[pa.RecordBatch]:
            return json_files.read(content, names, types, declared)

        def infer_json(types: Types) -> Iterator[pa.RecordBatch]:
            known = declared | types
            return read_json(known | json_files.infer(content, names, known))

        return [read_json, infer_json]
    if file.suffix in PARQUET and not file.is_compressed:
        # It says itself what its columns are.
        return [lambda types: parquet_files.read(content, names, types)]
    endings = ", ".join((*CSV, *JSON, *PARQUET))
    raise Malformed(f"its name ends in none of {endings} (the text ones also with .gz)")


def _known(types: Types, found: Types, declared: Types) -> Types:
    """The table's types, and those of the columns that were found: as declared, where they are."""
    return types | found | {name: declared[name] for name in declared.keys() & found}
