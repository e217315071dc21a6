"""Timeline (Gantt chart) of a run as SVG: one lane per thread, one bar per node, critical path."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from prefect_flows.core.formatting import format_duration, shorten_middle
from prefect_flows.reporting.charts.critical_path import find_critical_path, get_span
from prefect_flows.reporting.charts.svg import (
    LEGEND,
    STYLE,
    get_group,
    text,
)
from prefect_flows.transform.lineage import LineageNode
from prefect_flows.transform.results import NodeResult

WIDTH = 1000
LEFT, RIGHT, TOP = 12, 12, 52
LANE, LANES_HEIGHT, MAX_LANES = 24, 480, 64
CHARACTER_WIDTH = 6.4  # at 11 px
SLIVER = 1.0  # narrower bars are merged with their neighbors
# Possible distances of ticks; the first that gives at most ten ticks is used.
_TICK_SECONDS = (
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200,
    14400, 28800,
)  # fmt: skip
_TimedNode = tuple[NodeResult, datetime, datetime]
_TIMELINE_STYLE = """
.mr-time .bar{stroke:var(--paper);stroke-width:.6}
.mr-time .critical{stroke:var(--critical);stroke-width:2.5}
.mr-time .path{fill:none;stroke:var(--critical);stroke-width:1.5;stroke-dasharray:3 3}
.mr-time .grid{stroke:var(--line)}.mr-time .stage{fill:var(--line);opacity:.35}
.mr-time .name{font-size:11px;pointer-events:none}
.mr-time .hatch{fill:url(#mr-hatch);pointer-events:none}
"""


@dataclass(frozen=True)
class _Bar:
    """Adjacent executed nodes of one lane and color, usually one."""

    lane: int
    left: float
    right: float
    nodes: tuple[NodeResult, ...]


def draw_timeline(
    nodes: Sequence[NodeResult],
    lineage: Mapping[str, LineageNode],
    sliver: float = SLIVER,
    tooltips: bool = True,
) -> str:
    """Draw the timeline as SVG text, for a file of its own or a page.

    Its size is bounded: nodes that are too narrow share a bar, whose tooltip counts them.

    Args:
        sliver: bars narrower than this, in thousandths of the width, are merged.
        tooltips: False where they cannot be shown, as in an image.
    """
    timed = [(node, *span) for node in nodes if (span := get_span(node))]
    if not timed:
        return ""
    start = min(started_at for _, started_at, _ in timed)
    end = max(ended_at for _, _, ended_at in timed)
    total = max((end - start).total_seconds(), 0.001)
    scale = (WIDTH - LEFT - RIGHT) / total

    def place(moment: datetime) -> float:
        return LEFT + (moment - start).total_seconds() * scale

    lanes = _assign_lanes(timed)
    number = min(max(lanes.values()) + 1, MAX_LANES)
    path = find_critical_path(nodes, lineage)
    critical = {node.unique_id for node in path}
    bars = _merge_bars(timed, lanes, critical, place, sliver)
    lane_height = min(LANE, LANES_HEIGHT / number)
    height = round(TOP + number * lane_height + 26)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" class="mr mr-time" role="img" aria-labelledby="mr-time-t mr-time-d">',
        '<title id="mr-time-t">Timeline of the run</title>',
        f'<desc id="mr-time-d">{text(_describe(timed, path, total))}</desc>',
        f"<style>{STYLE}{_TIMELINE_STYLE}</style>",
        '<defs><pattern id="mr-hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><path d="M0 0V6" stroke="#10151a" stroke-width="2" '
        'opacity=".45"/></pattern></defs>',
        *_draw_legend(timed),
        *_draw_stages(timed, place, height),
        *_draw_axis(total, scale, height),
        *(
            part
            for bar in bars
            for part in _draw_bar(bar, bar.nodes[0].unique_id in critical, lane_height, tooltips)
        ),
        _draw_critical_path(path, bars, lane_height),
        "</svg>",
    ]
    return "".join(parts)


def _assign_lanes(timed: Iterable[_TimedNode]) -> dict[tuple[str, str], int]:
    """Return a lane by stage and thread. The threads of different dbt invocations share lanes."""
    spans: dict[tuple[str, str], tuple[datetime, datetime]] = {}
    for node, started_at, ended_at in timed:
        key = (node.stage, node.thread or "")
        first, last = spans.get(key, (started_at, ended_at))
        spans[key] = (min(first, started_at), max(last, ended_at))
    lanes: dict[tuple[str, str], int] = {}
    free: list[int] = []
    busy: list[tuple[datetime, int]] = []
    for key, (started_at, ended_at) in sorted(spans.items(), key=lambda item: (item[1], item[0])):
        while busy and busy[0][0] <= started_at:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        lanes[key] = lane
        heapq.heappush(busy, (ended_at, lane))
    return lanes


def _merge_bars(
    timed: Iterable[_TimedNode],
    lanes: Mapping[tuple[str, str], int],
    critical: Container[str],
    place: Callable[[datetime], float],
    sliver: float,
) -> list[_Bar]:
    """Return the bars lane by lane, with adjacent slivers of one color merged."""
    by_lane: dict[int, list[_TimedNode]] = defaultdict(list)
    for node, started_at, ended_at in timed:
        lane = min(lanes[node.stage, node.thread or ""], MAX_LANES - 1)
        by_lane[lane].append((node, started_at, ended_at))
    bars = []
    for lane, in_lane in sorted(by_lane.items()):
        in_lane.sort(key=lambda entry: entry[1])
        open_bar: _Bar | None = None
        for node, started_at, ended_at in in_lane:
            bar = _Bar(lane, place(started_at), place(ended_at), (node,))
            is_separate = node.unique_id in critical or bar.right - bar.left >= sliver
            if (
                open_bar is not None
                and not is_separate
                and get_group(open_bar.nodes[0].status) == get_group(node.status)
                and bar.left - open_bar.right < sliver
            ):
                nodes = (*open_bar.nodes, node)
                open_bar = _Bar(lane, open_bar.left, max(open_bar.right, bar.right), nodes)
                continue
            if open_bar is not None:
                bars.append(open_bar)
                open_bar = None
            if is_separate:
                bars.append(bar)
            else:
                open_bar = bar
        if open_bar is not None:
            bars.append(open_bar)
    return bars


def _draw_bar(bar: _Bar, critical: bool, lane_height: float, tooltips: bool) -> list[str]:
    node, many = bar.nodes[0], len(bar.nodes)
    group = get_group(node.status)
    width = max(bar.right - bar.left, 3.0 if group == "failed" else 0.6)
    height = lane_height - max(2.0, lane_height / 4)
    top = TOP + bar.lane * lane_height + (lane_height - height) / 2
    duration = sum(each.seconds for each in bar.nodes)
    tooltip = (
        f"{many} nodes: {node.status}, {format_duration(duration)} together"
        if many > 1
        else f"{node.name}: {node.status}, {format_duration(duration)}"
    )
    tooltip += ", on the critical path" if critical else ""
    box = f'x="{bar.left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
    parts = [
        f'<rect class="bar {group}{" critical" if critical else ""}" {box} rx="2">'
        + (f"<title>{text(tooltip)}</title></rect>" if tooltips else "</rect>")
    ]
    if group == "failed":
        parts.append(f'<rect class="hatch" {box}/>')
    letters = int((width - 8) / CHARACTER_WIDTH)
    name = node.name if many == 1 else f"{many} nodes"
    if height >= 12 and letters >= min(len(name), 6):
        parts.append(
            f'<text class="name on" x="{bar.left + 4:.1f}" y="{top + height / 2 + 4:.1f}">'
            f"{text(shorten_middle(name, letters))}</text>"
        )
    return parts


def _draw_critical_path(
    path: Sequence[NodeResult], bars: Iterable[_Bar], lane_height: float
) -> str:
    """Draw a dashed line from each node of the critical path to the next."""
    path_ids = {node.unique_id for node in path}
    found = {bar.nodes[0].unique_id: bar for bar in bars if bar.nodes[0].unique_id in path_ids}
    lines = []
    for before, after in pairwise(found[node.unique_id] for node in path):
        middles = [TOP + (bar.lane + 0.5) * lane_height for bar in (before, after)]
        lines.append(f"M{before.right:.1f} {middles[0]:.1f}L{after.left:.1f} {middles[1]:.1f}")
    return f'<path class="path" d="{"".join(lines)}"/>' if lines else ""


def _draw_legend(timed: Iterable[_TimedNode]) -> list[str]:
    counted = Counter(get_group(node.status) for node, _, _ in timed)
    parts, left = [], float(LEFT)
    for group, words in LEGEND.items():
        if group not in counted:
            continue
        label = f"{words}: {counted[group]:,}"
        parts.append(f'<rect class="{group}" x="{left}" y="6" width="14" height="12" rx="2"/>')
        if group == "failed":
            parts.append(f'<rect class="hatch" x="{left}" y="6" width="14" height="12"/>')
        parts.append(f'<text x="{left + 20}" y="16">{text(label)}</text>')
        left += 44 + len(label) * CHARACTER_WIDTH
    parts.append(
        f'<rect class="critical" fill="none" x="{left}" y="6" width="14" height="12" rx="2"/>'
        f'<text x="{left + 20}" y="16">critical path</text>'
    )
    return parts


def _draw_stages(
    timed: Iterable[_TimedNode], place: Callable[[datetime], float], height: float
) -> list[str]:
    """Draw a band behind each stage, with its name if it fits."""
    spans: dict[str, tuple[datetime, datetime]] = {}
    for node, started_at, ended_at in timed:
        first, last = spans.get(node.stage, (started_at, ended_at))
        spans[node.stage] = (min(first, started_at), max(last, ended_at))
    parts = []
    for stage, (started_at, ended_at) in sorted(spans.items(), key=lambda item: item[1]):
        left, right = place(started_at), place(ended_at)
        parts.append(
            f'<rect class="stage" x="{left:.1f}" y="{TOP - 20}" width="{right - left:.1f}" '
            f'height="{height - TOP - 4:.1f}"><title>{text(stage)}</title></rect>'
        )
        if (right - left) / CHARACTER_WIDTH >= len(stage) + 1:
            parts.append(
                f'<text class="soft" x="{left + 4:.1f}" y="{TOP - 7}">{text(stage)}</text>'
            )
    return parts


def _draw_axis(total: float, scale: float, height: float) -> list[str]:
    step = next((each for each in _TICK_SECONDS if total / each <= 10), total / 10)
    parts = []
    for number in range(int(total / step) + 1):
        left = LEFT + number * step * scale
        parts.append(f'<path class="grid" d="M{left:.1f} {TOP - 20}V{height - 22:.1f}"/>')
        if left < WIDTH - 40:
            label = f"{number * step:g} s" if step < 60 else format_duration(number * step)
            parts.append(
                f'<text class="soft" x="{left:.1f}" y="{height - 8:.1f}">{text(label)}</text>'
            )
    return parts


def _describe(timed: Sequence[_TimedNode], path: Sequence[NodeResult], total: float) -> str:
    """Describe the chart in words, for screen readers."""
    shown = [f"{node.name} ({format_duration(node.seconds)})" for node in path]
    if len(shown) > 12:
        shown = [*shown[:6], f"… {len(shown) - 12} more …", *shown[-6:]]
    return (
        f"{len(timed):,} nodes in {format_duration(total)}. "
        f"Critical path, {len(path)} nodes: {', then '.join(shown)}."
    )
