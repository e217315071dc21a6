"""The page over all targets, `index.html` at the root of the state store.

It is made from the files of each target, so that runs of two targets which end at once need not
know of each other: who wrote it looks once more, and writes it again where something was new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from prefect_flows.reporting.charts.svg import seconds, size
from prefect_flows.reporting.charts.trend import Point, trend, usual_of
from prefect_flows.reporting.templates import packaged, templates
from prefect_flows.state.incidents import Incident
from prefect_flows.state.run_summary import RunLine, SourceFreshness
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_overview import TargetOverview, overview

INDEX = "index.html"
# How often it is written again for what came meanwhile; each further time takes two runs that end
# within the same moment.
MOST_WRITES = 5
# What keeps the page small enough to be read.
MOST_INCIDENTS, MOST_ROWS_OPEN = 40, 30
WORST_FIRST = ("runtime error", "error", "warn", None, "pass")


@dataclass(frozen=True)
class Chart:
    """A picture of a target's runs, its title, and its last value against the usual one."""

    title: str
    note: str
    svg: Markup


def write_index(store: StateStore) -> int:
    """Write the page from what the store holds.

    Returns:
        How often it was written: more than once where another run ended meanwhile.

    Raises:
        StateStoreError: the store cannot be listed or written.
    """
    written = 0
    targets = overview(store)
    while written < MOST_WRITES:
        store.write(INDEX, index_page(targets, datetime.now(UTC)).encode())
        written += 1
        before, targets = targets, overview(store)
        if targets == before:
            break
    return written


def index_page(targets: Sequence[TargetOverview], now: datetime) -> str:
    """The page; every name, message and value in it is escaped.

    Args:
        now: when it is written; ages are as of then.
    """
    incidents = [(each.target, incident) for each in targets for incident in each.incidents]
    incidents.sort(key=lambda entry: entry[1].first_at)
    projects = sorted({each.history.last.project_name for each in targets if each.history} - {""})
    return (
        templates()
        .get_template("index.html.jinja")
        .render(
            css=Markup(packaged("report.css") + packaged("index.css")),  # noqa: S704 # of this package
            title=", ".join(projects) or "Millrace",
            targets=targets,
            now=now,
            age=lambda moment: age(now - moment),
            incidents=incidents[:MOST_INCIDENTS],
            more_incidents=incidents[MOST_INCIDENTS:],
            open_of=MOST_ROWS_OPEN,
            charts={each.target: charts(each) for each in targets},
            class_of=_class_of,
            counted=_counted,
            http=_http,
            moment=_moment,
            tests_of=_tests_of,
            worst_first=_worst_first,
        )
    )


def charts(target: TargetOverview) -> list[Chart]:
    """Duration over the runs of a target, and what they cost where that is known."""
    runs = target.history.runs if target.history else []
    wanted: list[tuple[str, str, list[tuple[RunLine, float | None]], Callable[[float], str]]] = [
        ("duration", "Duration", [(run, run.seconds) for run in runs], seconds),
        ("cost", "Cost", [(run, run.cost) for run in runs], lambda value: f"{value:,.2f}"),
        ("billed", "Data billed", [(run, run.bytes_billed) for run in runs], _bytes),
    ]
    found = []
    for name, title, values, shown in wanted:
        points = [
            Point(run.started_at, value, run.outcome, run.whole)
            for run, value in values
            if value is not None
        ]
        svg = trend(f"{target.target}-{name}", f"{title} of {target.target}", points, shown)
        if svg is not None:
            usual = usual_of(points)
            note = f"last {shown(points[-1].value)}"
            note += f", median {shown(usual)}" if usual is not None else ""
            found.append(Chart(title, note, Markup(svg)))  # noqa: S704 # escaped where it is drawn
    return found


def age(span: timedelta) -> str:
    """How long ago something was, in words."""
    if span < timedelta(minutes=1):
        return "under 1 min ago"
    return f"{span.days} days ago" if span.days >= 2 else f"{seconds(span.total_seconds())} ago"


def _bytes(value: float) -> str:
    return size(round(value))


def _http(url: str | None) -> str | None:
    """The URL, if a person may be led there."""
    return url if url is not None and url.startswith(("https://", "http://")) else None


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _class_of(incident: Incident) -> str:
    return "" if incident.kind == "failure" else "note"


def _counted(sources: dict[str, SourceFreshness]) -> list[tuple[str, int]]:
    """Number of sources by status, worst first."""
    found = Counter(source.status for source in sources.values())
    return [(status or "never looked at", found[status]) for status in WORST_FIRST if found[status]]


def _tests_of(run: RunLine) -> list[tuple[str, str, int]]:
    """Colour, word and number of a run's tests, where there were some."""
    tests = run.tests
    found = [
        ("failed", "failed", tests.failed), ("warned", "warned", tests.warned),
        ("skipped", "skipped", tests.skipped), ("good", "passed", tests.passed),
    ]  # fmt: skip
    return [entry for entry in found if entry[2]]


def _worst_first(sources: dict[str, SourceFreshness]) -> list[tuple[str, SourceFreshness]]:
    return sorted(sources.items(), key=lambda item: (WORST_FIRST.index(item[1].status), item[0]))
