"""Critical path of a run: the chain of nodes that determined when it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from prefect_flows.transform.lineage import LineageNode, get_parents, nearest
from prefect_flows.transform.results import NodeResult

# dbt takes the time of an event shortly after the work itself.
CLOCK_TOLERANCE = timedelta(milliseconds=50)


def find_critical_path(
    nodes: Sequence[NodeResult], lineage: Mapping[str, LineageNode]
) -> list[NodeResult]:
    """Return the nodes that the end of the run waited for, in order.

    It starts from the node that ended last, and repeatedly goes back to the parent that ended last
    before that node started. It follows a parent that was not executed to its own parents.
    """
    spans = {node.unique_id: (node, *span) for node in nodes if (span := get_span(node))}
    if not spans:
        return []
    edges = get_parents(lineage)
    last = max(spans, key=lambda i: (spans[i][2], i))
    path = [last]
    while True:
        started_at = spans[path[-1]][1]
        candidates = [
            parent
            for parent in nearest(edges, path[-1], spans)
            if spans[parent][2] <= started_at + CLOCK_TOLERANCE and parent not in path
        ]
        if not candidates:
            return [spans[i][0] for i in reversed(path)]
        path.append(max(candidates, key=lambda i: (spans[i][2], i)))


def get_span(node: NodeResult) -> tuple[datetime, datetime] | None:
    """Return start and end of a node in this run; None if the run did not execute it."""
    if node.started_at is None or node.completed_at is None or node.resumed:
        return None
    return node.started_at, max(node.started_at, node.completed_at)
