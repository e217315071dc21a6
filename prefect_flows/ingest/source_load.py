"""Extracts and loads a source with dlt: raw schema, stages, retries and state of every source.

A source is a folder `prefect_flows/sources/<owner>__<name>` whose module `source.py` holds a dlt
source function of the folder's name. Its rows go through two stages: *extract* reads them into
Parquet files of a temporary folder, and *load* loads the files into the warehouse: Postgres by
COPY, BigQuery by load jobs.

State is stored in the warehouse, in the same load as its rows, and becomes visible with them. An
attempt of a stage starts from what the previous one completed: a load killed at any point leaves
nothing that the next one would count twice, and any machine can continue.
"""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dlt
from dlt.common.exceptions import DltException

from prefect_flows.core.errors import after_changes
from prefect_flows.core.logger import Logger
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import StagePolicies
from prefect_flows.core.temporary_folders import private_folder
from prefect_flows.ingest.arguments import source_function
from prefect_flows.ingest.destinations.target import build_destination, configure_dlt
from prefect_flows.ingest.load_errors import translate_dlt_error
from prefect_flows.ingest.load_state import has_loaded, heartbeat, incomplete_tables
from prefect_flows.ingest.orphaned_loads import is_complete, remove_orphaned_loads
from prefect_flows.ingest.rejected_rows import Rejection, collect_rejections, reject

if TYPE_CHECKING:
    from prefect_flows.runtime.stages import RunStage

__all__ = [
    "LoadRecord",
    "SourceLoad",
    "has_loaded",
    "ingest",
    "ingest_source",
    "raw_schema",
    "reject",
]

STATE_TABLE = "_dlt_pipeline_state"
# Rejected rows that a record lists individually.
MAX_REJECTIONS = 100


@dataclass(frozen=True)
class LoadRecord:
    """Result of loading a source.

    Attributes:
        source: name of the source.
        schema: schema or dataset it was loaded into.
        rows: new rows by table.
        bytes: size of the files between the two stages.
        extract_seconds: duration of the successful attempt.
        load_seconds: duration of the successful attempt.
        load_ids: load ids of dlt.
        removed: deleted rows by table: rows of a killed load, and rows that no longer exist in the
            source.
        schema_changes: one line per new table or column.
        rejected: rejected rows, by place and reason; the first hundred.
        rejected_rows: number of all rejected rows.
        attempts: attempts of both stages together; two without a retry.
    """

    source: str
    schema: str
    rows: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    extract_seconds: float = 0.0
    load_seconds: float = 0.0
    load_ids: list[str] = field(default_factory=list)
    removed: dict[str, int] = field(default_factory=dict)
    schema_changes: list[str] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    rejected_rows: int = 0
    attempts: int = 2

    @property
    def seconds(self) -> float:
        """Duration of both stages."""
        return round(self.extract_seconds + self.load_seconds, 2)

    def as_record(self) -> dict[str, Any]:
        """Return the record as plain data that JSON can hold."""
        return asdict(self) | {"seconds": self.seconds}


def raw_schema(source: str) -> str:
    """Return the schema (Postgres) or dataset (BigQuery) of a source."""
    return f"raw_{source}"


def ingest(source: str, profile: Profile, **arguments: Any) -> LoadRecord:
    """Extract a source and load it into the warehouse of a target, without retries.

    Args:
        source: name of the source's folder.
        profile: target to load into.
        arguments: passed to the source function.

    Raises:
        IngestionError: the source could not be read or loaded; `retryable` if the cause is
            transient, such as a lost connection or a timeout.
    """
    with configure_dlt(profile), SourceLoad(source, profile, arguments) as load:
        load.extract()
        load.load()
        return load.record


def ingest_source(
    source: str,
    profile: Profile,
    arguments: Mapping[str, Any],
    run_stage: RunStage,
    policies: StagePolicies,
) -> dict[str, Any]:
    """Run the two stages of a source, `extract-<source>` and `load-<source>`.

    Raises:
        MillraceError: the source could not be read or loaded, or a stage took too long.
    """
    with SourceLoad(source, profile, arguments) as load:
        run_stage(f"extract-{source}", policies.extract, load.extracting)
        with after_changes():
            run_stage(f"load-{source}", policies.load, load.loading)
        return load.record.as_record()


