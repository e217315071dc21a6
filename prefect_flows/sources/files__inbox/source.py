"""dlt source for files in a folder or bucket: loads new CSV, JSON Lines and Parquet files once.

Each file is read once into local Parquet files, which dlt loads unchanged. The ledger `_files` is
part of the same load package, so rows and ledger become visible together; rows of a load that never
completed are deleted before the next one. As a result, each file is loaded exactly once.
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
from prefect_flows.ingest.arguments import resolve_location
from prefect_flows.sources.files__inbox import column_types, ledger
from prefect_flows.sources.files__inbox.column_names import FILE, transliterate
from prefect_flows.sources.files__inbox.csv_files import Dialect
from prefect_flows.sources.files__inbox.inbox import File, Inbox, compile_glob
from prefect_flows.sources.files__inbox.staged_files import Part
from prefect_flows.sources.files__inbox.table_loader import Options, TableLoader

# Prefix of dlt's own tables.
_DLT_PREFIX = "_dlt"
# `millrace check models` reads it. The files decide what other tables there are.
DECLARED_TABLES = {ledger.TABLE: ledger.SCHEMA}


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
    """The files of an inbox, one table for each kind of file.

    Args:
        url: fsspec URL of the inbox: a folder, `s3://bucket/folder`, `gs://bucket/folder`; a
            relative path starts at the project folder.
        tables: glob pattern of each table's files, below the inbox; by default a file belongs to
            the table named after its first folder, or after itself.
        types: column types by table, for what the files do not tell: a postal code is text, an
            amount decimal(18,2). They apply to columns that the table does not have yet. Values of
            these columns are converted from any format: `007` as bigint is 7.
        delimiter: character between the values of CSV files; `.tsv` files use the tab.
        nulls: further values that mean null in CSV files, such as NA.
        escape: escape character of CSV files, such as a backslash before quotation marks in a
            value.
        min_age_seconds: files changed more recently than this may still be being written, and wait
            for the next run.
        retry_quarantined: read quarantined files again even if they did not change.
        full_refresh: load every file again, replacing its earlier rows.
        storage_options: options of the fsspec file system, as a JSON object.

    Raises:
        ConfigurationError: the URL, a pattern, a type or an option is invalid.
        IngestionError: the inbox cannot be read.
    """
    inbox = Inbox(resolve_location(url), storage_options)
    declared = column_types.parse_declared_types(types)
    dialect = _dialect(delimiter, nulls, escape)
    loaders: dict[str, TableLoader | None] = {}
    resources = []
    by_table = _group_by_table(inbox.list_files(), tables)
    unassigned = by_table.pop(ledger.NO_TABLE, [])
    for table, files in by_table.items():
        options = Options(
            replace(dialect, declared=frozenset(declared.get(table, {}))),
            declared.get(table, {}),
            min_age_seconds,
            full_refresh,
            retry_quarantined,
        )
        loaders[table] = None
        resources.append(_rows_resource(table, inbox, files, options, loaders))
    options = Options(dialect, {}, min_age_seconds, full_refresh, retry_quarantined)
    return [*resources, _ledger_resource(loaders, inbox, unassigned, options)]


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


def _group_by_table(files: list[File], tables: Mapping[str, str] | None) -> dict[str, list[File]]:
    """Group files by table; a table whose pattern matches nothing has an empty list.

    Files that belong to no table are under `ledger.NO_TABLE`, each with its refusal.
    """
    naming = dlt.current.source_schema().naming
    grouped: dict[str, list[File]] = {}
    if folders := [file for file in files if file.is_folder]:
        grouped[ledger.NO_TABLE] = folders
        files = [file for file in files if not file.is_folder]
    if tables is None:
        for file in files:
            latin_name = transliterate(file.default_table)
            has_name = any(character.isalnum() for character in latin_name)
            table = naming.normalize_table_identifier(latin_name) if has_name else ""
            if table and table != ledger.TABLE and not table.startswith(_DLT_PREFIX):
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
        regex = compile_glob(glob)
        grouped[table] = [file for file in files if regex.fullmatch(file.name)]
    return grouped


def _rows_resource(
    table: str,
    inbox: Inbox,
    files: list[File],
    options: Options,
    loaders: dict[str, TableLoader | None],
) -> DltResource:
    def rows() -> Iterator[Any]:
        loader = _build_loader(table, inbox, files, options)
        for part in loader.parts():
            yield _import_item(part, replaces=loader.replaces)
            part.path.unlink()  # dlt has a link of its own
        loaders[table] = loader

    return dlt.resource(rows, name=table, write_disposition="append", merge_key=FILE)


def _build_loader(table: str, inbox: Inbox, files: list[File], options: Options) -> TableLoader:
    schema = dlt.current.source_schema()
    pipeline = dlt.current.pipeline()
    folder = Path(pipeline.working_dir) / "spool" / (table or "none")
    folder.mkdir(parents=True, exist_ok=True)
    return TableLoader(
        table, inbox, files, options, pipeline,
        types=column_types.types_from_dlt(schema.tables.get(table, {}).get("columns", {})),
        normalize=schema.naming.normalize_identifier,
        load_id=dlt.current.load_package_state()["load_id"],
        folder=folder,
    )  # fmt: skip


def _import_item(part: Part, *, replaces: bool) -> DataItemWithMeta:
    """Build the item with which dlt imports a Parquet file unchanged, with its schema and hints."""
    columns: TTableSchemaColumns = {
        # Without this hint dlt would convert naive timestamps to UTC.
        field.name: {"name": field.name, "data_type": "timestamp", "timezone": False}
        for field in part.schema
        if field.type == column_types.DATETIME
    }
    hints = dlt.mark.make_hints(columns=columns)
    if replaces:
        # Merge deletes the rows of these files and inserts the new ones in one transaction.
        hints |= dlt.mark.make_hints(write_disposition="merge")
    metrics = DataWriterMetrics(str(part.path), part.rows, 0, 0, 0)
    return DataItemWithMeta(
        ImportFileMeta(str(part.path), metrics, "parquet", hints, create_table_variant=False),
        part.schema.empty_table(),
    )


def _ledger_resource(
    loaders: Mapping[str, TableLoader | None],
    inbox: Inbox,
    unassigned: list[File],
    options: Options,
) -> DltResource:
    def entries() -> Iterator[pa.Table | None]:
        # Waits for the rows. dlt extracts resources in their order, unless configured to alternate.
        while not all(loaders.values()):
            yield None
        unassigned_loader = _build_loader(ledger.NO_TABLE, inbox, unassigned, options)
        deque(unassigned_loader.parts(), maxlen=0)
        all_loaders = [loader for loader in (*loaders.values(), unassigned_loader) if loader]
        rows = [entry for loader in all_loaders for entry in loader.entries]
        # Also without rows: the ledger exists even if the inbox never had a file.
        yield pa.Table.from_pylist(rows, ledger.SCHEMA)

    return dlt.resource(entries, name=ledger.TABLE, write_disposition="append")
