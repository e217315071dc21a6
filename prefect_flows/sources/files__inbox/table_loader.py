"""Loads the new files of one table; quarantines bad files and replaces changed ones.

Each file is loaded completely or not at all.
"""

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
from prefect_flows.sources.files__inbox.file_errors import LongRow, MalformedFile, UnknownColumns
from prefect_flows.sources.files__inbox.inbox import Content, File, Inbox
from prefect_flows.sources.files__inbox.limits import refuse_far_times, refuse_wide_rows
from prefect_flows.sources.files__inbox.staged_files import ParsedFile, Part, Spool

log = logging.getLogger(__name__)

CSV, JSON, PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), (".parquet",)


@dataclass(frozen=True)
class Options:
    """Which files to read, and how.

    Attributes:
        declared: declared column types, which are not inferred.
        min_age_seconds: files changed more recently than this wait for the next run.
        full_refresh: load files again that were loaded before, replacing their rows.
        retry_quarantined: read quarantined files again even if they did not change.
    """

    dialect: csv_files.Dialect
    declared: Types
    min_age_seconds: float
    full_refresh: bool
    retry_quarantined: bool


@dataclass
class TableLoader:
    """Loads one table's files.

    Attributes:
        types: known types of the table's columns.
        entries: ledger rows, one per file.
        replaces: whether this load replaces rows of earlier ones, file by file.
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
        """Load all new files, and yield their rows as Parquet files.

        Files that replace earlier rows come first, since the write disposition has to be known
        before the first rows.

        Raises:
            IngestionError: the inbox cannot be read.
        """
        known = ledger.read_known_files(self.pipeline, self.table)
        new = [file for file in self.files if self._is_new(file, known.get(file.name))]
        new.sort(key=lambda file: not known.get(file.name, ledger.FileStatus()).has_rows)
        spool = Spool(self.folder)
        for file in new:
            self._load_file(file, known.get(file.name, ledger.FileStatus()), spool)
            yield from spool.take_finished_parts()
        yield from spool.take_finished_parts(last=True)

    def _is_new(self, file: File, known: ledger.FileStatus | None) -> bool:
        age = (datetime.now(UTC) - file.modified_at).total_seconds()
        if age < self.options.min_age_seconds:
            log.info("%s: changed %.1f s ago; left for the next run", file.name, age)
            return False
        if known is None or known.stamp != file.stamp or known.is_being_replaced:
            return True
        if known.is_quarantined:
            return self.options.retry_quarantined or self.options.full_refresh
        return self.options.full_refresh

    def _load_file(self, file: File, known: ledger.FileStatus, spool: Spool) -> None:
        if file.refusal is not None:
            self._quarantine(file, MalformedFile(file.refusal))
            return
        content = self.inbox.open_content(file, self.folder)
        fault, parsed = None, ParsedFile()
        with self.inbox.translate_errors("read", file.name):
            try:
                parsed = self._read(file, content, spool)
            except FileNotFoundError:
                log.info("%s: gone since it was listed", file.name)
                return
            except MalformedFile as error:
                fault = error
        if not self.inbox.is_as_listed(file):
            parsed.discard()
            log.info("%s: changed while it was read; left for the next run", file.name)
        elif fault is not None:
            self._quarantine(file, fault)
        elif known.has_rows and not self._has_changed(content, known):
            parsed.discard()
            self._record(file, ledger.UNCHANGED, digest=content.digest)
        else:
            if known.has_rows:
                ledger.mark_replaced(self.pipeline, self.table, [file.name])
                self.replaces = True
            self._record(file, ledger.LOADED, digest=content.digest, rows=parsed.rows)
            spool.add(parsed)

    def _has_changed(self, content: Content, known: ledger.FileStatus) -> bool:
        """Return whether the content has to be loaded, although the file was loaded before."""
        changed = known.digest != content.digest
        return changed or known.is_being_replaced or self.options.full_refresh

    def _read(self, file: File, content: Content, spool: Spool) -> ParsedFile:
        """Read the rows of a file, with larger blocks if a row is too long.

        Raises:
            MalformedFile: the file is refused.
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
            batch_types: Types = {}
            try:
                parsed = spool.parse(self._with_own_columns(batches(self.types), file, batch_types))
            except UnknownColumns:
                continue
            self.types |= batch_types
            return parsed
        raise MalformedFile("it was changed while it was read")

    def _with_own_columns(
        self, batches: Iterator[pa.RecordBatch], file: File, batch_types: Types
    ) -> Iterator[pa.RecordBatch]:
        """Add file name, row number and load id to the rows; collect types in `batch_types`."""
        row = 1
        for batch in batches:
            with_values = {
                name: values
                for name, values in zip(batch.schema.names, batch.columns, strict=True)
                if not pa.types.is_null(values.type)
            }
            batch_types |= {name: values.type for name, values in with_values.items()}
            refuse_many_columns(len((self.types | batch_types).keys() - {FILE, ROW}))
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

    def _quarantine(self, file: File, fault: MalformedFile) -> None:
        self._record(file, ledger.QUARANTINED, line=fault.line, reason=fault.why)
        at = f", line {fault.line}" if fault.line is not None else ""
        reject(self.table, where=f"{self.inbox.url}/{file.name}{at}", why=fault.why)

    def _record(self, file: File, status: str, **facts: object) -> None:
        self.entries.append(ledger.build_entry(self.table, file, status, **facts))  # type: ignore[arg-type]


def _readers(
    file: File, content: Content, names: Names, dialect: csv_files.Dialect, declared: Types
) -> list[Callable[[Types], Iterator[pa.RecordBatch]]]:
    """Return the ways to read a file, by its extension; the first that succeeds is used.

    Each takes the table's column types, and raises `UnknownColumns` if it needs other ones.

    Raises:
        MalformedFile: no reader supports the extension.
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
            return read_csv(_merge_types(types, found, declared))

        return [read_csv, guess_csv, infer_csv]
    if file.suffix in JSON:

        def read_json(types: Types) -> Iterator[pa.RecordBatch]:
            return json_files.read(content, names, types, declared)

        def infer_json(types: Types) -> Iterator[pa.RecordBatch]:
            known = declared | types
            return read_json(known | json_files.infer(content, names, known))

        return [read_json, infer_json]
    if file.suffix in PARQUET and not file.is_compressed:
        # Parquet holds its own schema.
        return [lambda types: parquet_files.read(content, names, types)]
    endings = ", ".join((*CSV, *JSON, *PARQUET))
    raise MalformedFile(
        f"unsupported extension, expected one of {endings} (the text ones also with .gz)"
    )


def _merge_types(types: Types, found: Types, declared: Types) -> Types:
    """Merge the table's types with those of new columns; declared types override inferred ones."""
    return types | found | {name: declared[name] for name in declared.keys() & found}
