"""The part of the lineage that a pull request touches, as a Mermaid graph, which GitHub draws."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from infrastructure.ci.pull_request.build_record import Build, Built
from infrastructure.ci.pull_request.differences import Comparison, Difference
from prefect_flows.reporting.charts.svg import fitted
from prefect_flows.transform.lineage import nearest, reach

# GitHub refuses graphs of more than 500 lines between nodes; people, of far fewer.
MOST_NODES, MOST_EDGES = 60, 150
LETTERS = 48
MINUS = "\N{MINUS SIGN}"

# Okabe and Ito's colours, which people who see colours differently can tell apart; text and ground
# are given too, so that the picture reads the same on a dark page.
STYLES = {
    "failed": "fill:#fbe3d6,stroke:#d55e00,stroke-width:3px,color:#1b1f24",
    "modified": "fill:#fdf0d5,stroke:#e69f00,stroke-width:2px,color:#1b1f24",
    "new": "fill:#d9f2e9,stroke:#009e73,stroke-width:2px,color:#1b1f24",
    "removed": "fill:#ffffff,stroke:#d55e00,stroke-dasharray:5 3,color:#5b6570",
    "downstream": "fill:#ffffff,stroke:#0b3d91,color:#1b1f24",
    "production": "fill:#eef0f2,stroke:#c3cad2,color:#5b6570",
}
_RANK = ("failed", "modified", "new", "removed", "downstream")


def mermaid(
    build: Build,
    comparison: Comparison,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> tuple[str, str] | None:
    """The graph, and one sentence on what it shows and leaves out; none where nothing differs.

    Args:
        before: production's manifest.
        after: that of the pull request.
    """
    found = {each.unique_id: each for each in comparison.differences}
    built = {each.unique_id: each for each in build.built}
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
        label = _text(_name(unique_id))
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


def _note(built: Mapping[str, Built], shown: Sequence[str], edges: int) -> str:
    note = "Orange: modified; green: new; dashed: removed; blue: downstream; grey: not built here."
    if len(shown) < len(built):
        note += f" {len(built) - len(shown):,} of {len(built):,} models are left out."
    if edges > MOST_EDGES:
        note += f" {edges - MOST_EDGES:,} of {edges:,} lines are left out."
    return note


def _label(unique_id: str, built: Built, difference: Difference | None) -> str:
    second = built.change if not built.parts else f"{built.change}: {', '.join(built.parts)}"
    label = f"{_text(_name(unique_id))}<br/>{_text(second)}"
    figures = _figures(difference)
    return f"{label}<br/>{figures}" if figures else label


def _figures(difference: Difference | None) -> str:
    if difference is None:
        return ""
    if difference.is_same:
        return "no row differs"
    if difference.added is None:
        return ""
    parts = [
        f"{sign}{count:,}"
        for sign, count in (
            ("+", difference.added), (MINUS, difference.removed), ("~", difference.changed),
        )
        if count
    ]  # fmt: skip
    return f"{' '.join(parts)} rows" if parts else "columns differ"


def _is_same(difference: Difference | None) -> bool:
    return difference is not None and difference.is_same is True


def _name(unique_id: str) -> str:
    """The name of a node: what follows its type and its package; of a source, also its schema."""
    return unique_id.split(".", 2)[-1]


def _text(value: str) -> str:
    """Text of a label: Mermaid reads quotes, angles and ampersands as its own."""
    return re.sub(r"[^\w .,:/()+~-]", lambda found: f"#{ord(found[0])};", fitted(value, LETTERS))
