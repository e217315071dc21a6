"""How long a node took against earlier runs.

A node is a regression when all three hold: at least 3 earlier runs executed it; it took more than
1.5 times the median of theirs; and it was at least 1 s slower than that median.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.run_report import NodeTiming

ENOUGH_RUNS = 3
FACTOR = 1.5
SLOWER_BY_SECONDS = 1.0
SLOWEST = 10


def medians(history: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, int]]:
    """Node's id → the median of its seconds, and how many runs that comes from.

    Args:
        history: one mapping an earlier run, node's id → seconds.
    """
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in history:
        for unique_id, taken in run.items():
            seconds[unique_id].append(taken)
    return {unique_id: (median(taken), len(taken)) for unique_id, taken in seconds.items()}


def compared(
    nodes: Iterable[NodeResult], history: Sequence[Mapping[str, float]]
) -> list[NodeTiming]:
    """Every node that this run executed against earlier runs, slowest first."""
    known = medians(history)
    executed = [node for node in nodes if node.seconds > 0 and not node.resumed]
    executed.sort(key=lambda node: (-node.seconds, node.unique_id))
    return [_compared(node, *known.get(node.unique_id, (None, 0))) for node in executed]


def _compared(node: NodeResult, usual: float | None, runs: int) -> NodeTiming:
    regression = (
        usual is not None
        and runs >= ENOUGH_RUNS
        and node.seconds > FACTOR * usual
        and node.seconds - usual >= SLOWER_BY_SECONDS
    )
    return NodeTiming(node.unique_id, node.name, node.seconds, usual, runs, regression)
