"""Summarizes stages (extract, load, transform, test): Markdown artifacts and terminal tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prefect_flows.core.markup import code_block, escape_inline, markdown_table
from prefect_flows.transform.results import format_statuses

MAX_FAILURE_LENGTH = 10_000
Record = Mapping[str, Any]

TRANSFORMATIONS = ("seed", "snapshot", "run", "build")
CHECKS = ("freshness", "test")


def extraction(record: Record) -> str:
    """Summarize what was read from each source, how fast, and which rows were rejected."""
    loads = record.get("ingest", {})
    lines = [
        (
            source,
            f"{sum(load['rows'].values()):,}",
            f"{load['bytes']:,}",
            f"{load['extract_seconds']:.1f}",
            _rate(sum(load["rows"].values()), load["extract_seconds"]),
            f"{load['rejected_rows']:,}",
        )
        for source, load in loads.items()
    ]
    header = ("source", "rows", "bytes", "seconds", "rows a second", "rejected rows")
    rejected = [
        (source, r["table"], r["where"], r["why"], f"{r['rows']:,}")
        for source, load in loads.items()
        for r in load["rejected"]
    ]
    body = _table(header, lines) if lines else "No source was ingested."
    if rejected:
        body += "\n\n" + _table(("source", "table", "where", "why", "rows"), rejected)
    return _with_title(f"Extraction into {record['target']}", body)


def load(record: Record) -> str:
    """Summarize rows per table, speed, and schema changes."""
    loads = record.get("ingest", {})
    lines = [
        (
            f"{stage_record['schema']}.{table}",
            f"{count:,}",
            f"{stage_record['removed'].get(table, 0):,}",
            f"{stage_record['load_seconds']:.1f}",
            _rate(sum(stage_record["rows"].values()), stage_record["load_seconds"]),
        )
        for stage_record in loads.values()
        for table, count in stage_record["rows"].items()
    ]
    header = ("table", "new rows", "removed rows", "seconds of the source", "its rows a second")
    changes = [(d["schema"], change) for d in loads.values() for change in d["schema_changes"]]
    body = _table(header, lines) if lines else "No source was loaded."
    if changes:
        body += "\n\n" + _table(("schema", "change"), changes)
    return _with_title(f"Load into {record['target']}", body)


def transformation(record: Record) -> str:
    """Summarize seeds, snapshots and models."""
    return _with_title(
        f"Transformation of {record['target']}", _stage_tables(record, TRANSFORMATIONS)
    )


def validation(record: Record) -> str:
    """Summarize source freshness and tests."""
    return _with_title(f"Validation of {record['target']}", _stage_tables(record, CHECKS))


def run(record: Record, failure: str | None = None) -> str:
    """Summarize the whole run on one page."""
    outcome = "Every stage passed."
    if failure is not None:
        outcome = f"**Failed.**\n\n{code_block(failure, '', MAX_FAILURE_LENGTH)}"
    marts = _table(
        ("mart", "rows"), [(mart, f"{rows:,}") for mart, rows in record.get("marts", {}).items()]
    )
    parts = [outcome, _table(("stage", "what it did", "seconds"), _stage_lines(record))]
    if record.get("marts"):
        parts.append(marts)
    return _with_title(f"Run of {record['target']}", "\n\n".join(parts))


def print_run(console: Console, record: Record) -> None:
    """Print the run to a terminal: stages with their duration, then rows per mart."""
    stages = Table("stage", "what it did", title=f"Run of {record['target']}", title_justify="left")
    stages.add_column("seconds", justify="right")
    for line in _stage_lines(record):
        stages.add_row(*map(Text, line))
    console.print(stages)
    if record.get("marts"):
        marts = Table("mart")
        marts.add_column("rows", justify="right")
        for mart, rows in record["marts"].items():
            marts.add_row(Text(mart), f"{rows:,}")
        console.print(marts)


def _stage_lines(record: Record) -> list[tuple[str, str, str]]:
    lines = [("selection", f"nothing matches {name}", "") for name in record.get("unmatched", [])]
    for source, load in record.get("ingest", {}).items():
        rows = f"{sum(load['rows'].values()):,}"
        rejected = f", {load['rejected_rows']:,} refused" if load["rejected_rows"] else ""
        read = f"{rows} rows, {load['bytes'] / 1e6:,.1f} MB{rejected}"
        lines.append((f"extract-{source}", read, f"{load['extract_seconds']:.1f}"))
        lines.append((f"load-{source}", f"{rows} new rows", f"{load['load_seconds']:.1f}"))
    for stage in ("freshness", *TRANSFORMATIONS, "test"):
        stage_record = record.get(stage)
        if stage_record is None:
            continue
        if "skipped" in stage_record:
            lines.append((f"dbt-{stage}", f"skipped: {stage_record['skipped']}", ""))
        else:
            attempts = (
                f", in {stage_record['attempts']} attempts" if stage_record["attempts"] > 1 else ""
            )
            resumed = (
                f", {stage_record['resumed']} of them before" if stage_record["resumed"] else ""
            )
            what = format_statuses(stage_record["statuses"]) + attempts + resumed
            lines.append((f"dbt-{stage}", what, f"{stage_record['seconds']:.1f}"))
    if "reuse" in record:
        reuse = record["reuse"]
        what = f"{reuse['reused']:,} of {reuse['reused'] + reuse['executed']:,} nodes"
        lines.append(("reused", what, ""))
    if "publish" in record:
        publish = record["publish"]
        blocked = f"; not {', '.join(publish['blocked'])}" if publish["blocked"] else ""
        what = f"{len(publish['models'])} models shown to readers{blocked}"
        lines.append(("publish", what, f"{publish['seconds']:.1f}"))
    if "docs" in record:
        docs = record["docs"]
        what = f"{docs['relations']:,} relations documented"
        lines.append(("dbt-docs", what, f"{docs['seconds']:.1f}"))
    if "seconds" in record:
        lines.append(("whole run", "", f"{record['seconds']:.1f}"))
    return lines


def _stage_tables(record: Record, stages: Iterable[str]) -> str:
    stage_record = {stage: record[stage] for stage in stages if "nodes" in record.get(stage, {})}
    if not stage_record:
        return "Nothing was run."
    table = _table(
        ("stage", "nodes", "by status", "attempts", "rows", "bytes", "seconds", "rows a second"),
        [
            (
                f"dbt-{stage}",
                str(r["nodes"]),
                format_statuses(r["statuses"]),
                str(r["attempts"]),
                f"{r['rows']:,}" if r["rows"] else "",
                f"{r['bytes']:,}" if r["bytes"] else "",
                str(r["seconds"]),
                _rate(r["rows"], r["seconds"]) if r["rows"] else "",
            )
            for stage, r in stage_record.items()
        ],
    )
    failed_or_warned = [
        (node["status"], node["node"], node["cause"] or "", node["message"] or "")
        for r in stage_record.values()
        for node in (*r["failed"], *r["warned"])
    ]
    if failed_or_warned:
        table += "\n\n" + _table(("status", "node", "cause", "message"), failed_or_warned)
    return table


def _rate(rows: int, seconds: float) -> str:
    return f"{rows / seconds:,.0f}" if seconds else ""


def _with_title(title: str, body: str) -> str:
    return f"# {title}\n\n{body}\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown_table(header, ([escape_inline(value) for value in line] for line in rows))
