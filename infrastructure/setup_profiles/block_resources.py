"""Read and write blocks, concurrency limits and variables through Prefect's API.

Block documents are written as data. The block classes serve only to register the block types: an
instance of `GcpCredentials` without a key asks Google for credentials, and one of `DbtCliProfile`
exposes the secrets of the blocks that it refers to. Only this module imports `prefect_dbt.cli`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infrastructure.prefect_resources.reconcile.resources import Actual, Desired, ResourceType
from infrastructure.setup_profiles import desired, notices
from infrastructure.setup_profiles.contract import BigQueryTarget, PostgresTarget
from prefect_flows.core import names
from prefect_flows.core.prefect_api import read_all, read_or_none
from prefect_flows.state.state_url import without_login

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import BlockDocument

# Fields that a plan may print. Others are masked, since even one that was added by hand may be a
# secret.
PRINTED = frozenset(
    {*PostgresTarget.model_fields, *BigQueryTarget.model_fields}
    | {
        "limit",
        "value",
        "events",
        "schema",
        "name",
        "target",
        "driver",
        "username",
        "project_id",
        "client_email",
    }
)


class _MasksUnknownFields:
    def is_printable(self, path: tuple[str, ...], value: Any) -> bool:
        return path[-1] in PRINTED and not isinstance(value, Mapping)


@dataclass(frozen=True)
class BlockKind(_MasksUnknownFields):
    """The blocks of one type.

    Attributes:
        name: Prefect's slug of the type.
        prefix: prefix of our blocks' names.
        module: module of the block class. Imported only when a block is created, since the import
            takes four seconds.
        block_class: name of the block class.
        mark: another part of our blocks' names.
    """

    name: str
    prefix: str
    module: str
    block_class: str
    mark: str = ""

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """Return the block with this name, with its secrets in plain text."""
        found = read_or_none(
            client.read_block_document_by_name, name, self.name, include_secrets=True
        )
        return None if found is None else _to_actual(found)

    def list_owned(self, client: SyncPrefectClient) -> Iterable[Actual]:
        """Return every block of the type that has our prefix."""
        # None if the block type is not registered yet.
        found = read_or_none(client.read_block_documents_by_type, self.name) or []
        return [
            _to_actual(block)
            for block in found
            if str(block.name).startswith(self.prefix) and self.mark in str(block.name)
        ]

    def write(
        self,
        client: SyncPrefectClient,
        desired: Desired,
        stored_id: UUID | None,
        ids: Mapping[str, UUID],
    ) -> UUID:
        """Create or replace the block; the blocks that it refers to already exist."""
        from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate

        data = dict(desired.data) | {
            key: {"$ref": {"block_document_id": str(ids[name])}}
            for key, name in desired.references.items()
        }
        if stored_id is not None:
            client.update_block_document(
                stored_id, BlockDocumentUpdate(data=data, merge_existing_data=False)
            )
            return stored_id
        type_id, schema_id = self._register_type()
        created = client.create_block_document(
            BlockDocumentCreate(
                name=desired.name, data=data, block_type_id=type_id, block_schema_id=schema_id
            )
        )
        return created.id

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:  # noqa: ARG002
        """Delete the block."""
        client.delete_block_document(stored_id)

    def _register_type(self) -> tuple[UUID, UUID]:
        """Register the block type and its schema; return their ids."""
        with warnings.catch_warnings():
            # Deprecated since 2025, but still shipped, and the contract names these block types.
            warnings.filterwarnings("ignore", message="prefect_dbt.cli is deprecated")
            block_class = getattr(importlib.import_module(self.module), self.block_class)
        block_class.register_type_and_schema()
        return block_class._block_type_id, block_class._block_schema_id  # noqa: SLF001 (no public way)


class LimitKind(_MasksUnknownFields):
    """Global concurrency limits."""

    name = desired.LIMIT

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """Return the limit with this name."""
        return next((each for each in self.list_owned(client) if each.name == name), None)

    def list_owned(self, client: SyncPrefectClient) -> Iterable[Actual]:
        """Return every limit that has our prefix."""
        return [
            Actual(found.id, found.name, {"limit": found.limit})
            for found in read_all(client.read_global_concurrency_limits)
            if found.name.startswith(names.concurrency_limit(""))
        ]

    def write(
        self,
        client: SyncPrefectClient,
        desired: Desired,
        stored_id: UUID | None,  # noqa: ARG002
        ids: Mapping[str, UUID],  # noqa: ARG002
    ) -> UUID:
        """Create or update the limit."""
        client.upsert_global_concurrency_limit_by_name(desired.name, desired.data["limit"])
        return client.read_global_concurrency_limit_by_name(desired.name).id

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:  # noqa: ARG002
        """Delete the limit."""
        client.delete_global_concurrency_limit_by_name(name)


class VariableKind(_MasksUnknownFields):
    """Prefect variables: the state store's URL, and the notification preferences of each target."""

    name = desired.VARIABLE

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """Return the variable with this name."""
        found = client.read_variable_by_name(name)
        if found is None:
            return None
        value = found.value
        if name == names.STATE_URL_VARIABLE:
            # The plan prints the URL, which may contain a login that was added by hand.
            value = without_login(str(value))
        return Actual(found.id, found.name, {"value": value})

    def list_owned(self, client: SyncPrefectClient) -> Iterable[Actual]:
        """Return every variable that setup writes."""
        return [
            Actual(found.id, found.name, {"value": found.value})
            for found in client.read_variables(limit=200)
            if found.name == names.STATE_URL_VARIABLE
            or found.name.startswith(names.notification_variable(""))
        ]

    def write(
        self,
        client: SyncPrefectClient,
        desired: Desired,
        stored_id: UUID | None,
        ids: Mapping[str, UUID],  # noqa: ARG002
    ) -> UUID:
        """Create or update the variable."""
        from prefect.client.schemas.actions import VariableCreate, VariableUpdate

        value = desired.data["value"]
        if stored_id is not None:
            client.update_variable(VariableUpdate(name=desired.name, value=value))
            return stored_id
        return client.create_variable(VariableCreate(name=desired.name, value=value)).id

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:  # noqa: ARG002
        """Delete the variable."""
        client.delete_variable_by_name(name)


