"""Files that others put into a folder or a bucket: CSV, JSON Lines and Parquet, new ones only.

A file is read once, into Parquet on this machine, and dlt loads that as it is. The ledger `_files`
is part of the same load package, so rows and ledger become visible together; rows of a load that
never completed are deleted by the core before the next one. Together: each file exactly once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.metrics import DataWriterMetrics
from dlt.common.schema.typing import TTableSchemaColumns
from dlt.extract import DltResource
from dlt.extract.extractors import ImportFileMeta
from dlt.extract.items import DataItemWithMeta

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.ingest.arguments import located
from prefect_flows.sources.files__inbox import column_types, ledger
from prefect_flows.sources.files__inbox.column_names import FILE, in_latin_letters
from prefect_flows.sources.files__inbox.csv_files import Dialect
from prefect_flows.sources.files__inbox.inbox import File, Inbox, pattern
from prefect_flows.sources.files__inbox.staged_files import Part
from prefect_flows.sources.files__inbox.table_loader import Options, TableLoader

# dlt's own tables.
_DLTS = "_dlt"


@dlt.source(
    name="files__inbox",
    schema_contract={"tables": "evolve", "columns": "evolve", "data_type": "freeze"},
)
def files__inbox(
    url: str,
    tables: dict[str, str] | None = None,
    types: dict[str, dict[str, str]] | None = None,
    delimiter: str = ",",
    nulls: list[str] | None = None,
    escape: str | None = None,
    min_age_seconds: float = 5,
    retry_quarantined: bool = False,
    full_refresh: bool = False,
    storage_options: dlt.TSecretStrValue | None = None,
) -> list[DltResource]:
    """The files of an inbox, as a table for each kind.

    Args:
        url: of the inbox, for fsspec: a folder, `s3://bucket/folder`, `gs://bucket/folder`; a
            relative path is one of the project.
        tables: glob pattern of each table's files, below the inbox; by default a file belongs to
            the table named as its first folder, or as itself.
        types: types of columns by table, for those that the files do not tell: a postal code is
            text, an amount decimal(18,2). They hold for columns that the table does not have yet.
            Values of these columns are converted however they are written: `007` as bigint is 7.
        delimiter: between the values of CSV files; that of `.tsv` is the tab.
        nulls: what stands for null in CSV files beside nothing, such as NA.
        escape: the character of CSV files that makes the one after it an ordinary one, such as a
            backslash before quotation marks within a value.
        min_age_seconds: files changed later than this long ago are still being written.
        retry_quarantined: look again at files that were refused and have not changed.
        full_refresh: load every file again, in place of the rows that it gave before.
        storage_options: options of fsspec's file system, as a JSON object.

    Raises:
        ConfigurationError: the URL, a pattern, a type or the options are not usable.
        IngestionError: the inbox cannot be read.
    """
    inbox = Inbox(located(url), storage_options)
    declared = column_types.declared(types)
    dialect = _dialect(delimiter, nulls, escape)
    takings: dict[str, TableLoader | None] = {}
    resources = []
    by_table = _by_table(inbox.files(), tables)
    nameless = by_table.pop(ledger.NO_TABLE, [])
    for table, files in by_table.items():
        options = Options(
            replace(dialect, declared=frozenset(declared.get(table, {}))),
            declared.get(table, {}),
            min_age_seconds,
            full_refresh,
            retry_quarantined,
        )
        takings[table] = None
        resources.append(_rows(table, inbox, files, options, takings))
    options = Options(dialect, {}, min_age_seconds, full_refresh, retry_quarantined)
    return [*resources, _ledger(takings, inbox, nameless, options)]


def _dialect(delimiter: str, nulls: list[str] | None, escape: str | None) -> Dialect:
    for name, value in (("delimiter", delimiter), ("escape", escape)):
        if value is not None and not (len(value) == 1 and value.isascii() and value not in '"\r\n'):
            raise ConfigurationError(
                f"{value!r} cannot be the {name} of CSV files.",
                where=f"parameter {name}",
                fix="give one ASCII character that is neither a quotation mark nor a line's end",
            )
    if delimiter == escape:
        raise ConfigurationError(
            f"{delimiter!r} cannot be both delimiter and escape of CSV files.",
            where="parameter escape",
            fix="leave it out, unless the files have a character that escapes others",
        )
    return Dialect(delimiter, ("", *(nulls or ())), escape)


def _by_table(files: list[File], tables: Mapping[str, str] | None) -> dict[str, list[File]]:
    """The files of each table; a table whose pattern finds none has none.

    Files whose names give no table are those of `ledger.NO_TABLE`, each with its refusal.
    """
    naming = dlt.current.source_schema().naming
    grouped: dict[str, list[File]] = {}
    if tables is None:
        for file in files:
            written = in_latin_letters(file.default_table)
            has_name = any(character.isalnum() for character in written)
            table = naming.normalize_table_identifier(written) if has_name else ""
            if table and table != ledger.TABLE and not table.startswith(_DLTS):
                grouped.setdefault(table, []).append(file)
                continue
            why = f"{table!r}, which the load itself uses" if table else "empty"
            renamed = f"the name of its table would be {why}; rename it, or give parameter tables"
            refused = replace(file, refusal=file.refusal or renamed)
            grouped.setdefault(ledger.NO_TABLE, []).append(refused)
        return grouped
    for table, glob in tables.items():
        if table != naming.normalize_table_identifier(table) or table.startswith("_"):
            raise ConfigurationError(
                f"{table!r} cannot be the name of a table.",
                where="parameter tables",
                fix="write it in lower case, with letters, digits and single underscores",
            )
        means = pattern(glob)
        grouped[table] = [file for file in files if means.fullmatch(file.name)]
    return grouped


def _rows(
    table: str,
    inbox: Inbox,
    files: list[File],
    options: Options,
    takings: dict[str, TableLoader | None],
) -> DltResource:
    def rows() -> Iterator[Any]:
        taking = _taking(table, inbox, files, options)
        for part in taking.parts():
            yield _imported(part, replaces=taking.replaces)
            part.path.unlink()  # dlt has a link of its own
        takings[table] = taking

    return dlt.resource(rows, name=table, write_disposition="append", merge_key=FILE)


def _taking(table: str, inbox: Inbox, files: list[File], options: Options) -> TableLoader:
    schema = dlt.current.source_schema()
    pipeline = dlt.current.pipeline()
    folder = Path(pipeline.working_dir) / "spool" / (table or "none")
    folder.mkdir(parents=True, exist_ok=True)
    return TableLoader(
        table, inbox, files, options, pipeline,
        types=column_types.of_table(schema.tables.get(table, {}).get("columns", {})),
        normalize=schema.naming.normalize_identifier,
        load_id=dlt.current.load_package_state()["load_id"],
        folder=folder,
    )  # fmt: skip


def _imported(part: Part, *, replaces: bool) -> DataItemWithMeta:
    """A Parquet file that dlt takes as it is; its schema comes with it, and what dlt needs told."""
    columns: TTableSchemaColumns = {
        # dlt would have every time in UTC.
        field.name: {"name": field.name, "data_type": "timestamp", "timezone": False}
        for field in part.schema
        if field.type == column_types.DATETIME
    }
    hints = dlt.mark.make_hints(columns=columns)
    if replaces:
        # All in one transaction: delete the rows of these files, insert the new ones.
        hints |= dlt.mark.make_hints(write_disposition="merge")
    metrics = DataWriterMetrics(str(part.path), part.rows, 0, 0, 0)
    return DataItemWithMeta(
        ImportFileMeta(str(part.path), metrics, "parquet", hints, create_table_variant=False),
        part.schema.empty_table(),
    )


def _ledger(
    takings: Mapping[str, TableLoader | None], inbox: Inbox, nameless: list[File], options: Options
) -> DltResource:
    def entries() -> Iterator[pa.Table | None]:
        # After the rows: dlt takes resources in their order, unless it is told to alternate.
        while not all(takings.values()):
            yield None
        refusing = _taking(ledger.NO_TABLE, inbox, nameless, options)
        deque(refusing.parts(), maxlen=0)
        all_of_them = [taking for taking in (*takings.values(), refusing) if taking]
        rows = [entry for taking in all_of_them for entry in taking.entries]
        # Without a row too: an inbox that never had a file has a ledger.
        yield pa.Table.from_pylist(rows, ledger.SCHEMA)

    return dlt.resource(entries, name=ledger.TABLE, write_disposition="append")
