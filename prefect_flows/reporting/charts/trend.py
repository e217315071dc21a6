"""Trend chart over the runs of a target as SVG: one bar per run, and the median."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from prefect_flows.reporting.charts.svg import STYLE, text

# A phone shows this width without scaling it down.
WIDTH, HEIGHT = 328, 150
LEFT, RIGHT, TOP, BOTTOM = 4, 4, 20, 20
MAX_BAR_WIDTH = 14.0
CHARACTER_WIDTH = 6.4  # at 11 px
GROUP_BY_OUTCOME = {
    "passed": "good",
    "failed": "failed",
    "cancelled": "warned",
    "timed out": "failed",
}
_TREND_STYLE = """
.mr-trend text{font-size:11px}.mr-trend .grid{stroke:var(--line)}
.mr-trend .usual{stroke:var(--critical);stroke-width:1.5;stroke-dasharray:4 3}
.mr-trend .part{opacity:.45}
"""


@dataclass(frozen=True)
class Point:
    """Value of one run.

    Attributes:
        whole: whether the run covered the whole project; a partial run is drawn paler.
    """

    at: datetime
    value: float
    outcome: str
    whole: bool = True


def draw_trend(
    name: str, title: str, points: Sequence[Point], shown: Callable[[float], str]
) -> str | None:
    """Draw the chart as SVG text; None for fewer than two runs.

    Args:
        name: prefix of the element ids, which must be unique in a page.
        shown: formats a value.
    """
    if len(points) < 2:
        return None
    highest = max(point.value for point in points) or 1.0
    floor = HEIGHT - BOTTOM
    step = min((WIDTH - LEFT - RIGHT) / len(points), MAX_BAR_WIDTH + 3)
    usual = median_of_passed(points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'class="mr mr-trend" role="img" aria-labelledby="{name}-t {name}-d">',
        f'<title id="{name}-t">{text(title)}</title>',
        f'<desc id="{name}-d">{text(describe(points, shown))}</desc>',
        f"<style>{STYLE}{_TREND_STYLE}</style>",
        f'<defs><pattern id="{name}-h" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><path d="M0 0V5" stroke="#10151a" stroke-width="2" '
        'opacity=".45"/></pattern></defs>',
    ]
    for part in (1.0, 0.5, 0.0):
        y = floor - part * (floor - TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
    # The last run is at the right, even if there are few.
    left = WIDTH - RIGHT - step * len(points)
    for number, point in enumerate(points):
        parts += _draw_bar(point, left + number * step, step, floor, highest, name, shown)
    if usual is not None:
        y = floor - usual / highest * (floor - TOP)
        parts.append(f'<path class="usual" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 6}">{text(shown(highest))}</text>')
    parts += _draw_dates(points, left)
    return "".join([*parts, "</svg>"])


def median_of_passed(points: Sequence[Point]) -> float | None:
    """Return the median of complete runs that passed; None if there are fewer than three."""
    good = [point.value for point in points if point.outcome == "passed" and point.whole]
    return median(good) if len(good) >= 3 else None


def describe(points: Sequence[Point], shown: Callable[[float], str]) -> str:
    """Describe the chart in words, for screen readers."""
    values = [point.value for point in points]
    description = (
        f"{len(points)} runs, from {points[0].at:%Y-%m-%d} to {points[-1].at:%Y-%m-%d}. "
        f"The last one: {shown(values[-1])}, {points[-1].outcome}. "
        f"Least {shown(min(values))}, most {shown(max(values))}."
    )
    usual = median_of_passed(points)
    if usual is not None:
        description += f" Dashed line: {shown(usual)}, the median of the whole runs that passed."
    return description


def _draw_bar(
    point: Point,
    left: float,
    step: float,
    floor: float,
    highest: float,
    name: str,
    shown: Callable[[float], str],
) -> list[str]:
    gap = min(3.0, step / 4)
    height = max(point.value / highest * (floor - TOP), 1.0)
    group = GROUP_BY_OUTCOME[point.outcome]
    box = (
        f'x="{left + gap / 2:.1f}" y="{floor - height:.1f}" width="{step - gap:.1f}" '
        f'height="{height:.1f}"'
    )
    part = "" if point.whole else ", a part of the project"
    description = f"{point.at:%Y-%m-%d %H:%M} UTC: {shown(point.value)}, {point.outcome}{part}"
    css = f"{group}{'' if point.whole else ' part'}"
    bar = [f'<rect class="{css}" {box}><title>{text(description)}</title></rect>']
    if group == "failed":
        bar.append(f'<rect fill="url(#{name}-h)" pointer-events="none" {box}/>')
    return bar


def _draw_dates(points: Sequence[Point], left: float) -> list[str]:
    first, last = f"{points[0].at:%Y-%m-%d}", f"{points[-1].at:%Y-%m-%d}"
    y = HEIGHT - 6
    parts = [f'<text class="soft" x="{WIDTH - RIGHT}" y="{y}" text-anchor="end">{last}</text>']
    # If the bars leave no room for two dates, only the last one is shown.
    if first != last and WIDTH - RIGHT - left > 2 * len(first) * CHARACTER_WIDTH + 12:
        parts.append(f'<text class="soft" x="{max(left, LEFT):.1f}" y="{y}">{first}</text>')
    return parts
