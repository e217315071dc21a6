"""Builds the run report from results, lineage, history and failing rows, without personal data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from dbt.contracts.graph.manifest import Manifest

from prefect_flows.core.failure_class import FailureClass
from prefect_flows.core.formatting import one_line
from prefect_flows.reporting.charts.svg import get_group
from prefect_flows.reporting.run_report.history import SLOWEST, compare_durations
from prefect_flows.reporting.run_report.pii import hidden_columns, propagate_pii
from prefect_flows.reporting.run_report.redaction import redact_message
from prefect_flows.state.run_summary import PublishedData, StageSummary
from prefect_flows.state.runs import RunStatus
from prefect_flows.transform.lineage import (
    TESTS,
    LineageNode,
    get_children,
    personal_columns,
    reach,
)
from prefect_flows.transform.repro_command import build_command
from prefect_flows.transform.results import SKIPPED, NodeResult
from prefect_flows.transform.reuse.plan import ReusePlan
from prefect_flows.transform.run_report import (
    FailingRows,
    FailureCard,
    RunContext,
    RunReport,
    TestLine,
)


@dataclass(frozen=True)
class Compiled:
    """Compiled SQL of a node, and its file."""

    path: str | None
    sql: str | None


def get_compiled(manifest: Manifest) -> dict[str, Compiled]:
    """Return compiled SQL by node id, for the nodes that this process compiled."""
    return {
        unique_id: Compiled(getattr(node, "compiled_path", None), sql)
        for unique_id, node in manifest.nodes.items()
        if (sql := getattr(node, "compiled_code", None))
    }


@dataclass(frozen=True)
class ReportInput:
    """Everything that is known about a run when it ends.

    Attributes:
        dialect: sqlglot dialect of the warehouse, which is the name of the dbt adapter.
        lineage: lineage of the whole project.
        results: results of all nodes, of all stages.
        history: seconds by node id, one mapping per earlier run.
        compiled: compiled SQL by node id, including the models upstream of failed nodes: without
            these, all that they read counts as personal data if some of it is.
        failing_rows: rows of failed tests by node id, built by `failing_rows`.
        flags: further flags that a command needs to reproduce a failure, for example `--vars …`.
        model_flags: the same for models only, for example `--empty`.
        first_cause: what ended the run, if no failed node explains it.
        plan: why nodes run or are reused; None if reuse was off, or the run ended before.
        earlier: node id → results of its attempts before the last one.
    """

    target: str
    run_id: str
    project_name: str
    dialect: str
    outcome: RunStatus
    started_at: datetime
    seconds: float
    lineage: Mapping[str, LineageNode]
    results: Sequence[NodeResult]
    stages: Sequence[StageSummary] = ()
    history: Sequence[Mapping[str, float]] = ()
    compiled: Mapping[str, Compiled] = field(default_factory=dict)
    failing_rows: Mapping[str, FailingRows] = field(default_factory=dict)
    marts: Mapping[str, int] = field(default_factory=dict)
    loaded: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    flow_run_url: str | None = None
    first_cause: str | None = None
    flags: str = ""
    model_flags: Sequence[str] = ()
    unreported: Sequence[str] = ()
    published: PublishedData | None = None
    plan: ReusePlan | None = None
    context: RunContext = field(default_factory=RunContext)
    earlier: Mapping[str, Sequence[NodeResult]] = field(default_factory=dict)


def build_report(facts: ReportInput) -> RunReport:
    """Build the report of a run, without values in the messages of nodes near personal data."""
    sql = {i: compiled.sql for i, compiled in facts.compiled.items() if compiled.sql}
    # Messages about a success do not come from the database, and hold no values.
    not_successful = [node.unique_id for node in facts.results if get_group(node.status) != "good"]
    personal = _nodes_near_personal_data(facts.lineage, [*not_successful, *facts.earlier])

    def redacted(node: NodeResult) -> NodeResult:
        if not node.message or node.unique_id not in personal:
            return node
        return replace(node, message=redact_message(node.message, sql.get(node.unique_id)))

    nodes = [redacted(node) for node in facts.results]
    children = get_children(facts.lineage)
    by_id = {node.unique_id: node for node in nodes}
    cards = [_build_card(node, facts, children, by_id) for node in _worst_first(nodes)]
    times = compare_durations(nodes, facts.history)
    regressions = [slow for slow in times if slow.regression]
    regressions.sort(key=lambda slow: (slow.median_seconds or 0) - slow.seconds)
    tests = [node for node in nodes if node.resource_type in TESTS]
    tests.sort(key=lambda node: (not node.failed, node.status != "warn", node.name))
    return RunReport(
        target=facts.target,
        run_id=facts.run_id,
        flow_run_url=facts.flow_run_url,
        project_name=facts.project_name,
        outcome=facts.outcome,
        first_cause=facts.first_cause or (_first_cause(cards[0]) if cards else None),
        started_at=facts.started_at,
        seconds=facts.seconds,
        stages=list(facts.stages),
        nodes=nodes,
        lineage=dict(facts.lineage),
        cards=cards,
        slowest=times[:SLOWEST],
        regressions=regressions,
        costliest=sorted(
            (node for node in nodes if node.bytes), key=lambda node: node.bytes or 0, reverse=True
        )[:SLOWEST],
        tests=[TestLine(node.name, node.status, node.failures, node.unique_id) for node in tests],
        marts=dict(facts.marts),
        loaded={source: dict(rows) for source, rows in facts.loaded.items()},
        unreported=list(facts.unreported),
        published=facts.published,
        reuse=facts.plan.summarize() if facts.plan else None,
        reasons=dict(facts.plan.reasons) if facts.plan else {},
        reused={i: state.run for i, state in facts.plan.reused.items()} if facts.plan else {},
        context=facts.context,
        attempts={
            node.unique_id: [
                _attempt_line(each)
                for each in (*map(redacted, facts.earlier.get(node.unique_id, ())), node)
            ]
            for node in nodes
            if node.completed_at is not None
        },
        durations=_list_durations(facts.history),
        compiled=sql,
    )


def _attempt_line(node: NodeResult) -> str:
    """Format one attempt: when it ended, how, after how long, and dbt's message."""
    at = f"{node.completed_at:%H:%M:%S} " if node.completed_at else ""
    line = f"{at}attempt {node.attempts}: {node.status} in {node.seconds:.2f} s"
    if node.cause is not None:
        line += f" ({node.cause})"
    return f"{line}: {node.message.strip()}" if node.message else line


