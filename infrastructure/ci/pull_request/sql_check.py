"""Format what `millrace check models` found for the pull request comment."""

from __future__ import annotations

from collections.abc import Iterator

from infrastructure.ci.check_models.findings import CheckResult
from infrastructure.ci.pull_request.formatting import format_details, format_omitted
from prefect_flows.core.markup import escape_for_github as escaped
from prefect_flows.reporting.column_lineage import get_short_name


def format_sql_check(check: CheckResult, most: int) -> Iterator[str]:
    """Yield the section of the comment, with at most so many errors and unchecked nodes."""
    yield "### SQL check"
    lines = [
        f"- `{found.place}` ({', '.join(found.warehouses)}): {escaped(found.message, 300)}"
        + (f"; {escaped(found.suggestion, 200)}" if found.suggestion else "")
        for found in check.findings[:most]
    ]
    lines += format_omitted(len(check.findings), most)
    counts = ", ".join(f"{n:,} nodes for {name}" for name, n in check.checked.items())
    yield "\n".join(lines) or f"No errors in {counts}."
    unchecked = [
        f"- {escaped(get_short_name(each.node), 120)}: {escaped(each.reason, 200)}"
        for each in check.unchecked
    ]
    yield from format_details("Not checked", unchecked, most)
