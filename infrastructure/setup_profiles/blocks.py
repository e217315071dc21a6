"""Writes the planned blocks through the Prefect API.

Documents are written as data. The classes of prefect-dbt and its companions serve only to
register the types of blocks: an instance of `GcpCredentials` without a key asks Google for
credentials, and one of `DbtCliProfile` keeps the secrets of what it refers to in the open.
This is the one module that imports `prefect_dbt.cli`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from infrastructure.setup_profiles import desired, other_objects
from infrastructure.setup_profiles.plan import NAMES_BY_SLUG, Action, Step

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Imported when a block of the type is first created: they take four seconds.
BLOCK_CLASSES = {
    desired.SQLALCHEMY: ("prefect_sqlalchemy", "SqlAlchemyConnector"),
    desired.GCP: ("prefect_gcp.credentials", "GcpCredentials"),
    desired.POSTGRES_CONFIGS: ("prefect_dbt.cli.configs.postgres", "PostgresTargetConfigs"),
    desired.BIGQUERY_CONFIGS: ("prefect_dbt.cli.configs.bigquery", "BigQueryTargetConfigs"),
    desired.PROFILE: ("prefect_dbt.cli.credentials", "DbtCliProfile"),
}


def apply(client: SyncPrefectClient, steps: Iterable[Step], *, prune: bool) -> None:
    """Create and update, in the plan's order; then, if asked, remove orphans.

    A block is written after those it refers to, so that a run that ends half way leaves no
    profile without credentials, and the next one goes on.
    """
    from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate

    steps = list(steps)
    ids: dict[str, UUID] = {}
    for step in steps:
        if step.document_id is not None:
            ids[step.name] = step.document_id
    for step in steps:
        if step.block is None or step.action is Action.UNCHANGED:
            continue
        if step.slug in other_objects.SLUGS:
            other_objects.write(client, step.block, exists=step.document_id is not None)
            continue
        data = dict(step.block.data) | {
            key: {"$ref": {"block_document_id": str(ids[name])}}
            for key, name in step.block.references.items()
        }
        if step.document_id is not None:
            client.update_block_document(
                step.document_id, BlockDocumentUpdate(data=data, merge_existing_data=False)
            )
        else:
            type_id, schema_id = _registered(step.slug)
            created = client.create_block_document(
                BlockDocumentCreate(
                    name=step.name, data=data, block_type_id=type_id, block_schema_id=schema_id
                )
            )
            ids[step.name] = created.id
    if prune:
        _remove(client, [step for step in steps if step.action is Action.ORPHANED])


def _remove(client: SyncPrefectClient, orphans: list[Step]) -> None:
    for slug in NAMES_BY_SLUG:
        for step in orphans:
            if step.slug == slug and slug in other_objects.SLUGS:
                other_objects.remove(client, slug, step.name)
            elif step.slug == slug and step.document_id is not None:
                client.delete_block_document(step.document_id)


def _registered(slug: str) -> tuple[UUID, UUID]:
    """Register a type of block and its schema; their ids."""
    module, name = BLOCK_CLASSES[slug]
    with warnings.catch_warnings():
        # Said at import since 2025; the classes are still shipped, and the contract names them.
        warnings.filterwarnings("ignore", message="prefect_dbt.cli is deprecated")
        block_class = getattr(importlib.import_module(module), name)
    block_class.register_type_and_schema()
    return block_class._block_type_id, block_class._block_schema_id  # noqa: SLF001 (no public way)
