"""The data of a run report, independent of its format (HTML, Markdown)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from prefect_flows.core.failure_class import FailureClass
from prefect_flows.state.run_summary import PublishedData, ReuseSummary, StageSummary
from prefect_flows.state.runs import RunStatus
from prefect_flows.transform.lineage import LineageNode
from prefect_flows.transform.results import NodeResult


@dataclass(frozen=True)
class FailingRows:
    """Rows that a failed test returned, without the columns that may hold personal data.

    Attributes:
        columns: names of the columns that are shown.
        rows: one tuple per row, in the order of `columns`; None is SQL's null.
        hidden_columns: names of the columns that are not shown.
        note: a remark for the reader, for example that there are more rows.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str | None, ...]]
    hidden_columns: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class FailureCard:
    """A failed node, with what a person needs to fix it.

    Attributes:
        blocked: type and name of nodes that were skipped because of it, and of its exposures.
        command: the command that reproduces the failure.
        column: for a failed test, its column with its node; empty if its origins are unknown.
        origins: lines of the tree of columns that it comes from.
    """

    unique_id: str
    name: str
    resource_type: str
    path: str
    owner: str | None
    group: str | None
    cause: FailureClass | None
    status: str
    message: str | None
    compiled_path: str | None
    compiled_sql: str | None
    failures: int | None
    failing_rows: FailingRows | None
    blocked: list[tuple[str, str]]
    command: str
    column: str = ""
    origins: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NodeTiming:
    """The execution time of a node, compared with earlier runs.

    Attributes:
        runs: number of earlier runs that executed it.
        regression: whether it is slower than the rule in `history.py` allows.
    """

    unique_id: str
    name: str
    seconds: float
    median_seconds: float | None
    runs: int
    regression: bool


@dataclass(frozen=True)
class TestLine:
    """One data test or unit test.

    Attributes:
        failures: rows that it returned.
        unique_id: dbt's id of the test.
    """

    __test__ = False  # pytest would collect it because of its name

    name: str
    status: str
    failures: int | None
    unique_id: str = ""


@dataclass(frozen=True)
class RunContext:
    """What a run was asked to do, where it ran, and what is stored beside its report.

    Attributes:
        parameters: the parameters that differ from their default value.
        host: name of the machine; None if it is not known.
        commit: commit of the code, with `-dirty` if files differ from it; None if it is not known.
        deployment: name of the Prefect deployment; None if none started the run.
        previous: name of the folder of the run before it that has a report.
        has_docs: whether the state store has dbt's documentation of the target.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    host: str | None = None
    commit: str | None = None
    deployment: str | None = None
    previous: str | None = None
    has_docs: bool = False


@dataclass(frozen=True)
class RunReport:
    """The report of a run.

    Attributes:
        first_cause: the failure to look at first; None if the run passed.
        started_at: when the run started, UTC.
        seconds: wall time of the whole run.
        slowest: the ten slowest nodes, slowest first.
        costliest: the ten nodes that read most bytes, most first; empty if they are not known.
        regressions: every node that is slower than in earlier runs, worst first.
        marts: name of each mart → its number of rows.
        loaded: source → table → new rows.
        unreported: one line for each thing that could not be reported to the Prefect API.
        published: what readers see; None if the target does not publish.
        reuse: what the run reused; None if reuse was off, or the run ended before.
        reasons: node id → why the run executes it; empty without reuse.
        reused: id of each reused node → id of the run that executed it.
        context: what the run was asked to do, and where it ran.
        attempts: node id → one line for each attempt, in order; empty if nothing was executed.
        durations: node id → its seconds in earlier runs, oldest first.
        compiled: node id → its compiled SQL.
        columns: node id → column → the columns, with their nodes, that it comes from; see
            `reporting/column_lineage.py`.
    """

    target: str
    run_id: str
    flow_run_url: str | None
    project_name: str
    outcome: RunStatus
    first_cause: str | None
    started_at: datetime
    seconds: float
    stages: list[StageSummary] = field(default_factory=list)
    nodes: list[NodeResult] = field(default_factory=list)
    lineage: dict[str, LineageNode] = field(default_factory=dict)
    cards: list[FailureCard] = field(default_factory=list)
    slowest: list[NodeTiming] = field(default_factory=list)
    regressions: list[NodeTiming] = field(default_factory=list)
    costliest: list[NodeResult] = field(default_factory=list)
    tests: list[TestLine] = field(default_factory=list)
    marts: dict[str, int] = field(default_factory=dict)
    loaded: dict[str, dict[str, int]] = field(default_factory=dict)
    unreported: list[str] = field(default_factory=list)
    published: PublishedData | None = None
    reuse: ReuseSummary | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    reused: dict[str, str] = field(default_factory=dict)
    context: RunContext = field(default_factory=RunContext)
    attempts: dict[str, list[str]] = field(default_factory=dict)
    durations: dict[str, list[float]] = field(default_factory=dict)
    compiled: dict[str, str] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, Sequence[tuple[str, str]]]] = field(default_factory=dict)

    @property
    def completed_at(self) -> datetime:
        """When the run ended, UTC."""
        return self.started_at + timedelta(seconds=self.seconds)
