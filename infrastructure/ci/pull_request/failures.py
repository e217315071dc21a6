"""Format the failures of a build: messages and rows without personal data or local paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infrastructure.ci.pull_request.build_record import Build, Failure, Rows
from prefect_flows.reporting.run_report import build as reports
from prefect_flows.reporting.run_report.stage_reports import fetch_failing_rows
from prefect_flows.transform.lineage import build_lineage
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.session import DbtSession


def build_failures(
    session: DbtSession,
    record: Build,
    results: Sequence[NodeResult],
    production: Mapping[str, Any],
    *,
    rows: bool,
) -> Iterator[Failure]:
    """Yield the failed nodes with messages and rows, redacted like the run report.

    Args:
        session: dbt session of the build.
        record: record of the build.
        results: results of all nodes.
        production: production's manifest, with the compiled SQL of deferred nodes.
        rows: whether to fetch rows of failed tests.
    """
    lineage = build_lineage(session.manifest)
    # Deferred nodes were not compiled in this build; use production's SQL.
    compiled = {
        i: reports.Compiled(None, node["compiled_code"])
        for i, node in production["nodes"].items()
        if node.get("compiled_code")
    } | reports.get_compiled(session.manifest)
    found = dict(fetch_failing_rows(session, results, lineage, compiled)) if rows else {}
    report = reports.build_report(
        reports.ReportInput(
            target=record.target,
            run_id=record.id,
            project_name="",
            dialect=record.warehouse,
            outcome="failed",
            started_at=record.started_at,
            seconds=0,
            lineage=lineage,
            results=results,
            compiled=compiled,
            failing_rows=found,
        )
    )
    for card in report.cards:
        shown = card.failing_rows
        yield Failure(
            unique_id=card.unique_id,
            name=card.name,
            resource_type=card.resource_type,
            status=card.status,
            path=card.path,
            owner=card.owner,
            message=_remove_paths(card.message),
            failures=card.failures,
            rows=None
            if shown is None
            else Rows(
                columns=shown.columns,
                rows=shown.rows,
                hidden_columns=shown.hidden_columns,
                note=shown.note,
            ),
        )


def _remove_paths(message: str | None) -> str | None:
    """Return a message without paths of the build machine."""
    lines = (message or "").splitlines()
    kept = [line for line in lines if not line.strip().startswith("compiled code at ")]
    return "\n".join(kept).strip() or None
