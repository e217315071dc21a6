"""Layout of a layered graph (Sugiyama) with few crossing lines, and lines that avoid the nodes.

Layers follow the longest path from the left. A line over several layers gets a place of its own in
each layer between its ends, so that it runs between the nodes. The order within a layer follows
barycentres, in sweeps back and forth, as in Sugiyama, Tagawa and Toda (1981),
https://doi.org/10.1109/TSMC.1981.4308636.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SWEEPS = 6
# Height of the place of a line, in rows.
LINE_ROWS = 0.35

# A node, or the line from a node in a layer to the right of it.
_Item = str | tuple[str, int]


@dataclass(frozen=True)
class Place:
    """Column from the left and row from the top; a row may lie between two others."""

    layer: int
    row: float


@dataclass(frozen=True)
class Layout:
    """The places of a graph.

    Attributes:
        nodes: node → its place.
        lines: node → the places of the lines from it, one in each layer that they pass.
        rows: number of rows.
    """

    nodes: dict[str, Place] = field(default_factory=dict)
    lines: dict[str, list[Place]] = field(default_factory=dict)
    rows: float = 0.0

    def get_bends(self, parent: str, child: str) -> list[Place]:
        """Return the places that the line from a parent to a child passes."""
        last = self.nodes[child].layer
        return [place for place in self.lines.get(parent, ()) if place.layer < last]


def compute_layout(
    nodes: Sequence[str],
    parents: Mapping[str, Sequence[str]],
    layers: Mapping[str, int] | None = None,
) -> Layout:
    """Return the places of the nodes, and of the lines between them.

    Args:
        layers: layer by node, to override the longest path.
    """
    given = layers or compute_layers(nodes, parents)
    layer: dict[_Item, int] = {node: given[node] for node in given}
    children: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for parent in parents.get(node, ()):
            children[parent].append(node)
    for node in nodes:  # places a source next to what reads it, not always at the far left
        if layers is None and not parents.get(node) and children[node]:
            layer[node] = max(min(layer[child] for child in children[node]) - 1, 0)
    left: dict[_Item, list[_Item]] = defaultdict(list)
    right: dict[_Item, list[_Item]] = defaultdict(list)
    rows: dict[int, list[_Item]] = defaultdict(list)
    for node in nodes:
        rows[layer[node]].append(node)
        before: _Item = node
        furthest = max((layer[child] for child in children[node]), default=0)
        for between in range(layer[node] + 1, furthest):
            line = (node, between)
            layer[line] = between
            rows[between].append(line)
            left[line].append(before)
            right[before].append(line)
            before = line
        for child in children[node]:
            at: _Item = (node, layer[child] - 1) if layer[child] > layer[node] + 1 else node
            left[child].append(at)
            right[at].append(child)
    order = {item: float(at) for row in rows.values() for at, item in enumerate(row)}
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        neighbours = left if forward else right
        for number in sorted(rows, reverse=not forward):
            rows[number].sort(key=lambda item: _barycenter(item, neighbours, order))
            order.update((item, float(at)) for at, item in enumerate(rows[number]))
    return _place(rows)


def _place(rows: Mapping[int, Sequence[_Item]]) -> Layout:
    """Stack the items of each layer, the middle of each layer at the same height."""
    heights = {number: sum(map(_height, row)) for number, row in rows.items()}
    layout = Layout(rows=max(heights.values(), default=0.0))
    for number in sorted(rows):
        row = (layout.rows - heights[number]) / 2
        for item in rows[number]:
            if isinstance(item, str):
                layout.nodes[item] = Place(number, row)
            else:
                # The middle of a place is half a row below it.
                middle = Place(number, row + (LINE_ROWS - 1) / 2)
                layout.lines.setdefault(item[0], []).append(middle)
            row += _height(item)
    return layout


def _height(item: _Item) -> float:
    return 1.0 if isinstance(item, str) else LINE_ROWS


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
    item: _Item, neighbours: Mapping[_Item, Sequence[_Item]], order: Mapping[_Item, float]
) -> float:
    near = neighbours.get(item, ())
    return sum(order[each] for each in near) / len(near) if near else order[item]
