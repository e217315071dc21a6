"""What every source shares: its raw schema, and bringing it into a target with dlt.

A source is a folder `prefect_flows/sources/<owner>__<name>` whose module `source.py` holds a dlt
source function of the folder's name. Its rows go through two stages: *extract* reads them into
Parquet files of a temporary folder, and *load* brings the files into the warehouse: Postgres by
COPY, BigQuery by load jobs.

State lives in the warehouse, beside the rows it speaks of, and becomes visible with them. An
attempt of a stage starts from what the one before left whole, never from half of it: a load killed
anywhere leaves nothing behind that the next one would count twice, and any machine can go on.
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
from typing import Any, Self

import dlt
from dlt.common.exceptions import DltException

from prefect_flows.core.errors import after_changes
from prefect_flows.core.logger import Logger
from prefect_flows.core.profiles import Profile
from prefect_flows.core.settings import StagePolicies
from prefect_flows.core.temporary_folders import private_folder
from prefect_flows.ingest.arguments import source_function
from prefect_flows.ingest.destinations.target import destination, loading_into
from prefect_flows.ingest.load_errors import error_of
from prefect_flows.ingest.load_state import has_loaded, heartbeat, incomplete_tables
from prefect_flows.ingest.orphaned_loads import is_complete, remove_orphaned_loads
from prefect_flows.ingest.rejected_rows import Rejection, collecting, reject
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
# Refused rows that a record names one by one.
MOST_REJECTIONS = 100


@dataclass(frozen=True)
class LoadRecord:
    """What bringing a source in did.

    Attributes:
        source: name of the source.
        schema: schema or dataset it was loaded into.
        rows: new rows of each table.
        bytes: of the files between the two stages.
        extract_seconds: of the attempt that passed.
        load_seconds: of the attempt that passed.
        load_ids: dlt's.
        removed: rows that were taken away again, of each table: those of a load that was killed,
            and those that the source does not have any more.
        schema_changes: a line each new table or column.
        rejected: rows that were refused, by place and reason; the first hundred of them.
        rejected_rows: how many were refused.
        attempts: of the two stages together; two where nothing was tried again.
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
        """Of both stages."""
        return round(self.extract_seconds + self.load_seconds, 2)

    def as_record(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return asdict(self) | {"seconds": self.seconds}


def raw_schema(source: str) -> str:
    """Schema (Postgres) or dataset (BigQuery) into which a source is loaded."""
    return f"raw_{source}"


def ingest(source: str, profile: Profile, **arguments: Any) -> LoadRecord:
    """Extract a source and load it into the warehouse of a target, without retries.

    Args:
        source: name of the source's folder.
        profile: where to load to.
        arguments: passed to the source function.

    Raises:
        IngestionError: the source could not be read or loaded; `retryable` when a lost
            connection, a timeout or the like is the cause.
    """
    with loading_into(profile), SourceLoad(source, profile, arguments) as load:
        load.extract()
        load.load()
        return load.done


def ingest_source(
    source: str,
    profile: Profile,
    arguments: Mapping[str, Any],
    run_stage: RunStage,
    policies: StagePolicies,
) -> dict[str, Any]:
    """Bring a source in as two stages, `extract-<source>` and `load-<source>`.

    Raises:
        MillraceError: the source could not be read or loaded, or a stage took too long.
    """
    with SourceLoad(source, profile, arguments) as load:
        run_stage(f"extract-{source}", policies.extract, load.extracting)
        with after_changes():
            run_stage(f"load-{source}", policies.load, load.loading)
        return load.done.as_record()


class SourceLoad:
    """A source on its way into a warehouse: a temporary folder, and what was done so far.

    Each attempt of a stage has a folder of its own. That of an extraction starts empty; that of a
    load starts as a copy of what was extracted, whatever another attempt made of it.
    """

    def __init__(self, source: str, profile: Profile, arguments: Mapping[str, Any]) -> None:
        self.source = source
        self.profile = profile
        self.arguments = arguments
        self.done = LoadRecord(source, raw_schema(source))
        self._attempts = 0
        self._extracted: Path | None = None
        self._may_be_half_loaded: list[str] = []
        self._load_began = False

    def __enter__(self) -> Self:
        self._contexts = ExitStack()
        self._folder = self._contexts.enter_context(private_folder("dlt"))
        return self

    def __exit__(self, *_: object) -> None:
        self._contexts.close()

    def extracting(self, log: Logger) -> dict[str, Any]:
        """The work of the stage `extract-<source>`."""
        self.extract()
        for table, rows in self.done.rows.items():
            log.info("%s: %s rows", table, f"{rows:,}")
        for table, rows in self.done.removed.items():
            log.warning("%s: %s rows of a load that was killed were taken away", table, f"{rows:,}")
        for rejection in self.done.rejected:
            log.warning("%s: refused %s: %s", rejection.table, rejection.where, rejection.why)
        return self.done.as_record()

    def loading(self, log: Logger) -> dict[str, Any]:
        """The work of the stage `load-<source>`."""
        before = self.done.removed
        self.load()
        for change in self.done.schema_changes:
            log.info("%s: %s", self.done.schema, change)
        for table, rows in self.done.rows.items():
            log.info("%s.%s: %s new rows", self.done.schema, table, f"{rows:,}")
        for table, rows in self.done.removed.items():
            if rows > before.get(table, 0):
                log.info("%s.%s: %s rows removed", self.done.schema, table, f"{rows:,}")
        return self.done.as_record()

    def extract(self) -> None:
        """Read the source into Parquet files, as they are loaded.

        Raises:
            WarehouseUnreachable: dlt's state cannot be read from the warehouse.
            IngestionError: the source could not be read.
        """
        started = time.monotonic()
        folder = self._new_folder()
        self._extracted, self._load_began = None, False
        function = source_function(self.source)
        with self._errors():
            pipeline = self._pipeline(folder)
            pipeline.sync_destination()
            data = function(**self.arguments)
            tables = [resource.name for resource in data.resources.values()]
            self._may_be_half_loaded = incomplete_tables(pipeline, data)
            removed = remove_orphaned_loads(pipeline, self._may_be_half_loaded)
            data.resources.add(heartbeat(tables))
            with collecting() as rejections:
                extracted = pipeline.extract(data, loader_file_format="parquet")
                counts = pipeline.normalize().row_counts | _rows_of_copies(extracted)
        self._extracted = folder
        made = sum(
            file.stat().st_size
            for file in folder.rglob("load/normalized/*/new_jobs/*")
            if not file.name.startswith("_dlt")
        )
        self.done = LoadRecord(
            self.source,
            self.done.schema,
            rows={name: counts.get(name, 0) for name in tables},
            bytes=made,
            extract_seconds=round(time.monotonic() - started, 2),
            removed=removed,
            rejected=rejections[:MOST_REJECTIONS],
            rejected_rows=sum(rejection.rows for rejection in rejections),
        )

    def load(self) -> None:
        """Load what was extracted.

        An attempt that follows another looks first: a load that got its mark is not loaded again,
        and rows of one that did not are taken away.

        Raises:
            WarehouseUnreachable: the warehouse cannot be used any more.
            IngestionError: a file could not be loaded; the tables are as they were.
        """
        assert self._extracted is not None, "a load follows an extraction"  # noqa: S101
        started = time.monotonic()
        folder = self._new_folder()
        shutil.copytree(self._extracted, folder, copy_function=_link_or_copy, dirs_exist_ok=True)
        removed = dict(self.done.removed)
        with self._errors():
            pipeline = self._pipeline(folder)
            (load_id,) = pipeline.list_normalized_load_packages()
            changes: list[str] = []
            if not (self._load_began and is_complete(pipeline, load_id)):
                if self._load_began:
                    # dlt's row of its state has a key, and would be refused when it comes twice.
                    remove_orphaned_loads(pipeline, [*self._may_be_half_loaded, STATE_TABLE])
                self._load_began = True
                changes = _schema_changes(pipeline.load())
            module = importlib.import_module(source_function(self.source).__module__)
            if (after_load := getattr(module, "after_load", None)) is not None:
                for table, rows in after_load(pipeline, list(self.done.rows)).items():
                    removed[table] = removed.get(table, 0) + rows
        self.done = replace(
            self.done,
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
            destination=destination(self.profile),
            dataset_name=self.done.schema,
            pipelines_dir=str(folder),
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DltException as error:
            raise error_of(error, self.source, self.done.schema, self.profile) from error


def _schema_changes(info: Any) -> list[str]:
    """New tables and columns of a load, a line each."""
    changes = []
    for package in info.load_packages:
        for name, table in package.schema_update.items():
            if name.startswith("_dlt"):
                continue
            columns = [c for c in table["columns"] if not c.startswith("_dlt")]
            # An update holds the new columns alone; a table that is new has dlt's own among them.
            if "_dlt_load_id" in table["columns"]:
                changes.append(f"new table {name} ({len(columns)} columns)")
            else:
                changes += [
                    f"new column {name}.{c} ({table['columns'][c].get('data_type')})"
                    for c in columns
                ]
    return sorted(changes)


def _rows_of_copies(info: Any) -> dict[str, int]:
    """Rows of the files that dlt took as they are, by table: it does not count them again."""
    counts: Counter[str] = Counter()
    for steps in info.metrics.values():
        for name, metrics in steps[0]["job_metrics"].items():
            table, _, extension = name.rsplit(".", 2)
            if extension == "csv":
                counts[table] += metrics.items_count
    return dict(counts)


def _link_or_copy(source: str, target: str) -> None:
    """Data files are only read, and are linked; dlt's notes are written over, and are copied."""
    if source.endswith((".parquet", ".csv")):
        os.link(source, target)
    else:
        shutil.copy2(source, target)
