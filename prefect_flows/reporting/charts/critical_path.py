"""The chain of nodes that explains when a run ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from prefect_flows.transform.lineage import LineageNode, nearest, parents_of
from prefect_flows.transform.results import NodeResult

# Clocks of dbt's events are read a little after the work they speak of.
TOLERANCE = timedelta(milliseconds=50)


def critical_path(
    nodes: Sequence[NodeResult], lineage: Mapping[str, LineageNode]
) -> list[NodeResult]:
    """The nodes that the end of the run waited for, first one first.

    From the node that ended last back to the parent that ended last before it began, again and
    again. A parent that was not executed is passed through to its own parents.
    """
    spans = {node.unique_id: (node, *span) for node in nodes if (span := span_of(node))}
    if not spans:
        return []
    edges = parents_of(lineage)
    last = max(spans, key=lambda i: (spans[i][2], i))
    path = [last]
    while True:
        began = spans[path[-1]][1]
        before = [
            parent
            for parent in nearest(edges, path[-1], spans)
            if spans[parent][2] <= began + TOLERANCE and parent not in path
        ]
        if not before:
            return [spans[i][0] for i in reversed(path)]
        path.append(max(before, key=lambda i: (spans[i][2], i)))


def span_of(node: NodeResult) -> tuple[datetime, datetime] | None:
    """When this run executed a node, from and to; none where it did not."""
    if node.started_at is None or node.completed_at is None or node.resumed:
        return None
    return node.started_at, max(node.started_at, node.completed_at)
