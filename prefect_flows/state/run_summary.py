"""Summaries of runs, and the run history of a target.

    runs/<target>/<start>-<id>/summary.json     one run
    targets/<target>/history.json               the last 100 runs in brief, and the last one in full

The overview page reads one history per target. A missing history is rebuilt from the summaries of
the runs that are still stored.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.state.runs import RunStatus, runs_folder
from prefect_flows.state.store import StateStore

SUMMARY = "summary.json"
HISTORY = "history.json"
# 100 runs take about 50 kB.
MAX_HISTORY_RUNS = 100
MAX_LISTED_RUNS = 3


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StageSummary(_Stored):
    """What one stage did.

    Attributes:
        seconds: wall time of all attempts.
        statuses: number of nodes by status.
        rows: rows written or loaded, if known.
        bytes: bytes read or processed, if known.
        skipped: why the stage was skipped.
    """

    stage: str
    seconds: float
    statuses: dict[str, int] = Field(default_factory=dict)
    attempts: int = 1
    rows: int | None = None
    bytes: int | None = None
    skipped: str | None = None


class TestCounts(_Stored):
    """Numbers of data tests and unit tests of a run by result."""

    __test__ = False  # pytest would collect it because of its name

    passed: int = 0
    warned: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """Number of all tests."""
        return self.passed + self.warned + self.failed + self.skipped


class SourceFreshness(_Stored):
    """Freshness of a source table at its last check.

    Attributes:
        status: dbt's status: pass, warn, error, runtime error; None if it was never checked.
        max_loaded_at: when its newest row was loaded, UTC.
        age_seconds: age of the newest row at the check.
        checked_at: when it was checked, UTC.
    """

    status: str | None = None
    max_loaded_at: datetime | None = None
    age_seconds: float | None = None
    checked_at: datetime | None = None


class MartState(_Stored):
    """The last known state of a mart.

    Attributes:
        built_at: when a run last built it, UTC.
        rows: its number of rows at the last count.
        counted_at: when its rows were last counted, UTC.
    """

    built_at: datetime | None = None
    rows: int | None = None
    counted_at: datetime | None = None


class PublishedData(_Stored):
    """What readers of a target that publishes see.

    Attributes:
        run_ids: ids of the runs that built it, newest first; usually one.
        since: when the newest of it was published, UTC; None if nothing was published yet.
        blocked: what kept this run from publishing all that it built; empty if nothing did.
    """

    run_ids: list[str] = Field(default_factory=list)
    since: datetime | None = None
    blocked: list[str] = Field(default_factory=list)

    def sentence(self, run_id: str = "") -> str:
        """Say which run's data readers see.

        Args:
            run_id: id of the run that says it.
        """
        if self.since is None or not self.run_ids:
            return "Readers see no published data yet."
        since = f"{self.since:%Y-%m-%d %H:%M} UTC"
        if self.run_ids == [run_id]:
            return f"Readers see the data of this run since {since}."
        if len(self.run_ids) == 1:
            return f"Readers see the data of run {self.run_ids[0]}, published at {since}."
        runs = ["this run" if each == run_id else f"run {each}" for each in self.run_ids]
        shown, more = runs[:MAX_LISTED_RUNS], len(runs) - MAX_LISTED_RUNS
        others = f" and {more} more" if more > 0 else ""
        return f"Readers see data of {', '.join(shown)}{others}, published until {since}."


class ReuseSummary(_Stored):
    """What a run reused.

    Attributes:
        executed: number of nodes that it executes.
        reused: number of nodes whose earlier result it keeps.
        saved_seconds: execution time of the reused nodes when they last ran, all threads together.
        saved_bytes: bytes that their statements processed then, if known.
    """

    executed: int
    reused: int
    saved_seconds: float = 0.0
    saved_bytes: int | None = None


class RunOverview(_Stored):
    """A run in brief, as a list of runs shows it.

    Attributes:
        folder: name of the run's folder below `runs/<target>`.
        url: URL of the flow run; None without Prefect.
        seconds: wall time.
        first_cause: the failure to look at first, without personal data; None if the run passed.
        whole: whether the run covered the whole project.
        has_report: whether its folder has a `report.html`.
        statuses: number of nodes by status.
        rows: rows written by dbt and loaded from sources.
        bytes: bytes that dbt's statements processed, if the warehouse reports them.
        bytes_billed: bytes billed for them, if the warehouse reports them.
        slot_seconds: BigQuery slot time in seconds.
        cost: cost of the billed bytes at `price_per_tib`; None if either is unknown.
        reuse: what it reused; None if reuse was off, or it ended before.
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
    reuse: ReuseSummary | None = None


