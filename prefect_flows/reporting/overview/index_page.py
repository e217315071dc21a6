"""Builds the overview page `index.html` of all targets, at the root of the state store.

It is built from the files of each target, so that runs that end concurrently need no lock. After
writing, the writer reads the files again, and rewrites the page if something changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from prefect_flows.core.formatting import format_duration
from prefect_flows.reporting.charts.svg import size
from prefect_flows.reporting.charts.trend import Point, draw_trend, median_of_passed
from prefect_flows.reporting.templates import read_packaged_file, templates
from prefect_flows.state.incidents import Incident
from prefect_flows.state.run_summary import RunOverview, SourceFreshness
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_overview import TargetOverview, load_overviews

INDEX = "index.html"
# Each rewrite requires another run that ended during the last write.
MAX_WRITES = 5
# Limits for a readable page.
MAX_INCIDENTS, MAX_OPEN_ROWS = 40, 30
STATUS_ORDER = ("runtime error", "error", "warn", None, "pass")


@dataclass(frozen=True)
class Chart:
    """A chart of a target's runs, with title, and a note on the last value and the median."""

    title: str
    note: str
    svg: Markup


def write_index(store: StateStore) -> int:
    """Write the page from the state store.

    Returns:
        How often it was written: more than once if another run ended meanwhile.

    Raises:
        StateStoreError: the store cannot be listed or written.
    """
    written = 0
    targets = load_overviews(store)
    while written < MAX_WRITES:
        store.write(INDEX, index_page(targets, datetime.now(UTC)).encode())
        written += 1
        before, targets = targets, load_overviews(store)
        if targets == before:
            break
    return written


def index_page(targets: Sequence[TargetOverview], now: datetime) -> str:
    """Render the page; every name, message and value in it is escaped.

    Args:
        now: time of rendering, to which ages refer.
    """
    incidents = [(each.target, incident) for each in targets for incident in each.incidents]
    incidents.sort(key=lambda entry: entry[1].first_at)
    projects = sorted({each.history.last.project_name for each in targets if each.history} - {""})
    return (
        templates()
        .get_template("index.html.jinja")
        .render(
            css=Markup(read_packaged_file("report.css") + read_packaged_file("index.css")),  # noqa: S704 # of this package
            title=", ".join(projects) or "Millrace",
            targets=targets,
            now=now,
            age=lambda moment: age(now - moment),
            incidents=incidents[:MAX_INCIDENTS],
            more_incidents=incidents[MAX_INCIDENTS:],
            open_of=MAX_OPEN_ROWS,
            charts={each.target: charts(each) for each in targets},
            class_of=_css_class,
            counted=_count_by_status,
            moment=_format_time,
            tests_of=_tests_of,
            worst_first=_worst_first,
        )
    )


def charts(target: TargetOverview) -> list[Chart]:
    """Draw the duration of a target's runs, and their cost and billed data if known."""
    runs = target.history.runs if target.history else []
    series: list[
        tuple[str, str, list[tuple[RunOverview, float | None]], Callable[[float], str]]
    ] = [
        ("duration", "Duration", [(run, run.seconds) for run in runs], format_duration),
        ("cost", "Cost", [(run, run.cost) for run in runs], lambda value: f"{value:,.2f}"),
        ("billed", "Data billed", [(run, run.bytes_billed) for run in runs], _format_bytes),
    ]
    found = []
    for name, title, values, shown in series:
        points = [
            Point(run.started_at, value, run.outcome, run.whole)
            for run, value in values
            if value is not None
        ]
        svg = draw_trend(f"{target.target}-{name}", f"{title} of {target.target}", points, shown)
        if svg is not None:
            usual = median_of_passed(points)
            note = f"last {shown(points[-1].value)}"
            note += f", median {shown(usual)}" if usual is not None else ""
            found.append(Chart(title, note, Markup(svg)))  # noqa: S704 # escaped where it is drawn
    return found


def age(span: timedelta) -> str:
    """Format how long ago something happened."""
    return "under 1 min ago" if span < timedelta(minutes=1) else f"{format_duration(span)} ago"


def _format_bytes(value: float) -> str:
    return size(round(value))


def _format_time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _css_class(incident: Incident) -> str:
    return "" if incident.kind == "failure" else "note"


def _count_by_status(sources: dict[str, SourceFreshness]) -> list[tuple[str, int]]:
    """Count sources by status, worst first."""
    found = Counter(source.status for source in sources.values())
    return [(status or "never checked", found[status]) for status in STATUS_ORDER if found[status]]


def _tests_of(run: RunOverview) -> list[tuple[str, str, int]]:
    """Return color, label and number of a run's tests, by outcome."""
    tests = run.tests
    found = [
        ("failed", "failed", tests.failed), ("warned", "warned", tests.warned),
        ("skipped", "skipped", tests.skipped), ("good", "passed", tests.passed),
    ]  # fmt: skip
    return [entry for entry in found if entry[2]]


def _worst_first(sources: dict[str, SourceFreshness]) -> list[tuple[str, SourceFreshness]]:
    return sorted(sources.items(), key=lambda item: (STATUS_ORDER.index(item[1].status), item[0]))
