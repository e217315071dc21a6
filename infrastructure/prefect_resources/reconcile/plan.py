"""Plan and apply changes: create, update, leave unchanged, or remove orphans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infrastructure.prefect_resources.reconcile.resources import Actual, Desired, ResourceType

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


class Action(StrEnum):
    """What a step does with a resource."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    ORPHANED = "orphaned"


@dataclass(frozen=True)
class Step:
    """A resource, the action, and its changed fields.

    Attributes:
        changes: one line per changed field, `field: before → after`, with secrets masked.
        stored_id: id of the stored resource; None if it is to be created.
        desired: desired state; None if the resource is orphaned.
    """

    action: Action
    kind: ResourceType
    name: str
    changes: tuple[str, ...] = ()
    stored_id: UUID | None = None
    desired: Desired | None = field(default=None, repr=False)


def plan(
    client: SyncPrefectClient,
    kinds: Sequence[ResourceType],
    desired: Iterable[Desired],
    *,
    all_desired: Iterable[Desired] | None = None,
) -> list[Step]:
    """Compare the desired with the actual state.

    Args:
        client: client of the Prefect API.
        kinds: resource types, dependents first: the order in which orphans are removed.
        desired: resources to create or update.
        all_desired: all desired resources; any other that setup created is orphaned. None: do not
            look for orphans.
    """
    by_name = {kind.name: kind for kind in kinds}
    steps = [
        _build_step(kind, each, kind.find(client, each.name))
        for each in desired
        for kind in [by_name[each.kind]]
    ]
    if all_desired is not None:
        kept = {(each.kind, each.name) for each in all_desired}
        steps += [
            Step(Action.ORPHANED, kind, stored.name, stored_id=stored.id)
            for kind in kinds
            for stored in kind.list_owned(client)
            if (kind.name, stored.name) not in kept
        ]
    return steps


def apply(client: SyncPrefectClient, steps: Iterable[Step], *, prune: bool) -> None:
    """Create and update in the plan's order; then remove orphans, if `prune`.

    A resource is written after those it refers to. If a run is interrupted, nothing refers to a
    missing resource, and the next run continues.
    """
    steps = list(steps)
    ids = {step.name: step.stored_id for step in steps if step.stored_id is not None}
    for step in steps:
        if step.desired is not None and step.action is not Action.UNCHANGED:
            ids[step.name] = step.kind.write(client, step.desired, step.stored_id, ids)
    for step in steps:
        if prune and step.action is Action.ORPHANED and step.stored_id is not None:
            step.kind.remove(client, step.stored_id, step.name)


def has_changes(steps: Iterable[Step]) -> bool:
    """Return whether a step changes something, or something is orphaned."""
    return any(step.action is not Action.UNCHANGED for step in steps)


def _build_step(kind: ResourceType, desired: Desired, stored: Actual | None) -> Step:
    if stored is None:
        return Step(Action.CREATE, kind, desired.name, desired=desired)
    changes = tuple(_differences(kind, desired.data, stored.data)) + tuple(
        f"{key}: {before} → {name}"
        for key, name in desired.references.items()
        if (before := stored.references.get(key)) != name
    )
    action = Action.UPDATE if changes else Action.UNCHANGED
    return Step(action, kind, desired.name, changes, stored.id, desired)


def _differences(
    kind: ResourceType, desired: Mapping[str, Any], found: Any, path: tuple[str, ...] = ()
) -> Iterable[str]:
    """Yield changed fields; extra fields count only in mappings, which setup owns as a whole."""
    found = found if isinstance(found, Mapping) else {}
    keys = list(desired) + [key for key in found if path and key not in desired]
    for key in keys:
        here = (*path, key)
        before, after = found.get(key), desired.get(key)
        if isinstance(after, Mapping):
            yield from _differences(kind, after, before, here)
        elif before != after:
            yield f"{'.'.join(here)}: {_mask(kind, here, before)} → {_mask(kind, here, after)}"


def _mask(kind: ResourceType, path: tuple[str, ...], value: Any) -> str:
    if value is None:
        return "none"
    return str(value) if kind.is_printable(path, value) else "********"