class SourceLoad:
    """A source being loaded into a warehouse: its temporary folder, and the result so far.

    Each attempt of a stage has its own folder. An extraction starts with an empty one. A load
    starts with a copy of the extracted files, unaffected by earlier attempts.
    """

    def __init__(self, source: str, profile: Profile, arguments: Mapping[str, Any]) -> None:
        self.source = source
        self.profile = profile
        self.arguments = arguments
        self.record = LoadRecord(source, raw_schema(source))
        self._attempts = 0
        self._extracted: Path | None = None
        self._incomplete_tables: list[str] = []
        self._load_started = False

    def __enter__(self) -> Self:
        self._contexts = ExitStack()
        self._folder = self._contexts.enter_context(private_folder("dlt"))
        return self

    def __exit__(self, *_: object) -> None:
        self._contexts.close()

    def extracting(self, log: Logger) -> dict[str, Any]:
        """Run the stage `extract-<source>`."""
        self.extract()
        for table, rows in self.record.rows.items():
            log.info("%s: %s rows", table, f"{rows:,}")
        for table, rows in self.record.removed.items():
            log.warning("%s: %s rows of a killed load were deleted", table, f"{rows:,}")
        for rejection in self.record.rejected:
            log.warning("%s: refused %s: %s", rejection.table, rejection.where, rejection.why)
        return self.record.as_record()

    def loading(self, log: Logger) -> dict[str, Any]:
        """Run the stage `load-<source>`."""
        before = self.record.removed
        self.load()
        for change in self.record.schema_changes:
            log.info("%s: %s", self.record.schema, change)
        for table, rows in self.record.rows.items():
            log.info("%s.%s: %s new rows", self.record.schema, table, f"{rows:,}")
        for table, rows in self.record.removed.items():
            if rows > before.get(table, 0):
                log.info("%s.%s: %s rows removed", self.record.schema, table, f"{rows:,}")
        return self.record.as_record()

    def extract(self) -> None:
        """Read the source into the Parquet files that `load` loads.

        Raises:
            WarehouseUnreachable: dlt's state cannot be read from the warehouse.
            IngestionError: the source could not be read.
        """
        started = time.monotonic()
        folder = self._new_folder()
        self._extracted, self._load_started = None, False
        function = source_function(self.source)
        with self._translate_errors():
            pipeline = self._pipeline(folder)
            pipeline.sync_destination()
            data = function(**self.arguments)
            tables = [resource.name for resource in data.resources.values()]
            self._incomplete_tables = incomplete_tables(pipeline, data)
            removed = remove_orphaned_loads(pipeline, self._incomplete_tables)
            data.resources.add(heartbeat(tables))
            with collect_rejections() as rejections:
                extracted = pipeline.extract(data, loader_file_format="parquet")
                counts = pipeline.normalize().row_counts | _imported_rows(extracted)
        self._extracted = folder
        file_bytes = sum(
            file.stat().st_size
            for file in folder.rglob("load/normalized/*/new_jobs/*")
            if not file.name.startswith("_dlt")
        )
        self.record = LoadRecord(
            self.source,
            self.record.schema,
            rows={name: counts.get(name, 0) for name in tables},
            bytes=file_bytes,
            extract_seconds=round(time.monotonic() - started, 2),
            removed=removed,
            rejected=rejections[:MAX_REJECTIONS],
            rejected_rows=sum(rejection.rows for rejection in rejections),
        )

    def load(self) -> None:
        """Load the extracted files.

        A retry first checks the previous attempt: a load that is marked complete is not loaded
        again, and the rows of an incomplete one are deleted.

        Raises:
            WarehouseUnreachable: the warehouse became unreachable.
            IngestionError: a file could not be loaded; the tables are unchanged.
        """
        assert self._extracted is not None, "a load follows an extraction"  # noqa: S101
        started = time.monotonic()
        folder = self._new_folder()
        shutil.copytree(self._extracted, folder, copy_function=_link_or_copy, dirs_exist_ok=True)
        removed = dict(self.record.removed)
        with self._translate_errors():
            pipeline = self._pipeline(folder)
            (load_id,) = pipeline.list_normalized_load_packages()
            changes: list[str] = []
            if not (self._load_started and is_complete(pipeline, load_id)):
                if self._load_started:
                    # dlt's state row has a unique key: a second copy of it would be refused.
                    remove_orphaned_loads(pipeline, [*self._incomplete_tables, STATE_TABLE])
                self._load_started = True
                changes = _schema_changes(pipeline.load())
            module = importlib.import_module(source_function(self.source).__module__)
            if (after_load := getattr(module, "after_load", None)) is not None:
                for table, rows in after_load(pipeline, list(self.record.rows)).items():
                    removed[table] = removed.get(table, 0) + rows
        self.record = replace(
            self.record,
            load_seconds=round(time.monotonic() - started, 2),
            load_ids=[load_id],
            removed=removed,
            schema_changes=changes,
            attempts=self._attempts,
        )

    def _new_folder(self) -> Path:
        self._attempts += 1
        folder = self._folder / str(self._attempts)
        folder.mkdir()
        return folder

    def _pipeline(self, folder: Path) -> dlt.Pipeline:
        return dlt.pipeline(
            pipeline_name=self.source,
            destination=build_destination(self.profile),
            dataset_name=self.record.schema,
            pipelines_dir=str(folder),
        )

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except DltException as error:
            raise translate_dlt_error(
                error, self.source, self.record.schema, self.profile
            ) from error


def _schema_changes(info: Any) -> list[str]:
    """List the new tables and columns of a load, one line each."""
    changes = []
    for package in info.load_packages:
        for name, table in package.schema_update.items():
            if name.startswith("_dlt"):
                continue
            columns = [c for c in table["columns"] if not c.startswith("_dlt")]
            # An update holds the new columns only; for a new table it includes dlt's own.
            if "_dlt_load_id" in table["columns"]:
                changes.append(f"new table {name} ({len(columns)} columns)")
            else:
                changes += [
                    f"new column {name}.{c} ({table['columns'][c].get('data_type')})"
                    for c in columns
                ]
    return sorted(changes)


def _imported_rows(info: Any) -> dict[str, int]:
    """Count rows by table in files that dlt imported unchanged, since dlt does not count them."""
    counts: Counter[str] = Counter()
    for steps in info.metrics.values():
        for name, metrics in steps[0]["job_metrics"].items():
            table, _, extension = name.rsplit(".", 2)
            if extension == "csv":
                counts[table] += metrics.items_count
    return dict(counts)


def _link_or_copy(source: str, target: str) -> None:
    """Link data files, which are only read; copy dlt's metadata files, which dlt overwrites."""
    if source.endswith((".parquet", ".csv")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