class RunSummary(RunOverview):
    """The content of a run's `summary.json`.

    Attributes:
        sources: `<source>.<table>` → freshness at its last check.
        marts: name of each mart → its last known state when the run ended.
        published: what readers see; None if the target does not publish.
    """

    target: str
    project_name: str = ""
    stages: list[StageSummary] = Field(default_factory=list)
    sources: dict[str, SourceFreshness] = Field(default_factory=dict)
    marts: dict[str, MartState] = Field(default_factory=dict)
    published: PublishedData | None = None

    def line(self) -> RunOverview:
        """Return the run in brief."""
        return RunOverview.model_validate(self.model_dump(include=set(RunOverview.model_fields)))


class TargetHistory(_Stored):
    """The last runs of a target.

    Attributes:
        runs: at most `MAX_HISTORY_RUNS` runs, oldest first.
        last: the last run in full.
        last_good: the last run that passed and covered the whole project, however long ago.
    """

    target: str
    runs: list[RunOverview]
    last: RunSummary
    last_good: RunOverview | None = None


_HISTORY, _SUMMARY = TypeAdapter(TargetHistory), TypeAdapter(RunSummary)


def load_history(store: StateStore, target: str, warn: Warn | None = None) -> TargetHistory | None:
    """Load the history of a target; None before its first run.

    Args:
        store: the state store.
        target: name of the target.
        warn: see `StateStore.load`; a corrupt history is then rebuilt.

    Raises:
        StateStoreError: the store cannot be read, or a file in it is corrupt.
    """
    found = store.load(f"targets/{target}/{HISTORY}", _HISTORY, warn)
    return _rebuild_history(store, target, warn) if found is None else found


def save_summary(store: StateStore, summary: RunSummary) -> None:
    """Save the summary of a finished run in its folder.

    Raises:
        StateStoreError: the store cannot be written.
    """
    path = f"{runs_folder(summary.target)}/{summary.folder}/{SUMMARY}"
    store.write(path, summary.model_dump_json().encode())


def save_history(store: StateStore, summary: RunSummary, before: TargetHistory | None) -> None:
    """Add a run to the history of its target, and save it.

    Args:
        store: the state store.
        summary: the run.
        before: the previous history.

    Raises:
        StateStoreError: the store cannot be written.
    """
    after = _append_run(before, summary)
    store.write(f"targets/{summary.target}/{HISTORY}", after.model_dump_json().encode())


def save_published(store: StateStore, target: str, published: PublishedData) -> None:
    """Save what readers see after it was changed without a run.

    Raises:
        StateStoreError: the store cannot be read or written.
    """
    before = load_history(store, target)
    if before is None:
        return
    last = before.last.model_copy(update={"published": published})
    after = before.model_copy(update={"last": last})
    store.write(f"targets/{target}/{HISTORY}", after.model_dump_json().encode())


def _append_run(before: TargetHistory | None, summary: RunSummary) -> TargetHistory:
    runs = [run for run in before.runs if run.folder != summary.folder] if before else []
    line = summary.line()
    last_good = before.last_good if before else None
    if summary.outcome == "passed" and summary.whole:
        last_good = line
    return TargetHistory(
        target=summary.target,
        runs=[*runs, line][-MAX_HISTORY_RUNS:],
        last=summary,
        last_good=last_good,
    )


def _rebuild_history(store: StateStore, target: str, warn: Warn | None) -> TargetHistory | None:
    found: TargetHistory | None = None
    folder = runs_folder(target)
    for name in store.names(folder)[-MAX_HISTORY_RUNS:]:
        summary = store.load(f"{folder}/{name}/{SUMMARY}", _SUMMARY, warn)
        if summary is not None:
            found = _append_run(found, summary)
    return found
