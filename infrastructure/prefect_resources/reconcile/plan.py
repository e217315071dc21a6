"""What setup would do: each object created, updated, left as it is, or found orphaned."""

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
    """What becomes of an object."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    ORPHANED = "orphaned"


@dataclass(frozen=True)
class Step:
    """One object, what becomes of it, and which of its fields change.

    Attributes:
        changes: one line a changed field, `field: before → after`, secrets masked.
        stored_id: the stored object; none when it is to be created.
        wanted: the object as it should be; none when it is orphaned.
    """

    action: Action
    kind: ResourceType
    name: str
    changes: tuple[str, ...] = ()
    stored_id: UUID | None = None
    wanted: Desired | None = field(default=None, repr=False)


def plan(
    client: SyncPrefectClient,
    kinds: Sequence[ResourceType],
    wanted: Iterable[Desired],
    *,
    keep: Iterable[Desired] | None = None,
) -> list[Step]:
    """Compare what should be with what is.

    Args:
        kinds: dependents before what they depend on: the order in which orphans are removed.
        wanted: what to create or update.
        keep: all that is asked for; anything else of ours is orphaned. None: not looked at.
    """
    by_name = {kind.name: kind for kind in kinds}
    steps = [
        _step(kind, each, kind.find(client, each.name))
        for each in wanted
        for kind in [by_name[each.kind]]
    ]
    if keep is not None:
        kept = {(each.kind, each.name) for each in keep}
        steps += [
            Step(Action.ORPHANED, kind, stored.name, stored_id=stored.id)
            for kind in kinds
            for stored in kind.ours(client)
            if (kind.name, stored.name) not in kept
        ]
    return steps


def apply(client: SyncPrefectClient, steps: Iterable[Step], *, prune: bool) -> None:
    """Create and update, in the plan's order; then, if asked, remove orphans.

    An object is written after those it refers to, so that a run that ends half way leaves nothing
    that refers to what is not there, and the next one goes on.
    """
    steps = list(steps)
    ids = {step.name: step.stored_id for step in steps if step.stored_id is not None}
    for step in steps:
        if step.wanted is not None and step.action is not Action.UNCHANGED:
            ids[step.name] = step.kind.write(client, step.wanted, step.stored_id, ids)
    for step in steps:
        if prune and step.action is Action.ORPHANED and step.stored_id is not None:
            step.kind.remove(client, step.stored_id, step.name)


def differs(steps: Iterable[Step]) -> bool:
    """Whether anything is to be done, or orphaned."""
    return any(step.action is not Action.UNCHANGED for step in steps)


def _step(kind: ResourceType, wanted: Desired, stored: Actual | None) -> Step:
    if stored is None:
        return Step(Action.CREATE, kind, wanted.name, wanted=wanted)
    changes = tuple(_differences(kind, wanted.data, stored.data)) + tuple(
        f"{key}: {before} → {name}"
        for key, name in wanted.references.items()
        if (before := stored.references.get(key)) != name
    )
    action = Action.UPDATE if changes else Action.UNCHANGED
    return Step(action, kind, wanted.name, changes, stored.id, wanted)


def _differences(
    kind: ResourceType, wanted: Mapping[str, Any], found: Any, path: tuple[str, ...] = ()
) -> Iterable[str]:
    """Changed fields. A field that is not wanted counts where setup owns the whole mapping."""
    found = found if isinstance(found, Mapping) else {}
    keys = list(wanted) + [key for key in found if path and key not in wanted]
    for key in keys:
        here = (*path, key)
        before, after = found.get(key), wanted.get(key)
        if isinstance(after, Mapping):
            yield from _differences(kind, after, before, here)
        elif before != after:
            yield f"{'.'.join(here)}: {_shown(kind, here, before)} → {_shown(kind, here, after)}"


def _shown(kind: ResourceType, path: tuple[str, ...], value: Any) -> str:
    if value is None:
        return "none"
    return str(value) if kind.shows(path, value) else "********"
