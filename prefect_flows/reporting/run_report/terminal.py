"""What a failed run prints at its end: stages, failures with the words of the database, report."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from prefect_flows.core.formatting import truncate_long
from prefect_flows.reporting.run_report import stage_summaries
from prefect_flows.transform.results import SKIPPED
from prefect_flows.transform.run_report import FailureCard, RunReport

MAX_NODES = 10
MAX_MESSAGE_CHARACTERS = 2_000


def failure_text(record: Mapping[str, Any], report: RunReport, place: str) -> str:
    """Format what a person needs first when a run has failed.

    Args:
        record: what each stage did.
        report: the report of the run.
        place: path or URL of the report.
    """
    table = io.StringIO()
    stage_summaries.print_run(Console(file=table, highlight=False), record)
    parts = [table.getvalue().rstrip()]
    if report.cards:
        parts.append(f"Failed ({len(report.cards):,}):")
        parts += [_failure(card) for card in report.cards[:MAX_NODES]]
        if len(report.cards) > MAX_NODES:
            parts.append(f"  and {len(report.cards) - MAX_NODES:,} more")
    skipped = [f"{n.resource_type} {n.name}" for n in report.nodes if n.status == SKIPPED]
    if skipped:
        more = f", and {len(skipped) - MAX_NODES:,} more" if len(skipped) > MAX_NODES else ""
        parts.append(f"Skipped ({len(skipped):,}): {', '.join(skipped[:MAX_NODES])}{more}")
    parts.append(f"Report: {place}")
    return "\n".join(parts)


def _failure(card: FailureCard) -> str:
    facts = [f"{card.resource_type} {card.name}", card.cause or card.status]
    if card.owner:
        facts.append(f"owner {card.owner}")
    lines = [f"  {', '.join(facts)}"]
    message = truncate_long(card.message or card.status, MAX_MESSAGE_CHARACTERS)
    lines += [f"    {line}" for line in message.splitlines()]
    if card.origins:
        lines.append(f"    {card.column} comes from:")
        lines += [f"      {line}" for line in card.origins]
    lines.append(f"    reproduce: {card.command}")
    return "\n".join(lines)
