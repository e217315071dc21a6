"""Fills `reporting/report.html.jinja`, which holds the page's text and its `<header>`.

The run report is one HTML file that loads no external fonts, images or scripts.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from prefect_flows.reporting.charts.critical_path import find_critical_path
from prefect_flows.reporting.charts.lineage_diagram import draw_lineage
from prefect_flows.reporting.charts.svg import NOTHING, get_group, size, slots
from prefect_flows.reporting.charts.timeline import draw_timeline
from prefect_flows.reporting.run_report.node_details import pack_details
from prefect_flows.reporting.templates import number, read_packaged_file, templates
from prefect_flows.transform.lineage import LineageNode
from prefect_flows.transform.results import count_by_status
from prefect_flows.transform.run_report import NodeTiming, RunReport

# Limits that keep the page small when hundreds of nodes fail.
MAX_CARDS, MAX_SHOWN_ROWS, MAX_SHOWN_BLOCKED = 40, 50, 40
# Between the tags of a row, for its script; no tag contains it.
TAG_SEPARATOR = "\x1f"


def html_page(report: RunReport, root: str = "../..") -> str:
    """Render the page for one folder; see `html_pages`."""
    return html_pages(report, [root])[0]


def html_pages(report: RunReport, roots: Sequence[str]) -> list[str]:
    """Render the page for several folders; every name, message and value in it is escaped.

    Args:
        report: the report.
        roots: the path from each folder to the root of the state store.
    """
    css, script = read_packaged_file("report.css"), read_packaged_file("report.js")
    picture = draw_lineage(report.nodes, report.lineage, report.reused)
    timeline_svg = draw_timeline(report.nodes, report.lineage)
    passed = [test for test in report.tests if test.status == "pass"]
    titles = {
        "summary": "Summary" if report.stages else "",
        "failures": "Failures" if report.cards else "",
        "timeline": "Timeline" if timeline_svg else "",
        "lineage": "Lineage" if picture else "",
        "slowest": "Slowest" if report.slowest else "",
        "costliest": "Costliest" if report.costliest else "",
        "tests": "Tests" if report.tests else "",
        "marts": "Marts" if report.marts else "",
        "nodes": "All nodes" if report.nodes or report.reused else "",
    }
    template = templates().get_template("report.html.jinja")
    values = {
        "report": report,
        "title": f"{report.project_name or 'Run'} on {report.target}",
        "details": pack_details(report),
        "times": _format_slowdown,
        "as_text": _format_parameter,
        "css": Markup(css),  # noqa: S704  # files of this package
        "script": Markup(script),  # noqa: S704
        "script_hash": _script_hash(script),
        "sections": [(anchor, title) for anchor, title in titles.items() if title],
        "totals": count_by_status(report.nodes),
        "cards": report.cards[:MAX_CARDS],
        "more_cards": report.cards[MAX_CARDS:],
        "most_rows": MAX_SHOWN_ROWS,
        "most_blocked": MAX_SHOWN_BLOCKED,
        "timeline": Markup(timeline_svg),  # noqa: S704  # escaped where it is drawn
        "path": find_critical_path(report.nodes, report.lineage),
        "lineage": picture,
        "lineage_svg": Markup(picture.svg) if picture else "",  # noqa: S704  # likewise
        "tests_open": [test for test in report.tests if test.status != "pass"],
        "tests_passed": passed,
        "nodes": list(_node_rows(report)),
    }
    return [template.render(values, root=root) for root in roots]


def _node_rows(report: RunReport) -> Iterator[Markup]:
    """Render the table of all nodes in Python, which is four times as fast as a template loop."""
    for node in report.nodes:
        known = report.lineage.get(node.unique_id)
        owner = known.owner if known and known.owner else ""
        status = f"{node.status}, resumed" if node.resumed else node.status
        costs = (
            f'<td class="n">{size(node.bytes)}</td><td class="n">{slots(node.slot_seconds)}</td>'
            if report.costliest
            else ""
        )
        yield Markup(  # noqa: S704  # each value is escaped or a number
            f"{_row_start(node.unique_id, node.name, known)}<td>{escape(node.resource_type)}</td>"
            f"<td>{escape(node.stage)}</td>"
            f'<td class="s-{get_group(node.status)}">{escape(status)}</td>'
            f'<td class="n">{node.seconds:.2f}{"*" if node.is_shared else ""}</td>'
            f'<td class="n">{number(node.rows)}</td>{costs}'
            f'<td class="n">{node.attempts}</td><td>{escape(owner)}</td>'
            f"{_reason(report, report.reasons.get(node.unique_id, ''))}</tr>\n"
        )
    for unique_id, run in report.reused.items():
        known = report.lineage.get(unique_id)
        name, kind = (known.name, known.resource_type) if known else (unique_id, "")
        owner = known.owner if known and known.owner else ""
        nothing = f'<td class="n">{NOTHING}</td>'
        yield Markup(  # noqa: S704  # each value is escaped
            f"{_row_start(unique_id, name, known)}<td>{escape(kind)}</td><td></td>"
            f'<td class="s-reused">reused</td>{nothing * (6 if report.costliest else 4)}'
            f"<td>{escape(owner)}</td>{_reason(report, f'as run {run} left it')}</tr>\n"
        )


def _row_start(unique_id: str, name: str, known: LineageNode | None) -> str:
    tags = TAG_SEPARATOR.join(known.tags) if known else ""
    tags = f' data-tags="{escape(tags)}"' if tags else ""
    return f'<tr{tags}><th scope="row" data-node="{escape(unique_id)}">{escape(name)}</th>'


def _reason(report: RunReport, text: str) -> str:
    return f"<td>{escape(text)}</td>" if report.reuse else ""


def _format_parameter(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _script_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _format_slowdown(slow: NodeTiming) -> str:
    """Format a node's duration as a multiple of its median."""
    if not slow.median_seconds:
        return "no earlier run"
    return f"{slow.seconds / slow.median_seconds:.1f} times"
