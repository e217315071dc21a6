"""What setup makes in Prefect that is no block: concurrency limits and a variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infrastructure.setup_profiles.desired import LIMIT, VARIABLE, Block

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

SLUGS = frozenset({LIMIT, VARIABLE})


@dataclass(frozen=True)
class Stored:
    """An object as it is, in the shape of a block document."""

    id: UUID
    name: str
    data: Mapping[str, Any]
    block_document_references: Mapping[str, Any]


def stored(client: SyncPrefectClient, slug: str) -> list[Stored]:
    """Every object of a kind."""
    if slug == LIMIT:
        limits = client.read_global_concurrency_limits(limit=200)
        return [Stored(found.id, found.name, {"limit": found.limit}, {}) for found in limits]
    variables = client.read_variables(limit=200)
    return [Stored(found.id, found.name, {"value": found.value}, {}) for found in variables]


def write(client: SyncPrefectClient, block: Block, *, exists: bool) -> None:
    """Create an object, or change it."""
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate

    if block.slug == LIMIT:
        client.upsert_global_concurrency_limit_by_name(block.name, block.data["limit"])
    elif exists:
        client.update_variable(VariableUpdate(name=block.name, value=block.data["value"]))
    else:
        client.create_variable(VariableCreate(name=block.name, value=block.data["value"]))


def remove(client: SyncPrefectClient, slug: str, name: str) -> None:
    """Remove an object."""
    if slug == LIMIT:
        client.delete_global_concurrency_limit_by_name(name)
    else:
        client.delete_variable_by_name(name)
