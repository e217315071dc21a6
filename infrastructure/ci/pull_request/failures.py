"""What failed in a build, for people: messages and rows without personal data, and no paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infrastructure.ci.pull_request.build_record import Build, Failure, Rows
from prefect_flows.reporting.run_report import build as reports
from prefect_flows.reporting.run_report.stage_reports import rows_of_failed_tests
from prefect_flows.transform.lineage import lineage_of
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.session import DbtSession


def failures_of(
    session: DbtSession,
    record: Build,
    results: Sequence[NodeResult],
    production: Mapping[str, Any],
    *,
    rows: bool,
) -> Iterator[Failure]:
    """What failed, as the report of a run says it: without values near personal data.

    Args:
        production: its manifest, with the SQL of what was deferred to.
        rows: whether rows of failed tests are fetched.
    """
    lineage = lineage_of(session.manifest)
    # What was deferred to was not compiled here; it is as production has it.
    compiled = {
        i: reports.Compiled(None, node["compiled_code"])
        for i, node in production["nodes"].items()
        if node.get("compiled_code")
    } | reports.compiled_of(session.manifest)
    found = dict(rows_of_failed_tests(session, results, lineage, compiled)) if rows else {}
    report = reports.build(
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
            message=_without_paths(card.message),
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


def _without_paths(message: str | None) -> str | None:
    """A message without the folders of the machine that built it."""
    lines = (message or "").splitlines()
    kept = [line for line in lines if not line.strip().startswith("compiled code at ")]
    return "\n".join(kept).strip() or None
