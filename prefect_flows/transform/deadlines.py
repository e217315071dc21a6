"""Reads the deadlines of models and exposures from dbt's meta, and finds which a run completed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from dbt.contracts.graph.manifest import Manifest

from prefect_flows.core.errors import ProjectError
from prefect_flows.core.files import Warn
from prefect_flows.state.deadlines import (
    Deadline,
    DeadlineState,
    load_deadlines,
    save_deadlines,
)
from prefect_flows.state.store import StateStore
from prefect_flows.transform.lineage import build_lineage, get_meta
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.session import DbtSession

# Nodes that a run builds; what else an exposure depends on is followed to these.
BUILT = frozenset({"model", "seed", "snapshot"})


def read_deadlines(session: DbtSession) -> dict[str, str]:
    """Return id of each model and exposure with a deadline → its deadline.

    Raises:
        ProjectError: a deadline is not a time and a time zone.
    """
    manifest, found = session.manifest, {}
    models = [n for n in manifest.nodes.values() if str(n.resource_type) == "model"]
    for node in (*models, *manifest.exposures.values()):
        deadline = get_meta(node).get("deadline")
        if deadline is None:
            continue
        try:
            Deadline.parse(deadline)
        except ValueError as error:
            raise ProjectError(
                f"The deadline of {node.resource_type} {node.name} is not valid: {error}.",
                where=f"meta.deadline of {node.unique_id}; {session.path_of(node)}, "
                "its yml file or dbt_project.yml",
                fix='write a time of the day and a time zone: deadline: "07:00 Europe/Berlin"',
            ) from error
        found[node.unique_id] = str(deadline)
    return found


def find_complete(
    deadlines: Collection[str],
    manifest: Manifest,
    results: Mapping[str, NodeResult],
    reused: Collection[str],
    unpublished: Collection[str],
) -> set[str]:
    """Return the ids of the nodes that a run completed.

    A model is complete if the run built it or found nothing new for it, all its tests passed or
    warned, and it is published if its target publishes. An exposure is complete if all models are
    that it depends on.

    Args:
        deadlines: ids of the nodes with a deadline.
        manifest: the parsed project.
        results: node id → result, of all nodes that ran.
        reused: ids of the nodes that the run reused.
        unpublished: ids of the models that were built but not published.
    """

    def passed(unique_id: str) -> bool:
        return unique_id in reused or (unique_id in results and results[unique_id].done)

    def is_complete(unique_id: str) -> bool:
        children = manifest.child_map.get(unique_id, [])
        tests = [i for i in children if i.startswith(("test.", "unit_test."))]
        return unique_id not in unpublished and all(map(passed, (unique_id, *tests)))

    return {i for i in deadlines if all(map(is_complete, _find_built(i, manifest)))}


def _find_built(unique_id: str, manifest: Manifest) -> Iterator[str]:
    """Yield the node itself, or the nearest nodes upstream that a run builds."""
    node: Any = manifest.nodes.get(unique_id)
    if node is not None and str(node.resource_type) in BUILT and not node.is_ephemeral_model:
        yield unique_id
        return
    for parent in manifest.parent_map.get(unique_id, []):
        yield from _find_built(parent, manifest)


def update_deadlines(
    store: StateStore,
    target: str,
    manifest: Manifest,
    deadlines: Mapping[str, str],
    complete: Collection[str],
    warn: Warn,
) -> None:
    """Save the deadlines of a project, and which of the nodes the run that ends now completed.

    Raises:
        StateStoreError: the store cannot be read or written.
    """
    before = load_deadlines(store, target, warn)
    lineage = build_lineage(manifest) if deadlines else {}
    now = datetime.now(UTC)
    after = {}
    for unique_id, deadline in deadlines.items():
        node, old = lineage[unique_id], before.get(unique_id)
        after[unique_id] = DeadlineState(
            name=f"{node.resource_type} {node.name}",
            deadline=deadline,
            owner=node.owner,
            group=node.group,
            tags=node.tags,
            seen_at=old.seen_at if old is not None and old.deadline == deadline else now,
            complete_at=now if unique_id in complete else (old and old.complete_at),
        )
    if after != before:
        save_deadlines(store, target, after)
