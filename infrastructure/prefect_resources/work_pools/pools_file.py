"""Schema of `pools.yaml`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StringConstraints,
)

from infrastructure.prefect_resources.config_files import find_config_file
from infrastructure.prefect_resources.reconcile.yaml_file import read
from infrastructure.prefect_resources.work_pools.block_references import is_reference
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.passwords import has_password
from prefect_flows.core.settings import Settings

POOLS_FILE = "pools.yaml"
Kind = Literal["process", "docker", "kubernetes"]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|AUTH_STRING|(^|_)KEY$")


def _require_no_secret(env: Mapping[str, str]) -> Mapping[str, str]:
    open_secrets = [
        name
        for name, value in env.items()
        if not is_reference(value) and (_SECRET_NAME.search(name.upper()) or has_password(value))
    ]
    if open_secrets:
        raise ValueError(
            f"{', '.join(open_secrets)}: a secret is named here, never written: "
            '"{{ prefect.blocks.secret.NAME }}", made with '
            "uv run millrace secret NAME"
        )
    return env


Env = Annotated[Mapping[str, str], AfterValidator(_require_no_secret)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class Queue(BaseModel):
    """A work queue. Priority 1 is served first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priority: PositiveInt
    concurrency_limit: NonNegativeInt | None = None


class Pool(BaseModel):
    """A work pool, and the overrides of Prefect's base job template.

    Attributes:
        env: environment of its runs.
        defaults: job variable → its default.
        variables: additional job variables, each a JSON schema.
        job_configuration: overrides of Prefect's job configuration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    description: str
    concurrency_limit: NonNegativeInt | None = None
    queues: Mapping[Name, Queue] = Field(default_factory=dict)
    env: Env = Field(default_factory=dict)
    defaults: Mapping[str, Any] = Field(default_factory=dict)
    variables: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    job_configuration: Mapping[str, Any] = Field(default_factory=dict)


class PoolsFile(BaseModel):
    """Content of `pools.yaml`. `env` applies to every pool; `queues` holds only YAML anchors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    env: Env = Field(default_factory=dict)
    queues: Mapping[Name, Queue] = Field(default_factory=dict)
    pools: Mapping[Name, Pool]


def read_pools(
    settings: Settings, file: Path | None = None, names: list[str] | None = None
) -> dict[str, Pool]:
    """Read the work pools, with `env` merged and `${NAME}`, `${NAME:-default}` replaced.

    Args:
        settings: settings of the project.
        file: path of the file; by default the project's `pools.yaml`, or else the engine's.
        names: pools to read; all if None. Only their variables must be set.

    Raises:
        ConfigurationError: the file does not exist or is invalid, it has no such pool, or a
            variable is not set.
    """
    file = file or find_config_file(settings, POOLS_FILE)
    parsed = read(file, PoolsFile)
    chosen = _select_pools(parsed, names, file)
    variables = _load_variables(settings)
    return {
        name: pool.model_copy(
            update={
                "env": _replace_variables({**parsed.env, **pool.env}, variables, f"{name}.env"),
                "defaults": _replace_variables(pool.defaults, variables, f"{name}.defaults"),
            }
        )
        for name, pool in chosen.items()
    }


def _select_pools(parsed: PoolsFile, names: list[str] | None, file: Path) -> dict[str, Pool]:
    unknown = [name for name in names or [] if name not in parsed.pools]
    if unknown:
        raise ConfigurationError(
            f"There is no work pool {', '.join(map(repr, unknown))} in the file; it has "
            f"{', '.join(parsed.pools)}.",
            where=str(file),
            fix="name one of them with --pool, or add the pool to the file",
        )
    return {name: pool for name, pool in parsed.pools.items() if not names or name in names}


def _load_variables(settings: Settings) -> dict[str, str]:
    from_file = dotenv_values(settings.project_dir / ".env")
    return {name: value for name, value in from_file.items() if value is not None} | dict(
        os.environ
    )


def _replace_variables(value: Any, variables: Mapping[str, str], where: str) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _replace_variables(each, variables, f"{where}.{key}")
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_replace_variables(each, variables, where) for each in value]
    if not isinstance(value, str):
        return value

    def of(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name not in variables and default is None:
            raise ConfigurationError(
                f"{name} is not set, which the work pool needs.",
                where=f"{POOLS_FILE}: {where}",
                fix=f"set {name} in the environment or in .env; "
                "or leave the pool out: --pool default-pool",
            )
        return variables.get(name, default)

    return _VARIABLE.sub(of, value)
