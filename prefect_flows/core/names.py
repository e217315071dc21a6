"""Names that setup and the pipeline share: Prefect blocks, variables, tags, limits, commands."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import StringConstraints

Warehouse = Literal["postgres", "bigquery"]

TARGET_PATTERN = r"^[a-z][a-z0-9]*([-_][a-z0-9]+)*$"
TargetName = Annotated[str, StringConstraints(pattern=TARGET_PATTERN, max_length=40)]

PROFILE_TYPE = "dbt-cli-profile"
# Name of the pipeline's flow; importing the flow itself takes seconds.
PIPELINE = "dbt-full-pipeline"
SETUP_COMMAND = "uv run millrace setup"
LOCAL_UP_COMMAND = "uv run millrace up"


def dashed(target: str) -> str:
    """Return a target's name for Prefect's blocks and artifacts, whose names have no underscores.

    Setup refuses two targets with the same dashed name.
    """
    return target.replace("_", "-")


def profile_block(target: str) -> str:
    """Return the name of the `DbtCliProfile` block of a target."""
    return f"dbt-cli-profile-{dashed(target)}"


def target_configs_block(warehouse: Warehouse, target: str) -> str:
    """Return the name of the `…TargetConfigs` block of a target."""
    return f"{warehouse}-target-configs-{dashed(target)}"


def postgres_credentials_block(target: str) -> str:
    """Return the name of the `SqlAlchemyConnector` block of a Postgres target."""
    return f"postgres-credentials-{dashed(target)}"


def gcp_credentials_block(target: str | None = None) -> str:
    """Return the name of the `GcpCredentials` block of a target, or of the shared one."""
    return "gcp-credentials" if target is None else f"gcp-credentials-{dashed(target)}"


def secret_block(source: str, parameter: str, target: str) -> str:
    """Return the name of the `Secret` block for a secret parameter of a source in a target."""
    return re.sub("_+", "-", f"{source}-{parameter}-{target}")


def notify_block(target: str, name: str | None = None) -> str:
    """Return the name of a notification block of a target; it may have any of Prefect's types.

    Args:
        name: tells several blocks of a target apart. It follows two dashes, which no target's name
            contains.
    """
    return f"notify-{dashed(target)}" + ("" if name is None else f"--{name}")


def artifact(target: str, what: str) -> str:
    """Return the key of an artifact of a target's runs."""
    return f"{dashed(target)}-{what}"


def receiver_name(block: str) -> str:
    """Return the name of the receiver in the name of a notification block; empty if it has none."""
    return block.partition("--")[2]


def notification_variable(target: str) -> str:
    """Return the name of the Prefect variable with a target's notification preferences."""
    # Prefect allows no dashes in the names of variables.
    return f"millrace_notices_{target.replace('-', '_')}"


def run_tag(target: str) -> str:
    """Return the tag of a target's deployments and flow runs, which automations match."""
    return f"millrace:{target}"


def automation(target: str | None, finding: str) -> str:
    """Return the name of a Prefect automation for a target, or for the server if there is none."""
    return f"millrace: {finding}" if target is None else f"millrace: {target}: {finding}"


def concurrency_limit(target: str) -> str:
    """Return the name of the global concurrency limit (one slot) that allows one run per target."""
    return f"millrace-target-{target}"


# Name of the Prefect variable with the state store's URL, if Terraform's outputs have one.
STATE_URL_VARIABLE = "millrace_state_url"


def secret_block_variable(block: str) -> str:
    """Return the environment variable that replaces a `Secret` block with `--no-prefect`."""
    return "DBT_ENV_SECRET_" + block.replace("-", "_").upper()


def secret_variable(target: str, key: str) -> str:
    """Return the variable that passes a secret to dbt, which hides `DBT_ENV_SECRET_*` in logs."""
    return "DBT_ENV_SECRET_" + re.sub(r"[^A-Z0-9]", "_", f"{target}_{key}".upper())
