"""Build the desired Prefect blocks from the contract, each before those that refer to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from infrastructure.prefect_resources.reconcile.resources import Desired
from infrastructure.setup_profiles.contract import (
    BigQueryTarget,
    Contract,
    PostgresTarget,
    ServiceAccountKey,
)
from infrastructure.setup_profiles.notices import desired_notices
from prefect_flows.core import names
from prefect_flows.core.profiles import Profile, profile_from_block

# Prefect's slugs of the block types, in the order in which blocks are written.
SQLALCHEMY = "sqlalchemy-connector"
GCP = "gcp-credentials"
POSTGRES_CONFIGS = "dbt-cli-postgres-target-configs"
BIGQUERY_CONFIGS = "dbt-cli-bigquery-target-configs"
PROFILE = names.PROFILE_TYPE
# Not block types, but planned and written like blocks.
LIMIT = "global-concurrency-limit"
VARIABLE = "variable"


def desired_blocks(contract: Contract, profile_name: str) -> list[Desired]:
    """Return the blocks of all targets, in the order in which they are written."""
    blocks = _google_credentials(contract)
    for name, target in contract.targets.items():
        if isinstance(target, PostgresTarget):
            blocks += _postgres(contract, name, target)
        else:
            blocks.append(_bigquery_configs(contract, name, target))
        blocks += [
            Desired(
                PROFILE,
                names.profile_block(name),
                {"name": profile_name, "target": name},
                {"target_configs": names.target_configs_block(target.type, name)},
            ),
            # A run holds the only slot, so a target has one run at a time.
            Desired(LIMIT, names.concurrency_limit(name), {"limit": 1}),
        ]
    blocks += desired_notices(contract.notices)
    if contract.state_url is not None:
        blocks.append(Desired(VARIABLE, names.STATE_URL_VARIABLE, {"value": contract.state_url}))
    return blocks


def filter_targets(blocks: Iterable[Desired], targets: Iterable[str]) -> list[Desired]:
    """Return the blocks that the given targets need, including referenced and shared ones."""
    by_name = {block.name: block for block in blocks}
    targets = list(targets)
    notify_prefixes = tuple(names.notify_block(name, "") for name in targets)
    wanted = {name for name in by_name if name.startswith(notify_prefixes)}
    wanted |= {
        names.STATE_URL_VARIABLE,
        *map(names.notification_variable, targets),
    } & by_name.keys()
    queue = [
        block
        for name in targets
        for block in (names.profile_block(name), names.concurrency_limit(name))
    ]
    while queue:
        name = queue.pop()
        wanted.add(name)
        queue += by_name[name].references.values()
    return [block for name, block in by_name.items() if name in wanted]


def build_profile(blocks: Iterable[Desired], target: str) -> Profile:
    """Return the dbt profile that the pipeline will load from these blocks."""
    by_name = {block.name: block for block in blocks}

    def resolved(name: str) -> dict[str, Any]:
        block = by_name[name]
        return dict(block.data) | {
            key: resolved(reference) for key, reference in block.references.items()
        }

    return profile_from_block(resolved(names.profile_block(target)))


def _postgres(contract: Contract, name: str, target: PostgresTarget) -> list[Desired]:
    secret = contract.secrets.get(name)
    password = secret.password if secret is not None else None
    return [
        Desired(
            SQLALCHEMY,
            names.postgres_credentials_block(name),
            {
                "connection_info": {
                    "driver": "postgresql+psycopg2",
                    "host": target.host,
                    "port": target.port,
                    "database": target.database,
                    "username": target.user,
                    "password": password.get_secret_value() if password is not None else None,
                }
            },
        ),
        Desired(
            POSTGRES_CONFIGS,
            names.target_configs_block("postgres", name),
            {
                "type": "postgres",
                "schema": target.schema_,
                "threads": target.threads,
                "extras": (target.dbt_options or {}) | _given(target, "sslmode", "publish"),
            },
            {"credentials": names.postgres_credentials_block(name)},
        ),
    ]


def _bigquery_configs(contract: Contract, name: str, target: BigQueryTarget) -> Desired:
    return Desired(
        BIGQUERY_CONFIGS,
        names.target_configs_block("bigquery", name),
        {
            "type": "bigquery",
            "project": target.project,
            "schema": target.dataset,
            "threads": target.threads,
            "extras": (target.dbt_options or {})
            | _given(
                target,
                "location",
                "execution_project",
                "priority",
                "maximum_bytes_billed",
                "job_execution_timeout_seconds",
                "impersonate_service_account",
                "api_endpoint",
                "publish",
            ),
        },
        {"credentials": _google_credentials_name(contract, name)},
    )


def _google_credentials(contract: Contract) -> list[Desired]:
    """Return one block for all BigQuery targets, or one each if their keys differ."""
    blocks = {}
    for name, target in contract.targets.items():
        if isinstance(target, BigQueryTarget):
            key = _google_key(contract, name)
            block = Desired(
                GCP,
                _google_credentials_name(contract, name),
                # Without a project, the block would ask Google for it.
                {
                    "project": target.project if key is None else key.project_id,
                    "service_account_info": None if key is None else _dump_key(key),
                },
            )
            blocks[block.name] = block
    return list(blocks.values())


def _google_credentials_name(contract: Contract, name: str) -> str:
    identities = {
        (key.client_email, key.private_key.get_secret_value())
        if key is not None
        else target.project
        for other, target in contract.targets.items()
        if isinstance(target, BigQueryTarget)
        for key in [_google_key(contract, other)]
    }
    return names.gcp_credentials_block(None if len(identities) == 1 else name)


def _google_key(contract: Contract, name: str) -> ServiceAccountKey | None:
    secret = contract.secrets.get(name)
    return secret.service_account_key if secret is not None else None


def _dump_key(key: ServiceAccountKey) -> dict[str, Any]:
    return key.model_dump() | {"private_key": key.private_key.get_secret_value()}


def _given(target: PostgresTarget | BigQueryTarget, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(target, name)) is not None}
