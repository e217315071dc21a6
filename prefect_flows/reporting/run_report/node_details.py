"""What the panel of a node shows, as data in the report page."""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from typing import Any

from prefect_flows.reporting.column_lineage import format_column
from prefect_flows.reporting.run_report.build import find_blocked
from prefect_flows.transform.lineage import TESTS, LineageNode, get_children
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.run_report import RunReport

# Limits of one panel.
MAX_SQL, MAX_LINE, MAX_BLOCKED = 20_000, 4_000, 40


def pack_details(report: RunReport) -> str:
    """Return node id → details as gzipped JSON in base64.

    Compiled SQL repeats itself: 3,000 nodes with 3 MB of SQL take 200 kB. The page unpacks it when
    the first panel opens.
    """
    text = json.dumps(_details(report), separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _details(report: RunReport) -> dict[str, dict[str, Any]]:
    """Return the details of each node that the page names; empty values are left out."""
    results = {node.unique_id: node for node in report.nodes}
    tests = _tests_by_node(report, results)
    commands = {card.unique_id: card.command for card in report.cards}
    children = get_children(report.lineage)
    details = {}
    for unique_id, node in report.lineage.items():
        result = results.get(unique_id)
        below = [i for i in children.get(unique_id, ()) if i in report.lineage]
        found = {
            "name": node.name,
            "type": node.resource_type,
            "status": _status(report, unique_id, result),
            "path": node.path,
            "owner": node.owner,
            "group": node.group,
            "tags": node.tags,
            "relation": node.relation,
            "stage": result.stage if result else "",
            "seconds": round(result.seconds, 2) if result else None,
            "rows": result.rows if result else None,
            "because": report.reasons.get(unique_id),
            "log": [line[:MAX_LINE] for line in report.attempts.get(unique_id, ())],
            "durations": [round(each, 2) for each in report.durations.get(unique_id, ())],
            "columns": _columns(report, node),
            "tests": tests[unique_id],
            "reads": [i for i in node.parents if i in report.lineage],
            "feeds": [i for i in below if report.lineage[i].resource_type not in TESTS],
            "blocks": find_blocked(result, report.lineage, children, results)[:MAX_BLOCKED]
            if result and result.failed
            else [],
            "command": commands.get(unique_id),
            "sql": report.compiled.get(unique_id, "")[:MAX_SQL],
        }
        details[unique_id] = {key: value for key, value in found.items() if value not in (None, "")}
    return details


def _columns(report: RunReport, node: LineageNode) -> list[list[Any]]:
    """Return name, type, description and origins of each column that YAML or the check names."""
    declared = {column.name.lower(): column for column in node.columns}
    origins = report.columns.get(node.unique_id, {})
    names = {column.name.lower(): column.name for column in node.columns}
    for name in origins:
        names.setdefault(name.lower(), name)
    by_name = {name.lower(): found for name, found in origins.items()}
    return [
        [
            name,
            declared[key].data_type if key in declared else "",
            declared[key].description if key in declared else "",
            ", ".join(map(format_column, by_name.get(key, ()))),
        ]
        for key, name in names.items()
    ]


def _status(report: RunReport, unique_id: str, result: NodeResult | None) -> str:
    if result is not None:
        return f"{result.status}, resumed" if result.resumed else result.status
    run = report.reused.get(unique_id)
    return f"reused since run {run}" if run else ""


def _tests_by_node(
    report: RunReport, results: dict[str, NodeResult]
) -> defaultdict[str, list[list[str]]]:
    """Return node id → id and status of each test of it."""
    tests: defaultdict[str, list[list[str]]] = defaultdict(list)
    for unique_id, node in report.lineage.items():
        if node.resource_type in TESTS:
            status = _status(report, unique_id, results.get(unique_id)) or "not run"
            for about in (node.attached_to,) if node.attached_to else node.parents:
                tests[about].append([unique_id, status])
    return tests
