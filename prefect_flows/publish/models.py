"""Which models a target publishes, in which groups, and what keeps a group from being published."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.transform.results import NodeResult

# The group of all published models that name no group.
DEFAULT_GROUP = "default"

_TYPES = frozenset({"model", "seed", "snapshot"})
_TESTS = frozenset({"test", "unit_test"})
# Materializations that build all rows again. A view would show readers its inputs before they are
# tested, so a published view is built as a table.
_VIEWS = frozenset({"view", "materialized_view"})
_REBUILT = frozenset({"table", "seed", *_VIEWS})


@dataclass(frozen=True)
class PublishedModel:
    """A model, seed or snapshot that readers see under its own name only after its tests passed.

    Attributes:
        unique_id: id of the dbt node.
        database: database (Postgres) or project (BigQuery).
        schema: the schema that readers use.
        name: name of the relation.
        group: models of a group are published together or not at all.
        keeps_rows: whether a run starts from the rows of the last one (incremental, snapshot).
        unique_key: columns that identify a row; empty if the model has no unique key.
        is_seed: whether dbt's seed materialization builds it.
        has_grants: whether the model's config grants access to it.
    """

    unique_id: str
    database: str | None
    schema: str
    name: str
    group: str
    keeps_rows: bool
    unique_key: tuple[str, ...]
    is_seed: bool = False
    has_grants: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Schema and name, which identify the relation in its database."""
        return self.schema, self.name

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def get_published_models(
    nodes: Mapping[str, Any], mart_folders: Collection[str] = ("marts",)
) -> list[PublishedModel]:
    """Return the published models of a project, sorted by schema and name.

    A model in a folder of marts is published; `meta: {publish: false}` excludes it, and
    `meta: {publish: true}` adds a model, seed or snapshot of another folder.
    `meta: {publish_group: NAME}` puts it into a group of its own.

    Args:
        nodes: node id → node of dbt's manifest.
        mart_folders: names of the folders of marts.

    Raises:
        ConfigurationError: a `publish` is not a boolean, or a `publish_group` not a name.
    """
    found = [
        _to_published_model(node, group)
        for node in nodes.values()
        if str(node.resource_type) in _TYPES
        and (group := _get_group(node, mart_folders)) is not None
    ]
    return sorted(found, key=lambda model: model.key)


def _get_group(node: Any, mart_folders: Collection[str]) -> str | None:
    """Return the node's group; None if it is not published."""
    if getattr(node, "is_ephemeral_model", False):
        return None
    meta = node.config.meta
    is_mart = str(node.resource_type) == "model" and is_in_folder(node.fqn, mart_folders)
    publish, group = meta.get("publish", is_mart), meta.get("publish_group", DEFAULT_GROUP)
    if not isinstance(publish, bool):
        raise _config_error(node, f"publish: {publish!r}", "publish is true or false")
    if not isinstance(group, str) or not group:
        raise _config_error(node, f"publish_group: {group!r}", "publish_group is a name")
    return group if publish else None


def is_in_folder(fqn: Sequence[str], folders: Collection[str]) -> bool:
    """Return whether a node is in one of the folders, at any depth, by its dbt `fqn`."""
    return not set(folders).isdisjoint(fqn[1:-1])


def _config_error(node: Any, found: str, wanted: str) -> ConfigurationError:
    return ConfigurationError(
        f"The meta of {node.name} has {found}.",
        where=str(node.original_file_path),
        fix=f"correct it: {wanted}",
    )


def _to_published_model(node: Any, group: str) -> PublishedModel:
    config, kind = node.config, str(node.resource_type)
    keys: Any = config.get("unique_key") or ()
    if kind == "snapshot":
        names = config.get("snapshot_meta_column_names")
        keys = getattr(names, "dbt_scd_id", None) or "dbt_scd_id"
    return PublishedModel(
        unique_id=node.unique_id,
        database=node.database,
        schema=node.schema,
        name=node.identifier,
        group=group,
        keeps_rows=config.materialized not in _REBUILT,
        unique_key=(keys,) if isinstance(keys, str) else tuple(str(key) for key in keys),
        is_seed=kind == "seed",
        has_grants=bool(config.get("grants")),
    )


def is_view(node: Any) -> bool:
    """Return whether dbt would build the node as a view."""
    return str(node.config.materialized) in _VIEWS


def find_views_of_published(
    nodes: Mapping[str, Any], models: Iterable[PublishedModel]
) -> list[tuple[str, str]]:
    """Return names of views that are not published, with the published model that each reads.

    dbt would write the name of the build table into their definition: readers of the view would see
    untested rows, or an error when the table is gone.

    Args:
        nodes: node id → node of dbt's manifest.
        models: all published models of the project.
    """
    published = {model.unique_id: model for model in models}
    found = []
    for node in nodes.values():
        is_model = str(node.resource_type) == "model"
        if not is_model or node.unique_id in published or not is_view(node):
            continue
        parents = list(node.depends_on.nodes)
        for parent in parents:
            if parent in published:
                found.append((str(node.name), str(published[parent])))
                break
            if getattr(nodes.get(parent), "is_ephemeral_model", False):
                # Its code becomes part of the view.
                parents += nodes[parent].depends_on.nodes
    return sorted(found)


def blocked_groups(
    built: Iterable[PublishedModel],
    results: Iterable[NodeResult],
    parents: Mapping[str, Sequence[str]],
) -> dict[str, list[NodeResult]]:
    """Return group → the results that keep it from being published.

    A failure blocks a group if it is of one of its models, of a node upstream of one, or of a test
    that reads any of these. A failure that touches no group blocks the default group.

    Args:
        built: the published models that this run builds.
        results: results of all nodes and tests of the run.
        parents: node id → ids of its parents.
    """
    upstream: dict[str, set[str]] = {}
    for model in built:
        upstream.setdefault(model.group, set()).update(find_ancestors(model.unique_id, parents))
    upstream.setdefault(DEFAULT_GROUP, set())
    blocked: dict[str, list[NodeResult]] = {}
    for result in results:
        if not result.failed:
            continue
        # What a test reads is at fault, unlike what a failed model reads.
        is_test = result.resource_type in _TESTS
        touched = {result.unique_id, *(parents.get(result.unique_id, ()) if is_test else ())}
        groups = [group for group, ids in upstream.items() if not ids.isdisjoint(touched)]
        for group in groups or [DEFAULT_GROUP]:
            blocked.setdefault(group, []).append(result)
    return blocked


def find_ancestors(unique_id: str, parents: Mapping[str, Collection[str]]) -> set[str]:
    """Return a node and all nodes upstream of it."""
    found, queue = {unique_id}, [unique_id]
    while queue:
        new = set(parents.get(queue.pop(), ())) - found
        found |= new
        queue += new
    return found
