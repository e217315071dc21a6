"""Compares node durations with earlier runs, and flags regressions.

A node is a regression if all three hold: at least 3 earlier runs executed it; it took more than
1.5 times their median; and it was at least 1 s slower than that median.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.run_report import NodeTiming

MIN_RUNS = 3
FACTOR = 1.5
SLOWER_BY_SECONDS = 1.0
SLOWEST = 10


def get_medians(history: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, int]]:
    """Return the median seconds and the number of runs by node id.

    Args:
        history: seconds by node id, one mapping per earlier run.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in history:
        for unique_id, duration in run.items():
            seconds[unique_id].append(duration)
    return {unique_id: (median(duration), len(duration)) for unique_id, duration in seconds.items()}


def compare_durations(
    nodes: Iterable[NodeResult], history: Sequence[Mapping[str, float]]
) -> list[NodeTiming]:
    """Compare every executed node with earlier runs, slowest first."""
    known = get_medians(history)
    executed = [node for node in nodes if node.seconds > 0 and not node.resumed]
    executed.sort(key=lambda node: (-node.seconds, node.unique_id))
    return [_compare(node, *known.get(node.unique_id, (None, 0))) for node in executed]


def _compare(node: NodeResult, median_seconds: float | None, runs: int) -> NodeTiming:
    regression = (
        median_seconds is not None
        and runs >= MIN_RUNS
        and node.seconds > FACTOR * median_seconds
        and node.seconds - median_seconds >= SLOWER_BY_SECONDS
    )
    return NodeTiming(node.unique_id, node.name, node.seconds, median_seconds, runs, regression)
