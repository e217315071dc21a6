"""Renders the run report as Markdown for a Prefect artifact, with limited size and escaped text."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from prefect_flows.core.formatting import format_duration
from prefect_flows.core.markup import code_block, escape_inline, escape_markdown, markdown_table
from prefect_flows.reporting.charts.lineage_diagram import draw_lineage, draw_neighborhood
from prefect_flows.reporting.charts.svg import size, slots
from prefect_flows.reporting.charts.timeline import draw_timeline
from prefect_flows.state.run_summary import StageSummary
from prefect_flows.transform.results import count_by_status, format_statuses
from prefect_flows.transform.run_report import FailureCard, RunReport

MAX_BYTES = 200_000
MAX_IMAGE_BYTES = 60_000
MAX_CARDS_BYTES = 70_000
MAX_CARDS, MAX_SHOWN_TESTS, MAX_SHOWN_MARTS, MAX_SHOWN_ROWS = 20, 100, 100, 10


def headline(report: RunReport) -> str:
    """Say in a few words how the run ended: `failed: dim_airlines (code) and 2 more`."""
    if report.cards:
        first, *others = report.cards
        more = f" and {len(others):,} more" if others else ""
        return (
            f"{report.outcome}: {escape_inline(first.name)} ({first.cause or first.status}){more}"
        )
    done = format_statuses(count_by_status(report.nodes)) if report.nodes else "nothing changed"
    return f"{report.outcome}: {done}" if report.outcome == "passed" else report.outcome


def cards_markdown(report: RunReport) -> str:
    """Render the run as one page of Markdown, at most 200 kB in UTF-8."""
    parts = [
        f"# {escape_markdown(report.project_name or 'Run')} on {escape_markdown(report.target)}: "
        f"{report.outcome}",
        f"Began {report.started_at:%Y-%m-%d %H:%M:%S} UTC, took {format_duration(report.seconds)}. "
        f"Run {escape_markdown(report.run_id, 80)}.",
    ]
    if report.first_cause:
        parts.append(f"**First cause.** {escape_markdown(report.first_cause, 600)}")
    if report.unreported:
        unreported = [f"- {escape_markdown(what)}" for what in report.unreported[:20]]
        parts.append("\n".join(["**Not reported to the Prefect API:**\n", *unreported]))
    parts.append(_summary(report))
    picture = picture_markdown(report)
    if picture:
        parts += ["## Timeline", picture]
    lineage = lineage_markdown(report)
    if lineage:
        parts += ["## Lineage", lineage]
    parts += [*_cards(report.cards), *_slowest(report), *_costliest(report)]
    parts += [*_tests(report), *_marts(report)]
    return "\n\n".join(parts) + "\n"


def picture_markdown(report: RunReport) -> str | None:
    """Render the timeline as a Markdown image; None if nothing was executed.

    It is a data URL, since Prefect's page breaks `svg` elements; the image adapts to light and dark
    mode. In a large run, neighbors share bars until the image is small enough.
    """
    for sliver in (1.0, 3.0, 8.0, 25.0):
        svg = draw_timeline(report.nodes, report.lineage, sliver, tooltips=False)
        if not svg:
            return None
        image = _image("Timeline of the run", svg)
        if image:
            return image
    return "The timeline is too large for this page; the report holds it."


def lineage_markdown(report: RunReport) -> str | None:
    """Render the lineage diagram as a Markdown image, with its note; None if nothing is drawn."""
    picture = draw_lineage(report.nodes, report.lineage, report.reused)
    if report.cards:
        # The whole graph, at the width of Prefect's page, is too small to read.
        first = report.cards[0].unique_id
        near = draw_neighborhood(report.nodes, report.lineage, first, report.reused)
        picture = near or picture
    if picture is None:
        return None
    image = _image("Lineage of the run", picture.svg)
    if image is None:
        return "The lineage is too large for this page; the report holds it."
    return f"{image}\n\n{escape_markdown(picture.note)}" if picture.note else image


def _image(title: str, svg: str) -> str | None:
    """Return a Markdown image with a data URL; None if it is too large."""
    data = base64.b64encode(svg.encode()).decode()
    if len(data) > MAX_IMAGE_BYTES:
        return None
    return f"![{title}](data:image/svg+xml;base64,{data})"


def _summary(report: RunReport) -> str:
    lines = [
        (
            escape_markdown(stage.stage),
            _describe_stage(stage),
            "" if stage.skipped is not None else f"{stage.seconds:,.1f}",
            "" if stage.skipped is not None else str(stage.attempts),
            "" if stage.rows is None else f"{stage.rows:,}",
        )
        for stage in report.stages
    ]
    total = (
        "all",
        escape_markdown(format_statuses(count_by_status(report.nodes))),
        f"{report.seconds:,.1f}",
        "",
        "",
    )
    header = ("stage", "what it did", "seconds", "attempts", "rows")
    return "## Summary\n\n" + markdown_table(header, [*lines, total], right=(2, 3, 4))


def _describe_stage(stage: StageSummary) -> str:
    if stage.skipped is not None:
        return f"skipped: {escape_markdown(stage.skipped)}"
    if not stage.statuses and stage.rows is not None:
        return "loaded"
    return escape_markdown(format_statuses(stage.statuses))


def _cards(cards: Sequence[FailureCard]) -> list[str]:
    if not cards:
        return []
    parts = [f"## Failures ({len(cards)})"]
    size, shown = 0, 0
    for card in cards[:MAX_CARDS]:
        text = _card(card)
        size += len(text.encode())
        if size > MAX_CARDS_BYTES and shown:
            break
        parts.append(text)
        shown += 1
    if shown < len(cards):
        parts.append(f"And {len(cards) - shown:,} more failures, which the report holds.")
    return parts


def _card(card: FailureCard) -> str:
    parts = [
        f"### {card.status}: {escape_markdown(card.resource_type)} {escape_markdown(card.name)}"
    ]
    if card.message:
        parts.append(code_block(card.message, "text", 2000))
    facts = [f"- cause: {card.cause or 'unknown'}"]
    if card.owner:
        group = f", group {escape_markdown(card.group)}" if card.group else ""
        facts.append(f"- owner: {escape_markdown(card.owner)}{group}")
    facts.append(f"- file: {escape_markdown(card.path)}")
    if card.compiled_path:
        facts.append(f"- compiled file: {escape_markdown(card.compiled_path)}")
    if card.failures is not None:
        facts.append(f"- failing rows: {card.failures:,}")
    if card.blocked:
        blocked_names = ", ".join(
            f"{kind} {escape_markdown(name, 100)}" for kind, name in card.blocked[:10]
        )
        more = f", and {len(card.blocked) - 10:,} more" if len(card.blocked) > 10 else ""
        facts.append(f"- blocked: {blocked_names}{more}")
    parts += ["\n".join(facts), "Reproduce:", code_block(card.command, "sh", 1000)]
    parts += _rows(card)
    if card.origins:
        parts.append(f"{escape_markdown(card.column)} comes from:")
        parts.append(code_block("\n".join(card.origins), "text", 2000))
    if card.compiled_sql:
        parts += ["Compiled SQL:", code_block(card.compiled_sql, "sql", 2000)]
    return "\n\n".join(parts)


def _rows(card: FailureCard) -> list[str]:
    found = card.failing_rows
    if found is None:
        return []
    parts = []
    if found.hidden_columns:
        hidden = ", ".join(escape_markdown(column, 80) for column in found.hidden_columns[:50])
        parts.append(f"Left out as personal data: {hidden}.")
    if found.note:
        parts.append(escape_markdown(found.note))
    columns, rows = found.columns[:12], found.rows[:MAX_SHOWN_ROWS]
    if columns:
        cells = [
            ["*null*" if value is None else escape_markdown(value, 80) for value in row[:12]]
            for row in rows
        ]
        parts.append(markdown_table([escape_markdown(column, 80) for column in columns], cells))
    return parts


def _slowest(report: RunReport) -> list[str]:
    lines = [
        (
            escape_markdown(slow.name, 150),
            f"{slow.seconds:,.2f}",
            "" if slow.median_seconds is None else f"{slow.median_seconds:,.2f}",
            str(slow.runs),
            "**slower**" if slow.regression else "",
        )
        for slow in dict.fromkeys([*report.slowest, *report.regressions[:20]])
    ]
    if not lines:
        return []
    header = ("node", "seconds", "median", "earlier runs", "against the median")
    return ["## Slowest nodes", markdown_table(header, lines, right=(1, 2, 3))]


def _costliest(report: RunReport) -> list[str]:
    if not report.costliest:
        return []
    lines = [
        (escape_markdown(node.name, 150), size(node.bytes), slots(node.slot_seconds))
        for node in report.costliest
    ]
    header = ("node", "data read", "slot seconds")
    return ["## Costliest nodes", markdown_table(header, lines, right=(1, 2))]


def _tests(report: RunReport) -> list[str]:
    lines = [
        (
            escape_markdown(test.name, 150),
            escape_markdown(test.status),
            "" if test.failures is None else f"{test.failures:,}",
        )
        for test in report.tests
        if test.status not in {"pass", "skipped"}
    ]
    if not lines:
        return []
    parts = [
        f"## Tests that failed or warned ({len(lines):,} of {len(report.tests):,})",
        markdown_table(("test", "status", "failing rows"), lines[:MAX_SHOWN_TESTS], right=(2,)),
    ]
    if len(lines) > MAX_SHOWN_TESTS:
        parts.append(f"And {len(lines) - MAX_SHOWN_TESTS:,} more.")
    return parts


def _marts(report: RunReport) -> list[str]:
    if not report.marts:
        return []
    lines = [(escape_markdown(mart, 80), f"{rows:,}") for mart, rows in report.marts.items()]
    return ["## Marts", markdown_table(("mart", "rows"), lines[:MAX_SHOWN_MARTS], right=(1,))]