# Dependents first: the order in which orphans are removed.
KINDS: tuple[ResourceType, ...] = (
    BlockKind(
        desired.PROFILE,
        names.profile_block(""),
        "prefect_dbt.cli.credentials",
        "DbtCliProfile",
    ),
    BlockKind(
        desired.POSTGRES_CONFIGS,
        names.target_configs_block("postgres", ""),
        "prefect_dbt.cli.configs.postgres",
        "PostgresTargetConfigs",
    ),
    BlockKind(
        desired.BIGQUERY_CONFIGS,
        names.target_configs_block("bigquery", ""),
        "prefect_dbt.cli.configs.bigquery",
        "BigQueryTargetConfigs",
    ),
    BlockKind(
        desired.SQLALCHEMY,
        names.postgres_credentials_block(""),
        "prefect_sqlalchemy",
        "SqlAlchemyConnector",
    ),
    BlockKind(
        desired.GCP,
        names.gcp_credentials_block(),
        "prefect_gcp.credentials",
        "GcpCredentials",
    ),
    *(
        # A block that a user created is named `notify-<target>`, and is not ours.
        BlockKind(slug, names.notify_block(""), "prefect.blocks.notifications", name, mark="--")
        for slug, name in (
            (notices.SLACK, "SlackWebhook"),
            (notices.TEAMS, "MicrosoftTeamsWebhook"),
            (notices.DISCORD, "DiscordWebhook"),
            (notices.WEBHOOK, "CustomWebhookNotificationBlock"),
        )
    ),
    LimitKind(),
    VariableKind(),
)


def _to_actual(block: BlockDocument) -> Actual:
    references = {
        key: reference["block_document"]["name"]
        for key, reference in block.block_document_references.items()
    }
    return Actual(block.id, str(block.name), block.data, references)
