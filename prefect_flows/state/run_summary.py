"""What is left of each run for those who look at many: a summary a run, a history a target.

    runs/<target>/<start>-<id>/summary.json     one run
    targets/<target>/history.json               the last 100 in short, and the last one whole

Who shows all targets reads one file a target. A history that is gone is made again from the
summaries of the runs that are still kept.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.state.runs import RunStatus, runs_folder
from prefect_flows.state.store import StateStore

SUMMARY = "summary.json"
HISTORY = "history.json"
# What keeps a history small: of 100 runs, about 50 kB.
RUNS_OF_HISTORY = 100


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StageSummary(_Stored):
    """What one stage did.

    Attributes:
        seconds: wall time, all attempts together.
        rows: rows written or loaded, where that is known.
        bytes: bytes read or processed, where that is known.
        skipped: why the stage was left out.
    """

    stage: str
    seconds: float
    rows: int | None = None
    bytes: int | None = None
    skipped: str | None = None


class TestCounts(_Stored):
    """Data tests and unit tests of a run, by how they ended."""

    __test__ = False  # no class of tests, whatever pytest makes of the name

    passed: int = 0
    warned: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """How many there were."""
        return self.passed + self.warned + self.failed + self.skipped


class SourceFreshness(_Stored):
    """How fresh a table of a source was when it was last looked at.

    Attributes:
        status: dbt's: pass, warn, error, runtime error; none where it was never looked at.
        max_loaded_at: when its newest row was loaded, UTC.
        age_seconds: how long before the look that was.
        checked_at: when it was looked at, UTC.
    """

    status: str | None = None
    max_loaded_at: datetime | None = None
    age_seconds: float | None = None
    checked_at: datetime | None = None


class MartState(_Stored):
    """What is known of a mart.

    Attributes:
        built_at: when a run last built it, UTC.
        rows: rows that it held at the end of the last run that counted them.
        counted_at: when that was, UTC.
    """

    built_at: datetime | None = None
    rows: int | None = None
    counted_at: datetime | None = None


class RunLine(_Stored):
    """A run in short: what a list of runs shows.

    Attributes:
        folder: name of the run's folder, below `runs/<target>`.
        url: where a person looks at the run; none without Prefect.
        seconds: wall time.
        first_cause: the failure to look at first, without personal data; none where it passed.
        whole: whether nothing of the project was left out.
        has_report: whether its folder got a `report.html`.
        statuses: number of nodes by status.
        rows: rows written by dbt and loaded from sources.
        bytes: bytes that dbt's statements processed, where the warehouse says so.
        bytes_billed: likewise, that they are billed for.
        slot_seconds: seconds of BigQuery's slots.
        cost: of what is billed, at the price that is set; none where either is not known.
    """

    run_id: str
    folder: str
    url: str | None = None
    started_at: datetime
    ended_at: datetime
    seconds: float
    outcome: RunStatus
    first_cause: str | None = None
    whole: bool = True
    has_report: bool = True
    statuses: dict[str, int] = Field(default_factory=dict)
    tests: TestCounts = TestCounts()
    rows: int | None = None
    bytes: int | None = None
    bytes_billed: int | None = None
    slot_seconds: float | None = None
    cost: float | None = None


class RunSummary(RunLine):
    """A run, `summary.json` of its folder.

    Attributes:
        sources: each table of a source, `<source>.<table>`, as it was last looked at.
        marts: each mart of the project, as it was known when the run ended.
    """

    target: str
    project_name: str = ""
    stages: list[StageSummary] = Field(default_factory=list)
    sources: dict[str, SourceFreshness] = Field(default_factory=dict)
    marts: dict[str, MartState] = Field(default_factory=dict)

    def line(self) -> RunLine:
        """The run in short."""
        return RunLine.model_validate(self.model_dump(include=set(RunLine.model_fields)))


class TargetHistory(_Stored):
    """The last runs of a target.

    Attributes:
        runs: at most `RUNS_OF_HISTORY`, oldest first.
        last: the last of them, whole.
        last_good: the last run that passed and left out nothing of the project, however long ago.
    """

    target: str
    runs: list[RunLine]
    last: RunSummary
    last_good: RunLine | None = None


_HISTORY, _SUMMARY = TypeAdapter(TargetHistory), TypeAdapter(RunSummary)


def history(store: StateStore, target: str, warn: Warn | None = None) -> TargetHistory | None:
    """The last runs of a target; none before its first one.

    Args:
        warn: as `StateStore.load` has it; a history that is set aside is made again.

    Raises:
        StateStoreError: the store cannot be read, or a file in it is damaged.
    """
    found = store.load(f"targets/{target}/{HISTORY}", _HISTORY, warn)
    return _made_again(store, target, warn) if found is None else found


def keep_summary(store: StateStore, summary: RunSummary) -> None:
    """Keep the summary of a run that ended, in its folder.

    Raises:
        StateStoreError: the store cannot be written.
    """
    path = f"{runs_folder(summary.target)}/{summary.folder}/{SUMMARY}"
    store.write(path, summary.model_dump_json().encode())


def keep_history(store: StateStore, summary: RunSummary, before: TargetHistory | None) -> None:
    """Add a run to its target's history.

    Args:
        before: the history until now.

    Raises:
        StateStoreError: the store cannot be written.
    """
    after = _with(before, summary)
    store.write(f"targets/{summary.target}/{HISTORY}", after.model_dump_json().encode())


def _with(before: TargetHistory | None, summary: RunSummary) -> TargetHistory:
    runs = [run for run in before.runs if run.folder != summary.folder] if before else []
    line = summary.line()
    good = before.last_good if before else None
    if summary.outcome == "passed" and summary.whole:
        good = line
    return TargetHistory(
        target=summary.target,
        runs=[*runs, line][-RUNS_OF_HISTORY:],
        last=summary,
        last_good=good,
    )


def _made_again(store: StateStore, target: str, warn: Warn | None) -> TargetHistory | None:
    found: TargetHistory | None = None
    folder = runs_folder(target)
    for name in store.names(folder)[-RUNS_OF_HISTORY:]:
        summary = store.load(f"{folder}/{name}/{SUMMARY}", _SUMMARY, warn)
        if summary is not None:
            found = _with(found, summary)
    return found
