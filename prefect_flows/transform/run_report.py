"""What a report of a run shows: plain data, ready to be drawn in any form."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from prefect_flows.core.failure_class import FailureClass
from prefect_flows.transform.lineage import LineageNode
from prefect_flows.transform.results import NodeResult

Outcome = Literal["passed", "failed", "cancelled", "timed out"]


@dataclass(frozen=True)
class FailingRows:
    """Rows that a failed test returned, without the columns that may hold personal data.

    Attributes:
        columns: names of the columns that are shown.
        rows: one tuple a row, in the order of `columns`; none is SQL's null.
        hidden_columns: names of the columns that are left out.
        note: what a reader has to know of these rows, for example that there are more.
    """

    columns: tuple[str, ...]
    rows: list[tuple[str | None, ...]]
    hidden_columns: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True)
class FailureCard:
    """One failed node, and all that a person needs to fix it.

    Attributes:
        blocked: type and name of what was skipped because of it, and of the exposures behind it.
        command: the one command that shows the failure again.
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


@dataclass(frozen=True)
class NodeTiming:
    """A node's time against that of earlier runs.

    Attributes:
        runs: number of earlier runs that executed it.
        regression: whether it is slower than the rule in `history.py` lets pass.
    """

    unique_id: str
    name: str
    seconds: float
    median_seconds: float | None
    runs: int
    regression: bool


@dataclass(frozen=True)
class StageLine:
    """What one stage did.

    Attributes:
        statuses: number of nodes by status.
        seconds: wall time, all attempts together.
        rows: rows written or loaded, where that is known.
        bytes: bytes processed, where the warehouse says so.
        skipped: why the stage was left out.
    """

    stage: str
    statuses: dict[str, int]
    seconds: float
    attempts: int = 1
    rows: int | None = None
    bytes: int | None = None
    skipped: str | None = None


@dataclass(frozen=True)
class TestLine:
    """One data test or unit test.

    Attributes:
        failures: rows that it returned.
    """

    __test__ = False  # no class of tests, whatever pytest makes of the name

    name: str
    status: str
    failures: int | None


@dataclass(frozen=True)
class RunReport:
    """A run, as a person reads it.

    Attributes:
        first_cause: the failure to look at first; none where the run passed.
        started_at: UTC.
        seconds: wall time of the whole run.
        slowest: the ten slowest nodes, slowest first.
        costliest: the ten nodes that read most, most first; none where the warehouse does not say.
        regressions: every node that is slower than it used to be, worst first.
        marts: rows of each mart.
        unreported: what could not be told to the Prefect API.
    """

    target: str
    run_id: str
    flow_run_url: str | None
    project_name: str
    outcome: Outcome
    first_cause: str | None
    started_at: datetime
    seconds: float
    stages: list[StageLine] = field(default_factory=list)
    nodes: list[NodeResult] = field(default_factory=list)
    lineage: dict[str, LineageNode] = field(default_factory=dict)
    cards: list[FailureCard] = field(default_factory=list)
    slowest: list[NodeTiming] = field(default_factory=list)
    regressions: list[NodeTiming] = field(default_factory=list)
    costliest: list[NodeResult] = field(default_factory=list)
    tests: list[TestLine] = field(default_factory=list)
    marts: dict[str, int] = field(default_factory=dict)
    unreported: list[str] = field(default_factory=list)

    @property
    def completed_at(self) -> datetime:
        """When the run ended, UTC."""
        return self.started_at + timedelta(seconds=self.seconds)
