"""Column lineage in reports: where the values of a column come from.

Google's SQL analyzer resolves it, which runs do not need. `millrace check models` writes a file
on this machine. A report shows what it says of the nodes whose own files are still the same.
Without it, reports show nodes only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from prefect_flows.core.files import Warn, read_or_quarantine

if TYPE_CHECKING:
    from prefect_flows.transform.run_report import FailureCard, RunReport

# Below the folder of this machine.
FILE = "check/column_lineage.json"
# Lines of a failure card.
MAX_LINES = 20

# Unique id of a node, and column.
ColumnKey = tuple[str, str]
# Unique id of a node → column → the columns that its values come from.
ColumnLineage = Mapping[str, Mapping[str, Sequence[ColumnKey]]]


@dataclass(frozen=True)
class _CheckedNode:
    """The columns of a node; `checksum` is dbt's hash of its file when it was checked."""

    checksum: str
    columns: dict[str, list[ColumnKey]]


def dump_column_lineage(lineage: ColumnLineage, checksums: Mapping[str, str]) -> str:
    """Return the content of the file.

    Args:
        lineage: lineage of the checked nodes.
        checksums: unique id of a node → dbt's hash of its file.
    """
    nodes = {
        node: _CheckedNode(checksums[node], {name: list(found) for name, found in columns.items()})
        for node, columns in lineage.items()
    }
    return json.dumps({node: asdict(checked) for node, checked in nodes.items()})


def column_lineage(
    local_dir: Path, checksums: Mapping[str, str], warn: Warn
) -> dict[str, dict[str, list[ColumnKey]]]:
    """Return unique id of a node → column → the columns that its values come from.

    It lacks nodes whose files have changed since the check. It is empty if this machine has not
    checked the project.

    Args:
        local_dir: folder for everything that this machine creates.
        checksums: unique id of a node → dbt's hash of its file.
        warn: is called if the file cannot be read.
    """
    try:
        found = read_or_quarantine(local_dir / FILE, TypeAdapter(dict[str, _CheckedNode]), warn)
    except OSError as error:
        warn(
            f"The report has no columns: {error.strerror}.\n  where: {local_dir / FILE}\n"
            f"  fix: chmod u+rw {local_dir / FILE}"
        )
        return {}
    return {
        node: checked.columns
        for node, checked in (found or {}).items()
        if checked.checksum == checksums.get(node)
    }


def add_columns(report: RunReport, lineage: ColumnLineage) -> RunReport:
    """Return a report with column lineage, and in each card of a failed test on a column, its."""
    return replace(
        report,
        columns=lineage,
        cards=[_add_origins(card, report, lineage) for card in report.cards],
    )


def _add_origins(card: FailureCard, report: RunReport, lineage: ColumnLineage) -> FailureCard:
    test = report.lineage.get(card.unique_id)
    if test is None or not test.test_column:
        return card
    node = test.attached_to or ""
    wanted = test.test_column.strip('"`').lower()
    column = next((name for name in lineage.get(node, {}) if name.lower() == wanted), None)
    if column is None:
        return card
    origins = {(of, name): found for of, each in lineage.items() for name, found in each.items()}
    lines = list(draw_columns((node, column), origins))
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f"and {len(lines) - MAX_LINES} more"]
    return replace(card, column=format_column((node, column)), origins=lines)


def draw_columns(start: ColumnKey, edges: Mapping[ColumnKey, Sequence[ColumnKey]]) -> Iterator[str]:
    """Yield the lines of the tree below a column; a column that was drawn is not followed again."""
    seen = {start}

    def draw(column: ColumnKey, depth: int) -> Iterator[str]:
        for other in edges.get(column, ()):
            again = other in seen and bool(edges.get(other))
            yield f"{'  ' * depth}{format_column(other)}{' (see above)' if again else ''}"
            if other not in seen:
                seen.add(other)
                yield from draw(other, depth + 1)

    yield from draw(start, 0)


def format_column(column: ColumnKey) -> str:
    """Return a column with its node: `fct_flights.plane_key`, `raw.flights.tailnum (source)`."""
    node, name = column
    kind = node.partition(".")[0]
    shown = "" if kind == "model" else f" ({kind})"
    return f"{get_short_name(node)}.{name}{shown}"


def get_short_name(unique_id: str) -> str:
    """Return a node's name: that of its id without type and package, and a test's hash."""
    kind, *rest = unique_id.split(".")
    if kind == "source":
        return ".".join(rest[1:])
    return rest[1] if len(rest) > 1 else unique_id
