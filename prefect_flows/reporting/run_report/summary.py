"""Builds the run summary for the state store: outcome, tests, cost, source freshness, marts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.core.formatting import one_line
from prefect_flows.reporting.charts.svg import get_group
from prefect_flows.state.run_summary import (
    MartState,
    RunSummary,
    SourceFreshness,
    TargetHistory,
    TestCounts,
)
from prefect_flows.state.runs import Run, RunStatus
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_state import SOURCES
from prefect_flows.transform.lineage import TESTS, LineageNode
from prefect_flows.transform.results import NodeResult, count_by_status
from prefect_flows.transform.run_report import RunReport

MAX_CAUSE_LENGTH = 500
TIB = 2**40


def run_summary(
    stored: Run,
    report: RunReport | None,
    status: RunStatus,
    failure: str | None,
    *,
    seconds: float,
    whole: bool = True,
    before: TargetHistory | None = None,
    freshness: Mapping[str, SourceFreshness] | None = None,
    price_per_tib: float | None = None,
    mart_folders: Collection[str] = ("marts",),
) -> RunSummary:
    """Build the summary of a finished run; sources and marts it did not touch keep their state.

    Args:
        stored: the run's place in the state store.
        report: its report, whose messages hold no personal data; None if the run ended before the
            project was parsed.
        failure: what ended the run, if it did not pass.
        freshness: result of `freshness_of` at the end of the run.
        price_per_tib: price of 2**40 billed bytes.
        mart_folders: names of the folders of marts.
    """
    header = stored.header
    nodes = report.nodes if report else []
    executed = [node for node in nodes if not node.resumed]
    billed = _sum(_response_number(node, "bytes_billed") for node in executed)
    lines = report.stages if report else []
    cause = report.first_cause if report else failure
    return RunSummary(
        target=header.target,
        project_name=report.project_name if report else before.last.project_name if before else "",
        run_id=header.id,
        folder=stored.folder.rpartition("/")[2],
        url=header.url,
        started_at=header.started_at,
        ended_at=header.started_at + timedelta(seconds=seconds),
        seconds=seconds,
        outcome=status,
        first_cause=None if status == "passed" else _shorten_cause(cause),
        whole=whole,
        statuses=count_by_status(nodes),
        tests=_count_tests(nodes),
        # Extracted rows are loaded, and count once.
        rows=_sum(line.rows for line in lines if not line.stage.startswith("extract-")),
        bytes=_sum(node.bytes for node in executed),
        bytes_billed=billed,
        slot_seconds=_sum(node.slot_seconds for node in executed),
        cost=None if billed is None or price_per_tib is None else billed / TIB * price_per_tib,
        reuse=report.reuse if report else None,
        stages=lines,
        sources=_merge_sources(report, before, freshness or {}),
        marts=_merge_marts(report, before, mart_folders),
        published=report.published
        if report is not None
        else before.last.published
        if before is not None
        else None,
    )


def _count_tests(nodes: Iterable[NodeResult]) -> TestCounts:
    found = Counter(get_group(node.status) for node in nodes if node.resource_type in TESTS)
    return TestCounts(
        passed=found["good"],
        warned=found["warned"],
        failed=found["failed"],
        skipped=found["skipped"],
    )


def _merge_sources(
    report: RunReport | None,
    before: TargetHistory | None,
    freshness: Mapping[str, SourceFreshness],
) -> dict[str, SourceFreshness]:
    """Return the latest freshness of every source table."""
    known = before.last.sources if before else {}
    if report is None:
        return dict(known)
    ids = [i for i, node in report.lineage.items() if node.resource_type == "source"]
    # dbt's id is `source.<package>.<source>.<table>`.
    names = {i: i.split(".", 2)[2] for i in ids}
    nothing = SourceFreshness()
    never = datetime.min.replace(tzinfo=UTC)
    return {
        name: max(
            (known.get(name, nothing), freshness.get(i, nothing)),
            key=lambda each: each.checked_at or never,
        )
        for i, name in sorted(names.items(), key=lambda item: item[1])
    }


class _SourceResult(BaseModel):
    """An entry of dbt's `sources.json`; it has no times if the table could not be checked."""

    unique_id: str
    status: str
    max_loaded_at: datetime | None = None
    max_loaded_at_time_ago_in_s: float | None = None
    snapshotted_at: datetime | None = None


class _Metadata(BaseModel):
    generated_at: datetime


class _SourcesFile(BaseModel):
    metadata: _Metadata
    results: list[_SourceResult]


def load_freshness(
    store: StateStore, target: str, warn: Warn | None = None
) -> dict[str, SourceFreshness]:
    """Return the last freshness result by source id.

    Args:
        warn: see `StateStore.load`.

    Raises:
        StateStoreError: dbt's `sources.json` cannot be read, or has another structure.
    """
    file = store.load(f"targets/{target}/{SOURCES}", TypeAdapter(_SourcesFile), warn)
    if file is None:
        return {}
    return {
        entry.unique_id: SourceFreshness(
            status=entry.status,
            max_loaded_at=entry.max_loaded_at,
            age_seconds=entry.max_loaded_at_time_ago_in_s,
            checked_at=entry.snapshotted_at or file.metadata.generated_at,
        )
        for entry in file.results
    }


def _merge_marts(
    report: RunReport | None, before: TargetHistory | None, mart_folders: Collection[str]
) -> dict[str, MartState]:
    """Return every mart of the project, with its last build and its last known row count."""
    known = before.last.marts if before else {}
    if report is None:
        return dict(known)
    built = {
        node.name: node.completed_at
        for node in report.nodes
        if node.resource_type == "model" and node.status == "success" and node.completed_at
    }
    marts = {}
    for name in sorted(_mart_names(report.lineage, mart_folders)):
        mart = known.get(name, MartState())
        if name in built:
            mart = mart.model_copy(update={"built_at": built[name]})
        if name in report.marts:
            counted = {"rows": report.marts[name], "counted_at": report.completed_at}
            mart = mart.model_copy(update=counted)
        marts[name] = mart
    return marts


def _mart_names(lineage: Mapping[str, LineageNode], mart_folders: Collection[str]) -> set[str]:
    return {
        node.name
        for node in lineage.values()
        if node.resource_type == "model" and not set(mart_folders).isdisjoint(node.path.split("/"))
    }


def _response_number(node: NodeResult, key: str) -> int | None:
    value = node.response.get(key)
    return int(value) if isinstance(value, (int, float)) else None


def _sum(values: Iterable[Any]) -> Any:
    """Return the sum of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _shorten_cause(cause: str | None) -> str | None:
    """Return what is wrong, without place and fix, which are in the report."""
    if cause is None:
        return None
    return one_line(cause.partition("\n  where:")[0], MAX_CAUSE_LENGTH)
