"""Lineage diagram of a run as SVG: sources left, exposures right, failures and what they block."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import PurePosixPath
from statistics import median_low

from prefect_flows.core.formatting import format_duration, shorten_middle
from prefect_flows.reporting.charts.graph_layout import Place, compute_layers, compute_layout
from prefect_flows.reporting.charts.svg import (
    LEGEND,
    STYLE,
    get_group,
    text,
)
from prefect_flows.transform.lineage import (
    TESTS,
    LineageNode,
    get_children,
    get_parents,
    nearest,
    reach,
)
from prefect_flows.transform.results import SKIPPED, NodeResult

MAX_BOXES = 60
# In a small picture, whose boxes can be read at the width of Prefect's page.
MAX_NEAR_BOXES = 12
BOX_WIDTH, BOX_HEIGHT = 190, 40
GAP_X, GAP_Y, MARGIN, TOP = 56, 12, 12, 40
_TITLE_LENGTH = 25
_SEVERITY_ORDER = ("failed", "warned", "skipped", "good", "reused", "other")
_DIAGRAM_STYLE = """
.mr-graph .box{fill:var(--paper);stroke:var(--line)}.mr-graph .box.is-failed{stroke:var(--failed);
stroke-width:2.5}.mr-graph .box.is-skipped{stroke-dasharray:4 3;stroke:var(--skipped)}
.mr-graph .reused{fill:#56b4e9}
.mr-graph .edge{fill:none;stroke:var(--soft);opacity:.45}
.mr-graph .edge.is-failed{stroke:var(--failed);opacity:.9}
.mr-graph .second{font-size:11px;fill:var(--soft)}.mr-graph .badge{font-size:10px;font-weight:600}
"""


@dataclass(frozen=True)
class _Box:
    """A box for one node, or for all nodes of a folder.

    Attributes:
        unique_id: id of its node, by which the page shows details; None for a folder.
    """

    title: str
    second: str
    group: str
    tests: Counter[str]
    unique_id: str | None = None


@dataclass(frozen=True)
class Diagram:
    """The diagram as SVG text, and a sentence on what it shows and leaves out."""

    svg: str
    note: str


def draw_lineage(
    nodes: Sequence[NodeResult],
    lineage: Mapping[str, LineageNode],
    reused: Collection[str] = frozenset(),
) -> Diagram | None:
    """Draw the part of the graph that matters for a run; None if the run executed nothing.

    Reused nodes are drawn if an executed node reads them.

    Up to 60 boxes, the diagram is complete. In a larger run with failures, it shows the failed
    nodes, what they block and their direct parents. In a larger run that passed, it shows the
    models, or one box per folder if there are too many models. Tests are counted on the node that
    they test.
    """
    results = {node.unique_id: node for node in nodes}
    tests = _tests_by_node(results, lineage)
    run_nodes = _nodes_of_run(results, lineage)
    if not run_nodes:
        return None
    boxes = {
        i: _build_box(lineage[i], results.get(i), tests[i], is_reused=i in reused)
        for i in run_nodes
    }
    failed_nodes = [i for i in run_nodes if _has_failure(i, results, tests)]
    if len(run_nodes) <= MAX_BOXES:
        shown, note = run_nodes, f"All {len(run_nodes)} nodes of the run."
    elif failed_nodes:
        shown, note = _select_around_failures(failed_nodes, run_nodes, results, lineage)
    else:
        models = [i for i in run_nodes if lineage[i].resource_type == "model"]
        if models and len(models) <= MAX_BOXES:
            shown = models
            note = (
                f"The {len(models)} models; {len(run_nodes) - len(models):,} other nodes left out."
            )
        else:
            return _draw_by_folder(models or run_nodes, lineage, boxes)
    edges = get_parents(lineage)
    shown_ids = set(shown)
    parents = {i: sorted(nearest(edges, i, shown_ids)) for i in shown}
    return Diagram(_draw_svg({i: boxes[i] for i in shown}, parents, note), note)


def draw_neighborhood(
    nodes: Sequence[NodeResult],
    lineage: Mapping[str, LineageNode],
    unique_id: str,
    reused: Collection[str] = frozenset(),
) -> Diagram | None:
    """Draw a node, what it reads, and what reads it: at most 12 boxes in three columns.

    For a test, the node that it tests. None if the node is unknown.
    """
    node = lineage.get(unique_id)
    if node is not None and node.resource_type in TESTS:
        node = lineage.get(node.attached_to or next(iter(node.parents), ""))
    if node is None:
        return None
    results = {each.unique_id: each for each in nodes}
    tests = _tests_by_node(results, lineage)
    drawn = {i: each for i, each in lineage.items() if each.resource_type not in TESTS}
    below = get_children(drawn)[node.unique_id]
    # In turn on both sides, so that neither fills the picture.
    near = [i for pair in zip_longest(node.parents, below) for i in pair if i in drawn]
    shown = [node.unique_id, *near[: MAX_NEAR_BOXES - 1]]
    boxes = {
        i: _build_box(drawn[i], results.get(i), tests[i], is_reused=i in reused) for i in shown
    }
    parents = {i: [p for p in drawn[i].parents if p in boxes] for i in shown}
    note = f"What {node.name} reads, and what reads it."
    if len(near) >= MAX_NEAR_BOXES:
        note += f" {len(near) - MAX_NEAR_BOXES + 1:,} more are left out."
    return Diagram(_draw_svg(boxes, parents, note), note)


def _nodes_of_run(
    results: Mapping[str, NodeResult], lineage: Mapping[str, LineageNode]
) -> list[str]:
    """Return the run's nodes without tests, their sources, and the exposures downstream."""
    run = [i for i in results if i in lineage and lineage[i].resource_type not in TESTS]
    looked_at = [p for i in results if i in lineage for p in lineage[i].parents if p in lineage]
    children = get_children(lineage)
    downstream = (c for i in (*run, *looked_at) for c in children.get(i, ()))
    exposures = [c for c in downstream if lineage[c].resource_type == "exposure"]
    return list(dict.fromkeys([*run, *looked_at, *exposures]))


def _tests_by_node(
    results: Mapping[str, NodeResult], lineage: Mapping[str, LineageNode]
) -> dict[str, Counter[str]]:
    """Count a node's tests by status group."""
    tests: dict[str, Counter[str]] = defaultdict(Counter)
    for unique_id, result in results.items():
        node = lineage.get(unique_id)
        if node is None or node.resource_type not in TESTS:
            continue
        about = (node.attached_to,) if node.attached_to else node.parents
        for each in about:
            tests[each][get_group(result.status)] += 1
    return tests


def _has_failure(
    unique_id: str, results: Mapping[str, NodeResult], tests: Mapping[str, Counter[str]]
) -> bool:
    failed = unique_id in results and results[unique_id].failed
    return failed or tests.get(unique_id, Counter())["failed"] > 0


def _select_around_failures(
    failed_nodes: Sequence[str],
    run_nodes: Collection[str],
    results: Mapping[str, NodeResult],
    lineage: Mapping[str, LineageNode],
) -> tuple[list[str], str]:
    """Return failed nodes, what they block, and their parents, up to the limit; and a note."""
    children = get_children(lineage)
    known = set(run_nodes)
    blocked = [
        i
        for i in reach(children, failed_nodes)
        if i in known
        and (
            (i in results and results[i].status == SKIPPED)
            or lineage[i].resource_type == "exposure"
        )
    ]
    parents = [p for i in failed_nodes for p in lineage[i].parents if p in known]
    kinds = [list(dict.fromkeys(kind)) for kind in (failed_nodes, parents, blocked)]
    room = MAX_BOXES
    shown: dict[str, None] = {}
    # Each kind leaves room for the next, so that many failures do not hide what they block.
    for kind, limit in zip(kinds, (room // 2, room * 3 // 4, room), strict=True):
        for unique_id in kind:
            if len(shown) < limit:
                shown[unique_id] = None
    every = set().union(*kinds)
    note = (
        f"The nodes that failed or have failed tests ({len(kinds[0]):,}), what they stop "
        f"({len(kinds[2]):,}) and their direct parents; {len(known - every):,} other nodes of the "
        "run left out."
    )
    if len(shown) < len(every):
        note += f" Of these nodes, {len(every) - len(shown):,} did not fit and are left out too."
    return list(shown), note


def _draw_by_folder(
    ids: Sequence[str], lineage: Mapping[str, LineageNode], boxes: Mapping[str, _Box]
) -> Diagram:
    """Draw one box per folder, or per common parent folder if there are too many."""
    folders = {i: PurePosixPath(lineage[i].path).parent.parts for i in ids}
    depth = max(len(parts) for parts in folders.values())
    while depth > 1 and len({parts[:depth] for parts in folders.values()}) > MAX_BOXES:
        depth -= 1
    folder_by_id = {i: "/".join(parts[:depth]) for i, parts in folders.items()}
    edges = get_parents(lineage)
    known = set(ids)
    members: dict[str, list[str]] = defaultdict(list)
    near = {i: sorted(nearest(edges, i, known)) for i in ids}
    references: dict[str, set[str]] = defaultdict(set)
    for unique_id, folder in folder_by_id.items():
        members[folder].append(unique_id)
        references[folder] |= {folder_by_id[parent] for parent in near[unique_id]}
    layers = _folder_layers(members, compute_layers(ids, near))
    groups = {
        folder: _Box(
            title=folder or "(top)",
            second=f"{len(inside):,} nodes",
            group=min((boxes[i].group for i in inside), key=_SEVERITY_ORDER.index),
            tests=sum((boxes[i].tests for i in inside), Counter[str]()),
        )
        for folder, inside in members.items()
    }
    note = f"{len(ids):,} models are too many to draw: each box is a folder."
    # Folders may read each other, so only the lines that go to the right are drawn.
    to_the_right = {
        folder: sorted(other for other in references[folder] if layers[other] < layers[folder])
        for folder in groups
    }
    return Diagram(_draw_svg(groups, to_the_right, note, layers), note)


def _folder_layers(
    members: Mapping[str, Sequence[str]], layers: Mapping[str, int]
) -> dict[str, int]:
    """Return a layer by folder: the median layer of its nodes, numbered without gaps."""
    middles = {f: median_low(layers[i] for i in inside) for f, inside in members.items()}
    numbers = {middle: number for number, middle in enumerate(sorted(set(middles.values())))}
    return {folder: numbers[middle] for folder, middle in middles.items()}


def _build_box(
    node: LineageNode, result: NodeResult | None, tests: Counter[str], *, is_reused: bool
) -> _Box:
    status = result.status if result else "reused" if is_reused else "not run"
    duration = f" · {format_duration(result.seconds)}" if result and result.seconds else ""
    second = f"{node.resource_type} · {status}{duration}"
    if result is None and node.resource_type in {"source", "exposure"}:
        second = node.resource_type
    return _Box(node.name, second, get_group(status), tests, node.unique_id)


def _draw_svg(
    boxes: Mapping[str, _Box],
    parents: Mapping[str, Sequence[str]],
    note: str,
    layers: Mapping[str, int] | None = None,
) -> str:
    layout = compute_layout(list(boxes), parents, layers)
    places = layout.nodes
    width = 2 * MARGIN + (max(p.layer for p in places.values()) + 1) * (BOX_WIDTH + GAP_X) - GAP_X
    height = round(TOP + layout.rows * (BOX_HEIGHT + GAP_Y) + MARGIN)
    width = max(width, 420)
    described = Counter(box.group for box in boxes.values())
    status_counts = ", ".join(f"{count} {LEGEND[group]}" for group, count in described.items())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" class="mr mr-graph" role="img" '
        'aria-labelledby="mr-graph-t mr-graph-d"><title id="mr-graph-t">Lineage of the run</title>'
        f'<desc id="mr-graph-d">{text(note)} {text(status_counts)}.</desc>'
        f"<style>{STYLE}{_DIAGRAM_STYLE}</style>",
        *_draw_legend({*described, *(group for box in boxes.values() for group in box.tests)}),
    ]
    for child, above in parents.items():
        for parent in above:
            route = [places[parent], *layout.get_bends(parent, child), places[child]]
            parts.append(_draw_edge(route, boxes[parent], boxes[child]))
    parts += [_draw_box(box, places[i]) for i, box in boxes.items()]
    return "".join([*parts, "</svg>"])


def _draw_legend(groups: Iterable[str]) -> list[str]:
    parts, left, present = [], MARGIN, set(groups)
    for group, words in LEGEND.items():
        if group in present:
            parts.append(
                f'<rect class="{group}" x="{left}" y="6" width="14" height="12" rx="2"/>'
                f'<text x="{left + 19}" y="16">{text(words)}</text>'
            )
            left += 36 + 7 * len(words)
    return parts


def _draw_edge(route: Sequence[Place], parent: _Box, child: _Box) -> str:
    """Draw a line from box to box, straight through the columns of the boxes between them."""
    x, y = _left(route[0]) + BOX_WIDTH, _middle(route[0])
    path = f"M{x} {y:.0f}"
    for number, place in enumerate(route[1:], start=1):
        following, height = _left(place), _middle(place)
        bend = max((following - x) / 2, 20)
        path += (
            f"C{x + bend:.0f} {y:.0f} {following - bend:.0f} {height:.0f} {following} {height:.0f}"
        )
        x, y = following, height
        if number < len(route) - 1:
            x += BOX_WIDTH
            path += f"H{x}"
    failed = parent.group == "failed" and child.group in {"skipped", "other"}
    return f'<path class="edge{" is-failed" if failed else ""}" d="{path}"/>'


def _draw_box(box: _Box, place: Place) -> str:
    left, top = _left(place), _top(place)
    tests = ", ".join(f"{count} {LEGEND[group]}" for group, count in box.tests.items())
    title = f"{box.title}: {box.second}" + (f"; tests: {tests}" if tests else "")
    badge = ""
    if box.tests:
        failed, total = box.tests["failed"], sum(box.tests.values())
        group = min(box.tests, key=_SEVERITY_ORDER.index)
        label = (
            f"{failed} of {total} failed" if failed else f"{total} test{'s' if total > 1 else ''}"
        )
        badge_width = 8 + 5.6 * len(label)
        badge = (
            f'<rect class="{group}" x="{left + BOX_WIDTH - badge_width - 4:.0f}" y="{top - 7:.0f}" '
            f'width="{badge_width:.0f}" height="14" rx="7"/><text class="badge on" '
            f'x="{left + BOX_WIDTH - badge_width:.0f}" y="{top + 4:.0f}">{text(label)}</text>'
        )
    title_text = text(shorten_middle(box.title, _TITLE_LENGTH))
    node = f' data-node="{text(box.unique_id)}"' if box.unique_id else ""
    return (
        f'<g{node}><title>{text(title)}</title><rect class="box is-{box.group}" x="{left}" '
        f'y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>'
        f'<rect class="{box.group}" x="{left}" y="{top:.0f}" width="6" height="{BOX_HEIGHT}" '
        f'rx="2"/><text x="{left + 13}" y="{top + 18:.0f}">{title_text}'
        f'</text><text class="second" x="{left + 13}" y="{top + 33:.0f}">'
        f"{text(shorten_middle(box.second, _TITLE_LENGTH + 3))}</text>{badge}</g>"
    )


def _left(place: Place) -> int:
    return MARGIN + place.layer * (BOX_WIDTH + GAP_X)


def _top(place: Place) -> float:
    return TOP + place.row * (BOX_HEIGHT + GAP_Y)


def _middle(place: Place) -> float:
    return _top(place) + BOX_HEIGHT / 2
