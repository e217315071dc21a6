"""Lineage of a dbt project: parents, children, owners, groups and personal data (`meta.pii`)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dbt.contracts.graph.manifest import Manifest

from prefect_flows.transform.results import display_name

TESTS = frozenset({"test", "unit_test"})
# In a set of column names: all columns of the relation are personal data.
EVERY_COLUMN = "*"


@dataclass(frozen=True)
class Column:
    """A column that YAML declares; `data_type` and `description` are empty if YAML lacks them."""

    name: str
    data_type: str
    description: str


@dataclass(frozen=True)
class LineageNode:
    """A node of the project.

    Attributes:
        path: its file, relative to the dbt project.
        parents: ids of the nodes that it depends on.
        owner: `meta.owner`, or else the owner of its group.
        pii_columns: lower-case names of the columns with `meta.pii`.
        relation: its relation in the warehouse, as dbt quotes it.
        attached_to: for a test, the node that declares it.
        test_kind: for a generic test, its name in YAML, such as `not_null`.
        test_column: the column that it tests.
        tags: its tags.
        columns: the columns that YAML declares, in its order.
        keys: names of the columns of its primary key, as constraints, `unique_key` or tests say.
    """

    unique_id: str
    name: str
    resource_type: str
    path: str
    parents: tuple[str, ...]
    owner: str | None
    group: str | None
    pii_columns: frozenset[str]
    relation: str | None
    attached_to: str | None = None
    test_kind: str | None = None
    test_column: str | None = None
    tags: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    keys: tuple[str, ...] = ()


def build_lineage(manifest: Manifest) -> dict[str, LineageNode]:
    """Build node id → lineage node for all nodes, unit tests, sources and exposures."""
    groups = {group.name: group for group in manifest.groups.values()}
    found: list[Any] = [
        *manifest.nodes.values(),
        *manifest.unit_tests.values(),
        *manifest.sources.values(),
        *manifest.exposures.values(),
    ]
    return {node.unique_id: _lineage_node(node, groups) for node in found}


def get_checksums(manifest: Manifest) -> dict[str, str]:
    """Return node id → dbt's hash of its file."""
    return {node.unique_id: node.checksum.checksum for node in manifest.nodes.values()}


def get_children(lineage: Mapping[str, LineageNode]) -> dict[str, list[str]]:
    """Build node id → ids of its children."""
    children: dict[str, list[str]] = {unique_id: [] for unique_id in lineage}
    for unique_id, node in lineage.items():
        for parent in node.parents:
            children.setdefault(parent, []).append(unique_id)
    return children


def ancestors(lineage: Mapping[str, LineageNode], unique_id: str) -> set[str]:
    """Return the ids of all nodes upstream of a node."""
    return set(reach(get_parents(lineage), [unique_id]))


def reach(edges: Mapping[str, Collection[str]], starts: Collection[str]) -> Iterator[str]:
    """Yield the nodes that can be reached from `starts` without these, nearest first."""
    seen = set(starts)
    level = list(starts)
    while level:
        following = []
        for unique_id in level:
            for other in edges.get(unique_id, ()):
                if other not in seen:
                    seen.add(other)
                    following.append(other)
                    yield other
        level = following


def nearest(
    edges: Mapping[str, Collection[str]], unique_id: str, wanted: Collection[str]
) -> set[str]:
    """Return the wanted nodes that can be reached through unwanted nodes only."""
    found, seen, queue = set(), {unique_id}, [unique_id]
    while queue:
        for other in edges.get(queue.pop(), ()):
            if other in seen:
                continue
            seen.add(other)
            if other in wanted:
                found.add(other)
            else:
                queue.append(other)
    return found


def get_parents(lineage: Mapping[str, LineageNode]) -> dict[str, tuple[str, ...]]:
    """Build node id → ids of its parents."""
    return {unique_id: node.parents for unique_id, node in lineage.items()}


def personal_columns(lineage: Mapping[str, LineageNode], unique_id: str) -> frozenset[str]:
    """Return the lower-case names of the personal columns of a node and all its ancestors."""
    ids = {unique_id, *ancestors(lineage, unique_id)}
    return frozenset().union(*(lineage[i].pii_columns for i in ids if i in lineage))


def _lineage_node(node: Any, groups: Mapping[str, Any]) -> LineageNode:
    config = node.config
    group = getattr(config, "group", None) or getattr(node, "group", None)
    owner = get_meta(node).get("owner")
    if owner is None and str(node.resource_type) == "exposure":
        owner = _contact(node.owner)
    if owner is None and group is not None and group in groups:
        owner = _contact(groups[group].owner)
    columns = list(getattr(node, "columns", {}).values())
    # Seeds have no `depends_on.nodes`.
    parents = tuple(dict.fromkeys(getattr(getattr(node, "depends_on", None), "nodes", ())))
    tested_node = getattr(node, "attached_node", None)
    if str(node.resource_type) == "unit_test" and parents:
        tested_node = parents[0]  # the tested model; its mock inputs are not parents
    return LineageNode(
        unique_id=node.unique_id,
        name=display_name(node),
        resource_type=str(node.resource_type),
        path=node.original_file_path,
        parents=parents,
        owner=None if owner is None else str(owner),
        group=group,
        pii_columns=frozenset(c.name.lower() for c in columns if get_meta(c).get("pii")),
        relation=getattr(node, "relation_name", None),
        attached_to=tested_node,
        test_kind=getattr(getattr(node, "test_metadata", None), "name", None),
        test_column=getattr(node, "column_name", None),
        tags=tuple(getattr(node, "tags", None) or getattr(config, "tags", None) or ()),
        columns=tuple(Column(c.name, c.data_type or "", c.description or "") for c in columns),
        keys=_keys(node),
    )


def _keys(node: Any) -> tuple[str, ...]:
    """Return the columns of `unique_key`, or else those that dbt infers as primary key."""
    unique_key = getattr(node.config, "unique_key", None)
    if isinstance(unique_key, str):
        unique_key = [unique_key]
    return tuple(unique_key or getattr(node, "primary_key", None) or ())


def get_meta(resource: Any) -> dict[str, Any]:
    """Return the `meta` of a node or column; `config.meta` overrides `meta`."""
    config = getattr(resource, "config", None)
    return {**(getattr(resource, "meta", None) or {}), **(getattr(config, "meta", None) or {})}


def _contact(owner: Any) -> str | None:
    """Format the name and the e-mail addresses of an owner; dbt allows one address or a list."""
    email = owner.email
    addresses = ", ".join(email) if isinstance(email, list) else email
    if owner.name and addresses:
        return f"{owner.name} <{addresses}>"
    return owner.name or addresses or None
