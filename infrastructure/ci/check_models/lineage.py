"""Column lineage of the project: where a column comes from, and what uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from infrastructure.ci.check_models.findings import CheckResult
from prefect_flows.core.errors import ConfigurationError, SelectionError, did_you_mean
from prefect_flows.core.project_folder import get_install_command
from prefect_flows.reporting.column_lineage import (
    ColumnKey,
    draw_columns,
    format_column,
    get_short_name,
)


def format_lineage(result: CheckResult, column: str) -> str:
    """Format the lineage of a column as two trees.

    Args:
        result: the result of a check.
        column: `model.column`.

    Raises:
        ConfigurationError: the analyzer, which resolves columns, is not installed.
        SelectionError: there is no such column.
    """
    if not result.lineage:
        raise ConfigurationError(
            "The lineage of columns needs Google's SQL analyzer.",
            where="this Python environment",
            fix=get_install_command("check"),
        )
    start = _find_column(result, column)
    origins, uses = _build_graphs(result)
    lines = [format_column(start)]
    lines.append("comes from:")
    lines += _draw(start, origins) or ["  nothing: it reads no column"]
    lines.append("used by:")
    lines += _draw(start, uses) or ["  no other column"]
    return "\n".join(lines)


def _draw(start: ColumnKey, edges: Mapping[ColumnKey, Sequence[ColumnKey]]) -> list[str]:
    return [f"  {line}" for line in draw_columns(start, edges)]


def _find_column(result: CheckResult, column: str) -> ColumnKey:
    name, _, wanted = column.rpartition(".")
    known = {get_short_name(node): node for node in result.lineage}
    for each in result.lineage.values():
        known |= {get_short_name(node): node for found in each.values() for node, _ in found}
    fix = "write MODEL.COLUMN, for example: uv run millrace check lineage fct_flights.is_on_time"
    if name not in known:
        raise SelectionError(
            f"There is no model {name!r} whose columns are known.{did_you_mean(name, known)}",
            where=column,
            fix=fix,
        )
    node = known[name]
    names = _list_columns(result, node)
    if wanted not in names:
        raise SelectionError(
            f"{name} has no column {wanted!r}.{did_you_mean(wanted, names)}",
            where=column,
            fix=fix,
        )
    return node, wanted


def _list_columns(result: CheckResult, node: str) -> list[str]:
    """Return the columns of a node; of a source, those that something uses."""
    if node in result.lineage:
        return list(result.lineage[node])
    found = {
        name
        for columns in result.lineage.values()
        for origins in columns.values()
        for parent, name in origins
        if parent == node
    }
    return sorted(found)


def _build_graphs(
    result: CheckResult,
) -> tuple[dict[ColumnKey, list[ColumnKey]], dict[ColumnKey, list[ColumnKey]]]:
    origins: dict[ColumnKey, list[ColumnKey]] = {}
    uses: dict[ColumnKey, list[ColumnKey]] = {}
    for node, columns in sorted(result.lineage.items()):
        for column, found in columns.items():
            for parent, name in found:
                origins.setdefault((node, column), []).append((parent, name))
                uses.setdefault((parent, name), []).append((node, column))
    return origins, uses
