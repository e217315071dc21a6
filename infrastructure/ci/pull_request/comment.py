"""Format the pull request comment as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from infrastructure.ci.check_models.findings import CheckResult
from infrastructure.ci.pull_request.build_record import Build, ChangedNode, Failure
from infrastructure.ci.pull_request.differences import Comparison, Difference
from infrastructure.ci.pull_request.formatting import (
    format_columns,
    format_count,
    format_details,
    format_omitted,
    format_rows,
    format_time,
    is_slower,
)
from infrastructure.ci.pull_request.lineage_diagram import MINUS, build_mermaid, get_name
from infrastructure.ci.pull_request.sql_check import format_sql_check
from prefect_flows.core.formatting import format_duration
from prefect_flows.core.markup import code_block, markdown_table
from prefect_flows.core.markup import escape_for_github as escaped
from prefect_flows.reporting.charts.svg import size
from prefect_flows.transform.results import format_statuses

# First line of the comment, by which it is found again; GitHub does not render it.
MARKER = "<!-- millrace pull request -->"
# GitHub's limit is 65,536 characters; counting bytes is stricter.
MAX_BYTES = 60_000
# Maximum models, failures and failing rows; the next level is tried if the comment is too long.
LEVELS = ((200, 20, 20), (100, 20, 10), (50, 10, 10), (25, 5, 5), (10, 3, 3))
DOCUMENTATION = "documentation/pull_requests.md"

_ORDER = ("failed", "differs", "unknown", "new", "removed", "same")


def build_comment(
    build: Build,
    comparison: Comparison,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    sql_check: CheckResult | None = None,
) -> str:
    """Format the comment, at most 60,000 bytes.

    Args:
        build: what was built.
        comparison: how it differs from production.
        before: production's manifest.
        after: the pull request's manifest.
        sql_check: what `millrace check models` found; None leaves it out.
    """
    picture = build_mermaid(build, comparison, before, after)
    text = ""
    for models, failures, rows in LEVELS:
        parts = _Sections(build, comparison, models, failures, rows, sql_check)
        text = "\n\n".join([*parts.all(), *_lineage(picture), parts.end()]) + "\n"
        if len(text.encode()) <= MAX_BYTES:
            return text
    raise AssertionError("the shortest comment does not fit")


class _Sections:
    """The sections of the comment, limited to a number of models, failures and rows."""

    def __init__(
        self,
        build: Build,
        comparison: Comparison,
        models: int,
        failures: int,
        rows: int,
        sql_check: CheckResult | None,
    ) -> None:
        self._sql_check = sql_check
        self._build = build
        self._found = {each.unique_id: each for each in comparison.differences}
        self._comparison = comparison
        self._most_models, self._most_failures, self._most_rows = models, failures, rows
        failed = {each.unique_id for each in build.failures}
        self._classes = {
            each.unique_id: _class(each, self._found.get(each.unique_id), failed)
            for each in build.nodes
        }
        self._ordered = sorted(
            build.nodes, key=lambda b: (_ORDER.index(self._classes[b.unique_id]), b.unique_id)
        )

    def all(self) -> Iterable[str]:
        """Yield all sections except the diagram and the footer."""
        build = self._build
        yield f"{MARKER}\n## {self._title()}"
        yield self._how()
        if build.refusal:
            yield "dbt builds nothing of this:\n\n" + code_block(build.refusal, "text", 2000)
        yield from self._breaks()
        yield from self._failures()
        yield from self._sql_errors()
        yield from self._models()
        yield from self._columns()
        yield from self._notes()
        yield from self._costs()

    def end(self) -> str:
        """Format the footer, which links the documentation."""
        return f"<sub>What each figure means: `{DOCUMENTATION}`</sub>"

    def _title(self) -> str:
        build = self._build
        if build.refusal:
            return "The contract of a versioned model is broken"
        differ = len(build.nodes)
        if not differ and not build.tests:
            return "No model differs from production"
        failed = len(build.failures)
        models = f"{differ:,} model{'' if differ == 1 else 's'} changed or downstream"
        if failed:
            return f"{failed:,} failure{'' if failed == 1 else 's'}; {models}"
        tests = sum(build.tests.values())
        return (
            f"{models}; all {tests:,} tests pass"
            if not build.tests.get("warn")
            else (f"{models}; {build.tests['warn']:,} of {tests:,} tests warn")
        )

    def _how(self) -> str:
        build = self._build
        tests = format_statuses(build.tests) if build.tests else "none"
        text = (
            f"Commit {escaped(build.version)}, built in {format_duration(build.seconds)} into "
            f"`{build.schema_name}` with target `{build.target}`, against the last good run of "
            f"`{build.production}`. Tests: {tests}."
        )
        classes = [self._classes[b.unique_id] for b in build.nodes]
        labels = {
            "differs": "differ in rows or columns",
            "same": "do not differ",
            "new": "new",
            "removed": "removed",
            "failed": "not built",
            "unknown": "not compared",
        }
        if build.nodes:
            parts = [f"{classes.count(c):,} {word}" for c, word in labels.items() if c in classes]
            text += f" Of {len(classes):,} models, seeds and snapshots: {', '.join(parts)}."
        return text

    def _breaks(self) -> Iterable[str]:
        if not self._build.contract_breaks:
            return
        yield "### Contract breaks"
        listed = list(self._build.contract_breaks.items())[: self._most_models]
        lines = [f"- **{escaped(m, 120)}**: {escaped(' '.join(b), 400)}" for m, b in listed]
        yield "\n".join([*lines, *format_omitted(len(self._build.contract_breaks), len(listed))])

    def _failures(self) -> Iterable[str]:
        failures = self._build.failures
        if not failures:
            return
        yield "### Failures"
        for failure in failures[: self._most_failures]:
            yield from self._failure(failure)
        yield from format_omitted(len(failures), self._most_failures)

    def _failure(self, failure: Failure) -> Iterable[str]:
        facts = [f"{escaped(failure.resource_type)} in `{failure.path}`"]
        if failure.failures is not None and failure.resource_type == "test":
            facts.append(f"{failure.failures:,} failing rows")
        if failure.owner:
            facts.append(f"owner: {escaped(failure.owner, 120)}")
        yield f"**{failure.status}: {escaped(failure.name, 150)}** ({'; '.join(facts)})"
        if failure.message:
            yield code_block(failure.message.strip(), "text", 1000)
        rows = failure.rows
        if rows is None:
            return
        if rows.hidden_columns:
            hidden = ", ".join(escaped(column, 80) for column in rows.hidden_columns[:20])
            yield f"Left out as personal data: {hidden}."
        if rows.note:
            yield escaped(rows.note)
        if rows.columns:
            cells = [
                ["*null*" if value is None else escaped(value, 60) for value in row[:8]]
                for row in rows.rows[: self._most_rows]
            ]
            shown = markdown_table([escaped(column, 60) for column in rows.columns[:8]], cells)
            yield f"<details><summary>Failing rows</summary>\n\n{shown}\n\n</details>"

    def _sql_errors(self) -> Iterable[str]:
        if self._sql_check is not None:
            yield from format_sql_check(self._sql_check, self._most_failures)

    def _models(self) -> Iterable[str]:
        if not self._ordered:
            return
        yield "### Models"
        shown = self._ordered[: self._most_models]
        has_bytes = any(built.bytes is not None for built in self._build.nodes)
        header = ["model", "change", "rows", "added", "removed", "changed", "columns", "seconds"]
        header += ["read"] if has_bytes else []
        lines = [self._line(built, has_bytes=has_bytes) for built in shown]
        yield markdown_table(header, lines, right=range(2, len(header)))
        omitted = self._ordered[self._most_models :]
        if omitted:
            classes = [self._classes[built.unique_id] for built in omitted]
            counts = ", ".join(f"{classes.count(c):,} {c}" for c in _ORDER if c in classes)
            yield f"And {len(omitted):,} more: {counts}."

    def _line(self, built: ChangedNode, *, has_bytes: bool) -> list[str]:
        found = self._found.get(built.unique_id) or Difference(unique_id=built.unique_id)
        change: str = built.change
        if built.parts:
            change += f": {', '.join(built.parts)}"
        if self._classes[built.unique_id] == "failed":
            change += f" (**{built.status or 'failed'}**)"
        line = [
            escaped(get_name(built.unique_id), 120),
            change,
            format_rows(found),
            format_count(found.added),
            format_count(found.removed),
            format_count(found.changed),
            format_columns(found),
            format_time(built),
        ]
        if has_bytes:
            line.append(f"{size(built.bytes)} ({size(built.usual_bytes)})")
        return line

    def _columns(self) -> Iterable[str]:
        lines = []
        for built in self._ordered:
            found = self._found.get(built.unique_id)
            if found is None or built.change in ("new", "removed"):
                continue
            parts = [
                f"+ {escaped(n, 80)} ({escaped(t, 40)})" for n, t in found.columns_added.items()
            ]
            parts += [f"{MINUS} {escaped(name, 80)}" for name in found.columns_removed]
            parts += [
                f"{escaped(n, 80)}: {escaped(b, 40)} → {escaped(a, 40)}"
                for n, (b, a) in found.types.items()
            ]
            by_count = sorted(found.changed_by_column.items(), key=lambda item: -item[1])
            parts += [f"{escaped(name, 80)} in {count:,} rows" for name, count in by_count]
            if parts:
                text = "; ".join(parts[:15]) + ("; …" if len(parts) > 15 else "")
                lines.append(f"- **{escaped(get_name(built.unique_id), 120)}**: {text}")
        yield from format_details("Which columns differ", lines, self._most_models)

    def _notes(self) -> Iterable[str]:
        lines = [
            f"- **{escaped(get_name(each.unique_id), 120)}**: {escaped('; '.join(each.notes), 400)}"
            for built in self._ordered
            if (each := self._found.get(built.unique_id)) is not None
            and each.notes
            and self._classes[built.unique_id] != "failed"
        ]
        skipped = sorted({name for each in self._found.values() for name in each.skipped_columns})
        if skipped:
            named = ", ".join(escaped(name, 80) for name in skipped[:20])
            lines.insert(0, f"- Left out of every comparison, since each build changes it: {named}")
        yield from format_details(
            "What was not compared, and what to know", lines, self._most_models
        )

    def _costs(self) -> Iterable[str]:
        known = [b for b in self._build.nodes if b.usual_seconds is not None and b.seconds]
        if not known:
            return
        here, there = (
            sum(b.seconds for b in known),
            sum(b.usual_seconds or 0 for b in known),
        )
        yield "### Time and cost"
        sentences = [
            f"{len(known):,} models that production has built took "
            f"{format_duration(here)} here, and take {format_duration(there)} there (median of its "
            "last runs). Here each is built whole, there incremental ones are only added to.",
        ]
        slower = sorted(
            (b for b in known if is_slower(b)), key=lambda b: (b.usual_seconds or 0) - b.seconds
        )
        if slower:
            named = ", ".join(
                f"{escaped(get_name(b.unique_id), 120)} ({format_time(b)})"
                for b in slower[: self._most_failures]
            )
            sentences.append(f"Slower: {named}.")
        if self._comparison.bytes is not None:
            read = sum(b.bytes or 0 for b in self._build.nodes)
            usual = sum(b.usual_bytes or 0 for b in known)
            slots = sum(b.slot_seconds or 0 for b in self._build.nodes)
            sentences.append(
                f"Building read {size(read)} (production's last run of the same: {size(usual)}) "
                f"in {slots:,.1f} slot seconds; comparing read {size(self._comparison.bytes)}."
            )
        yield " ".join(sentences)


def _class(built: ChangedNode, found: Difference | None, failed: set[str]) -> str:
    if built.change == "removed":
        return "removed"
    if built.unique_id in failed or built.status in ("error", "skipped"):
        return "failed"
    if built.change == "new":
        return "new"
    if found is None or found.is_same is None:
        return "unknown"
    return "same" if found.is_same else "differs"


def _lineage(picture: tuple[str, str] | None) -> list[str]:
    if picture is None:
        return []
    graph, note = picture
    return ["### Lineage", f"```mermaid\n{graph}\n```", escaped(note)]
