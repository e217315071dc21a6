"""Layout of a layered graph (Sugiyama) with few crossing lines.

Layers follow the longest path from the left. The order within a layer follows barycentres, in
sweeps back and forth, as in Sugiyama, Tagawa and Toda (1981),
https://doi.org/10.1109/TSMC.1981.4308636.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SWEEPS = 6


@dataclass(frozen=True)
class Place:
    """Column from the left and row from the top; a row may lie between two others."""

    layer: int
    row: float


def compute_layout(
    nodes: Sequence[str],
    parents: Mapping[str, Sequence[str]],
    layers: Mapping[str, int] | None = None,
) -> dict[str, Place]:
    """Return the place of each node.

    Args:
        layers: layer by node, to override the longest path.
    """
    layer = dict(layers) if layers else compute_layers(nodes, parents)
    children: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for parent in parents.get(node, ()):
            children[parent].append(node)
    for node in nodes:  # places a source next to what reads it, not always at the far left
        if layers is None and not parents.get(node) and children[node]:
            layer[node] = max(min(layer[child] for child in children[node]) - 1, 0)
    rows: dict[int, list[str]] = defaultdict(list)
    for node in nodes:
        rows[layer[node]].append(node)
    order = {node: float(at) for row in rows.values() for at, node in enumerate(row)}
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        neighbours: Mapping[str, Sequence[str]] = parents if forward else children
        for number in sorted(rows, reverse=not forward):
            rows[number].sort(key=lambda node: _barycenter(node, neighbours, order))
            order.update((node, float(at)) for at, node in enumerate(rows[number]))
    longest = max(len(row) for row in rows.values())
    return {
        node: Place(number, at + (longest - len(row)) / 2)
        for number, row in rows.items()
        for at, node in enumerate(row)
    }


def compute_layers(nodes: Sequence[str], parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the length of the longest path to each node; in a cycle, one edge is ignored."""
    layer: dict[str, int] = {}
    open_nodes: set[str] = set()
    for start in nodes:
        stack = [start]
        while stack:
            node = stack[-1]
            if node in layer:
                stack.pop()
                continue
            open_nodes.add(node)
            waiting = [p for p in parents.get(node, ()) if p not in layer and p not in open_nodes]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            above = (layer[p] for p in parents.get(node, ()) if p in layer)
            layer[node] = max(above, default=-1) + 1
    return layer


def _barycenter(
    node: str, neighbours: Mapping[str, Sequence[str]], order: Mapping[str, float]
) -> float:
    near = neighbours.get(node, ())
    return sum(order[each] for each in near) / len(near) if near else order[node]
