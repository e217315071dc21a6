"""The names that setup and the pipeline agree on: blocks, variables, tags, limits, commands."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import StringConstraints

Warehouse = Literal["postgres", "bigquery"]

TARGET_PATTERN = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
TargetName = Annotated[str, StringConstraints(pattern=TARGET_PATTERN, max_length=40)]

PROFILE_TYPE = "dbt-cli-profile"
# Name of the flow that refreshes a target; importing it takes seconds.
PIPELINE = "dbt-full-pipeline"
SETUP_COMMAND = "uv run millrace setup"
LOCAL_UP_COMMAND = "uv run millrace up"


def profile_block(target: str) -> str:
    """Name of the `DbtCliProfile` block of a target."""
    return f"dbt-cli-profile-{target}"


def target_configs_block(warehouse: Warehouse, target: str) -> str:
    """Name of the `…TargetConfigs` block of a target."""
    return f"{warehouse}-target-configs-{target}"


def postgres_credentials_block(target: str) -> str:
    """Name of the `SqlAlchemyConnector` block of a Postgres target."""
    return f"postgres-credentials-{target}"


def gcp_credentials_block(target: str | None = None) -> str:
    """Name of the `GcpCredentials` block: the shared one, or a target's own."""
    return "gcp-credentials" if target is None else f"gcp-credentials-{target}"


def secret_block(source: str, parameter: str, target: str) -> str:
    """Name of the `Secret` block that fills a secret parameter of a source for a target."""
    return re.sub("_+", "-", f"{source}-{parameter}-{target}")


def notify_block(target: str, name: str | None = None) -> str:
    """Name of a notification block, of any of Prefect's types, that tells who answers for a target.

    Args:
        name: of one of several; a target's name has no two dashes.
    """
    return f"notify-{target}" if name is None else f"notify-{target}--{name}"


def notices_variable(target: str) -> str:
    """Name of the Prefect variable that holds what is told of a target; it can have no dashes."""
    return f"millrace_notices_{target.replace('-', '_')}"


def run_tag(target: str) -> str:
    """Tag of a target's deployments and runs, by which automations know them."""
    return f"millrace:{target}"


def automation(target: str | None, finding: str) -> str:
    """Name of the Prefect automation that finds something; without a target, of the server's."""
    return f"millrace: {finding}" if target is None else f"millrace: {target}: {finding}"


def lease_limit(target: str) -> str:
    """Name of the global concurrency limit of which a run of the target holds the only slot."""
    return f"millrace-target-{target}"


# Name of the Prefect variable that holds the state store's URL, where Terraform gives one.
STATE_URL_VARIABLE = "millrace_state_url"


def secret_block_variable(block: str) -> str:
    """Environment variable that stands for a `Secret` block where there is no Prefect API."""
    return "DBT_ENV_SECRET_" + block.replace("-", "_").upper()


def secret_variable(target: str, key: str) -> str:
    """Environment variable that carries a secret to dbt, which scrubs `DBT_ENV_SECRET_*`."""
    return "DBT_ENV_SECRET_" + re.sub(r"[^A-Z0-9]", "_", f"{target}_{key}".upper())