def _list_durations(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    durations: dict[str, list[float]] = defaultdict(list)
    for run in history:
        for unique_id, seconds in run.items():
            durations[unique_id].append(seconds)
    return dict(durations)


def find_personal_columns_near(
    lineage: Mapping[str, LineageNode],
    unique_ids: Sequence[str],
    compiled: Mapping[str, Compiled],
    dialect: str,
) -> dict[str, frozenset[str]]:
    """Return personal columns that each node's query may read, following renames."""
    sql = {i: each.sql for i, each in compiled.items() if each.sql}
    parents = [p for i in unique_ids if i in lineage for p in lineage[i].parents]
    known = propagate_pii(lineage, list(dict.fromkeys(parents)), sql, dialect)
    return {i: personal_columns(known, i) for i in unique_ids if i in known}


def failing_rows(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    sql: str,
    dialect: str,
    pii: frozenset[str],
    keys: Collection[str] = (),
) -> FailingRows:
    """Return the rows of a failed test without columns that may hold personal data.

    Args:
        sql: the query that returned them.
        pii: result of `personal_columns_near` for the test.
        keys: names of the key columns of what it tests; these come first.
    """
    hidden = hidden_columns(sql, dialect, columns, pii)
    shown = [place for place, column in enumerate(columns) if column not in hidden]
    names = {key.lower() for key in keys}
    shown.sort(key=lambda place: columns[place].lower() not in names)
    return FailingRows(
        columns=tuple(columns[place] for place in shown),
        rows=[
            tuple(None if row[place] is None else str(row[place]) for place in shown)
            for row in rows
        ],
        hidden_columns=tuple(column for column in columns if column in hidden),
    )


def _build_card(
    node: NodeResult,
    facts: ReportInput,
    children: Mapping[str, list[str]],
    by_id: Mapping[str, NodeResult],
) -> FailureCard:
    known = facts.lineage.get(node.unique_id)
    compiled = facts.compiled.get(node.unique_id, Compiled(None, None))
    owner, group = (known.owner, known.group) if known else (None, None)
    tested_node = facts.lineage.get(known.attached_to or "") if known else None
    return FailureCard(
        unique_id=node.unique_id,
        name=node.name,
        resource_type=node.resource_type,
        path=node.path,
        owner=owner or (tested_node.owner if tested_node else None),
        group=group or (tested_node.group if tested_node else None),
        cause=node.cause,
        status=node.status,
        message=node.message,
        compiled_path=compiled.path,
        compiled_sql=compiled.sql,
        failures=node.failures,
        failing_rows=facts.failing_rows.get(node.unique_id),
        blocked=[
            (facts.lineage[i].resource_type, facts.lineage[i].name)
            for i in find_blocked(node, facts.lineage, children, by_id)
        ],
        command=build_command(
            node,
            facts.target,
            facts.flags,
            publishes=facts.published is not None,
            model_flags=facts.model_flags,
        ),
    )


def find_blocked(
    node: NodeResult,
    lineage: Mapping[str, LineageNode],
    children: Mapping[str, list[str]],
    by_id: Mapping[str, NodeResult],
) -> list[str]:
    """Return the ids of the nodes skipped because of a failure, and of the affected exposures.

    A test blocks no node here: its exposures are those downstream of the tested nodes.
    """
    is_test = node.resource_type in TESTS
    starts = [node.unique_id]
    if is_test and node.unique_id in lineage:
        starts += lineage[node.unique_id].parents
    downstream = [i for i in reach(children, starts) if i in lineage]
    return [
        i
        for i in downstream
        if lineage[i].resource_type == "exposure"
        or (not is_test and i in by_id and by_id[i].status == SKIPPED)
    ]


def _worst_first(nodes: Iterable[NodeResult]) -> list[NodeResult]:
    """Sort the failed nodes: those that no retry fixes first, then by the time they ended."""

    def rank(node: NodeResult) -> tuple[bool, bool, float]:
        ended = node.completed_at
        return (
            node.cause in {FailureClass.TRANSIENT, FailureClass.CANCELLED},
            ended is None,
            ended.timestamp() if ended else 0.0,
        )

    return sorted((node for node in nodes if node.failed), key=rank)


def _first_cause(card: FailureCard) -> str:
    message = one_line(card.message or card.status)
    return f"{card.resource_type} {card.name} ({card.cause or card.status}): {message}"


def _nodes_near_personal_data(lineage: Mapping[str, LineageNode], ids: Sequence[str]) -> set[str]:
    """Return the nodes that have personal columns, or read from nodes that have some."""
    marked = [i for i, node in lineage.items() if node.pii_columns]
    near = {*marked, *reach(get_children(lineage), marked)}
    return {i for i in ids if i in near}
