"""Draw the lineage that a pull request changes as a Mermaid flowchart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from infrastructure.ci.pull_request.build_record import Build, ChangedNode
from infrastructure.ci.pull_request.differences import Comparison, Difference
from prefect_flows.core.formatting import shorten_middle
from prefect_flows.transform.lineage import nearest, reach

# GitHub refuses more than 500 edges; a readable diagram has far fewer.
MOST_NODES, MOST_EDGES = 60, 150
MAX_LABEL_LENGTH = 48
MINUS = "\N{MINUS SIGN}"

# Okabe and Ito's palette, which is safe for colour-blind readers. Text and fill are set too, so
# that the diagram also reads well in dark mode.
STYLES = {
    "failed": "fill:#fbe3d6,stroke:#d55e00,stroke-width:3px,color:#1b1f24",
    "modified": "fill:#fdf0d5,stroke:#e69f00,stroke-width:2px,color:#1b1f24",
    "new": "fill:#d9f2e9,stroke:#009e73,stroke-width:2px,color:#1b1f24",
    "removed": "fill:#ffffff,stroke:#d55e00,stroke-dasharray:5 3,color:#5b6570",
    "downstream": "fill:#ffffff,stroke:#0b3d91,color:#1b1f24",
    "production": "fill:#eef0f2,stroke:#c3cad2,color:#5b6570",
}
_RANK = ("failed", "modified", "new", "removed", "downstream")


def build_mermaid(
    build: Build,
    comparison: Comparison,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> tuple[str, str] | None:
    """Build the flowchart and a sentence on its legend and limits; None if nothing differs.

    Args:
        build: record of the build.
        comparison: differences by node.
        before: production's manifest.
        after: manifest of the pull request.
    """
    found = {each.unique_id: each for each in comparison.differences}
    built = {each.unique_id: each for each in build.nodes}
    if not built:
        return None
    failed = {each.unique_id for each in build.failures}
    styles = {i: "failed" if i in failed else each.change for i, each in built.items()}
    ranked = sorted(built, key=lambda i: (_RANK.index(styles[i]), _is_same(found.get(i)), i))
    parents = {**before["parent_map"], **after["parent_map"]}
    shown = ranked[:MOST_NODES]
    children = {**before["child_map"], **after["child_map"]}
    exposures = [i for i in reach(children, shown) if i.startswith("exposure.")]
    beside = [p for i in shown for p in parents.get(i, ()) if p not in built]
    around = [i for i in dict.fromkeys([*exposures, *beside]) if not i.startswith("macro.")]
    around = around[: max(MOST_NODES - len(shown), 0)]
    kept = {*shown, *around}
    names = {unique_id: f"n{place}" for place, unique_id in enumerate([*shown, *around])}
    lines = ["flowchart LR"]
    for unique_id in shown:
        label = _label(unique_id, built[unique_id], found.get(unique_id))
        lines.append(f'    {names[unique_id]}["{label}"]:::{styles[unique_id]}')
    for unique_id in around:
        left, right = ("([", "])") if unique_id.startswith("exposure.") else ("[", "]")
        label = _escape_label(get_name(unique_id))
        lines.append(f'    {names[unique_id]}{left}"{label}"{right}:::production')
    edges = [
        (parent, unique_id)
        for unique_id in names
        if unique_id not in beside
        for parent in sorted(nearest(parents, unique_id, kept))
        if parent in kept
    ]
    lines += [f"    {names[parent]} --> {names[child]}" for parent, child in edges[:MOST_EDGES]]
    used = {*styles.values(), "production"}
    lines += [f"    classDef {name} {style}" for name, style in STYLES.items() if name in used]
    return "\n".join(lines), _note(built, shown, len(edges))


def _note(built: Mapping[str, ChangedNode], shown: Sequence[str], edges: int) -> str:
    note = "Orange: modified; green: new; dashed: removed; blue: downstream; grey: not built here."
    if len(shown) < len(built):
        note += f" {len(built) - len(shown):,} of {len(built):,} models are left out."
    if edges > MOST_EDGES:
        note += f" {edges - MOST_EDGES:,} of {edges:,} lines are left out."
    return note


def _label(unique_id: str, built: ChangedNode, difference: Difference | None) -> str:
    second = built.change if not built.parts else f"{built.change}: {', '.join(built.parts)}"
    label = f"{_escape_label(get_name(unique_id))}<br/>{_escape_label(second)}"
    figures = _figures(difference)
    return f"{label}<br/>{figures}" if figures else label


def _figures(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if difference.is_same:
        return "no row differs"
    if difference.added is None:
        return ""
    counts = format_signed(difference.added, difference.removed, difference.changed)
    return f"{counts} rows" if counts else "columns differ"


def format_signed(added: int, removed: int | None, changed: int | None) -> str:
    """Format what was added, removed and changed: `+3 ~2`; empty if nothing was."""
    signs = (("+", added), (MINUS, removed), ("~", changed))
    return " ".join(f"{sign}{count:,}" for sign, count in signs if count)


def _is_same(difference: Difference | None) -> bool:
    return difference is not None and difference.is_same is True


def get_name(unique_id: str) -> str:
    """Return a node's id without its type and package; a source keeps its schema."""
    return unique_id.split(".", 2)[-1]


def _escape_label(value: str) -> str:
    """Escape a label's text: Mermaid interprets quotes, angle brackets and ampersands."""
    return re.sub(
        r"[^\w .,:/()+~-]",
        lambda found: f"#{ord(found[0])};",
        shorten_middle(value, MAX_LABEL_LENGTH),
    )
