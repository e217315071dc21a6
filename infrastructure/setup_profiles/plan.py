"""What setup would do: each block created, updated, left as it is, or found orphaned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infrastructure.setup_profiles import desired, other_objects
from infrastructure.setup_profiles.contract import BigQueryTarget, PostgresTarget
from infrastructure.setup_profiles.desired import Block
from infrastructure.setup_profiles.other_objects import Stored
from prefect_flows import targets

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import BlockDocument

# Dependents before what they depend on: the order in which orphans are removed.
NAMES_BY_SLUG = {
    desired.PROFILE: targets.profile_block(""),
    desired.POSTGRES_CONFIGS: targets.target_configs_block("postgres", ""),
    desired.BIGQUERY_CONFIGS: targets.target_configs_block("bigquery", ""),
    desired.SQLALCHEMY: targets.postgres_credentials_block(""),
    desired.GCP: targets.gcp_credentials_block(),
    desired.LIMIT: targets.lease_limit(""),
    desired.VARIABLE: targets.STATE_URL_VARIABLE,
}
# Fields whose values a plan may print. Any other is masked: it may be a secret, also one that
# somebody added by hand.
PRINTED = frozenset(
    {*PostgresTarget.model_fields, *BigQueryTarget.model_fields}
    | {
        "limit",
        "value",
        "schema",
        "name",
        "target",
        "driver",
        "username",
        "project_id",
        "client_email",
    }
)


class Action(StrEnum):
    """What becomes of a block."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    ORPHANED = "orphaned"


@dataclass(frozen=True)
class Step:
    """One block, what becomes of it, and which of its fields change.

    Attributes:
        changes: one line a changed field, `field: before → after`, secrets masked.
        document_id: the stored block; none when it is to be created.
        block: the block as it should be; none when it is orphaned.
    """

    action: Action
    slug: str
    name: str
    changes: tuple[str, ...] = ()
    document_id: UUID | None = None
    block: Block | None = field(default=None, repr=False)


def plan(
    client: SyncPrefectClient, blocks: Iterable[Block], *, keep: Iterable[Block] | None = None
) -> list[Step]:
    """Compare the blocks that should be with those that are.

    Args:
        blocks: what to create or update.
        keep: every block of the contract; any other of our names is orphaned. None: not looked at.
    """
    steps = [_step(block, _stored(client, block)) for block in blocks]
    if keep is not None:
        kept = {block.name for block in keep}
        for slug, prefix in NAMES_BY_SLUG.items():
            steps += [
                Step(Action.ORPHANED, slug, str(document.name), document_id=document.id)
                for document in _of_type(client, slug)
                if str(document.name).startswith(prefix) and document.name not in kept
            ]
    return steps


def _step(block: Block, stored: BlockDocument | Stored | None) -> Step:
    if stored is None:
        return Step(Action.CREATE, block.slug, block.name, block=block)
    changes = tuple(_differences(block.data, stored.data)) + tuple(
        f"{key}: {before} → {name}"
        for key, name in block.references.items()
        if (before := _reference(stored, key)) != name
    )
    action = Action.UPDATE if changes else Action.UNCHANGED
    return Step(action, block.slug, block.name, changes, stored.id, block)


def _differences(wanted: Mapping[str, Any], found: Any, path: str = "") -> Iterable[str]:
    """Changed fields. A field that is not wanted counts where setup owns the whole mapping."""
    found = found if isinstance(found, Mapping) else {}
    keys = list(wanted) + [key for key in found if path and key not in wanted]
    for key in keys:
        before, after = found.get(key), wanted.get(key)
        if isinstance(after, Mapping):
            yield from _differences(after, before, f"{path}{key}.")
        elif before != after:
            yield f"{path}{key}: {_shown(key, before)} → {_shown(key, after)}"


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "none"
    return str(value) if key in PRINTED and not isinstance(value, Mapping) else "********"


def _stored(client: SyncPrefectClient, block: Block) -> BlockDocument | Stored | None:
    from prefect.exceptions import ObjectNotFound

    if block.slug in other_objects.SLUGS:
        found = other_objects.stored(client, block.slug)
        return next((each for each in found if each.name == block.name), None)
    try:
        return client.read_block_document_by_name(block.name, block.slug, include_secrets=True)
    except ObjectNotFound:
        return None


def _of_type(client: SyncPrefectClient, slug: str) -> Sequence[BlockDocument | Stored]:
    from prefect.exceptions import ObjectNotFound

    if slug in other_objects.SLUGS:
        return other_objects.stored(client, slug)
    try:
        return client.read_block_documents_by_type(slug)
    except ObjectNotFound:  # the type itself is not registered yet
        return []


def _reference(stored: BlockDocument | Stored, key: str) -> str | None:
    reference = stored.block_document_references.get(key)
    return reference["block_document"]["name"] if reference else None
