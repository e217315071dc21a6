"""Format numbers, names and tables of the comment as Markdown without mentions or references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from infrastructure.ci.pull_request.build_record import ChangedNode
from infrastructure.ci.pull_request.differences import Difference
from infrastructure.ci.pull_request.lineage_diagram import format_signed
from prefect_flows.reporting.charts.svg import NOTHING
from prefect_flows.reporting.run_report.history import FACTOR, SLOWER_BY_SECONDS


def format_details(title: str, lines: Sequence[str], most: int) -> Iterable[str]:
    """Yield a collapsed `<details>` section, if there are lines."""
    if lines:
        shown = "\n".join([*lines[:most], *format_omitted(len(lines), most)])
        yield f"<details><summary>{title} ({len(lines):,})</summary>\n\n{shown}\n\n</details>"


def format_omitted(all_of_them: int, shown: int) -> list[str]:
    """Return a line with the number of items that are not shown, if any."""
    return [f"- and {all_of_them - shown:,} more"] if all_of_them > shown else []


def format_rows(found: Difference) -> str:
    """Format the number of rows in production and in the pull request."""
    if found.rows_after is None:
        return NOTHING
    if found.rows_before is None or found.rows_before == found.rows_after:
        return f"{found.rows_after:,}"
    return f"{found.rows_before:,} → {found.rows_after:,}"


def format_columns(found: Difference) -> str:
    """Format the number of columns added, removed and of a changed type."""
    if found.rows_before is None and found.columns_added:
        return f"{len(found.columns_added):,}"
    added, removed = len(found.columns_added), len(found.columns_removed)
    return format_signed(added, removed, len(found.types)) or NOTHING


def format_count(value: int | None) -> str:
    """Format a number of rows, or a placeholder if it is unknown."""
    return NOTHING if value is None else f"{value:,}"


def format_time(built: ChangedNode) -> str:
    """Format the build's seconds, and production's usual ones."""
    if built.status is None:
        return NOTHING
    usual = NOTHING if built.usual_seconds is None else f"{built.usual_seconds:,.1f}"
    return f"{built.seconds:,.1f} ({usual})"


def is_slower(built: ChangedNode) -> bool:
    """Return whether a model is slower, by the rule of the run report."""
    usual = built.usual_seconds
    return usual is not None and (
        built.seconds > FACTOR * usual and built.seconds - usual >= SLOWER_BY_SECONDS
    )
