"""Read the targets of a `profiles.yml` into the contract. Secrets stay where they are."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infrastructure.setup_profiles.contract import RESERVED_OPTIONS
from prefect_flows.core.documents import DocumentError, parse_yaml, read_text
from prefect_flows.core.errors import ConfigurationError, did_you_mean

SUPPORTED = ("postgres", "bigquery")
# Key of the contract → dbt's names of it.
_KEYS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "postgres": {
        "host": ("host",),
        "port": ("port",),
        "database": ("dbname", "database"),
        "user": ("user",),
        "schema": ("schema",),
        "threads": ("threads",),
        "sslmode": ("sslmode",),
    },
    "bigquery": {
        "project": ("project", "database"),
        "dataset": ("dataset", "schema"),
        "location": ("location",),
        "threads": ("threads",),
        "execution_project": ("execution_project",),
        "priority": ("priority",),
        "maximum_bytes_billed": ("maximum_bytes_billed",),
        "job_execution_timeout_seconds": ("job_execution_timeout_seconds",),
        "impersonate_service_account": ("impersonate_service_account",),
        "api_endpoint": ("api_endpoint",),
    },
}
# dbt's own defaults.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "postgres": {"port": 5432, "threads": 1},
    "bigquery": {"threads": 1},
}
# What holds a secret, and the field of `dbt_target_secrets` that takes its place; None for tokens
# of a person, which the pipeline does not use.
_SECRETS = {
    "password": "password",
    "pass": "password",
    "keyfile": "service_account_key",
    "keyfile_json": "service_account_key",
    "token": None,
    "refresh_token": None,
    "client_id": None,
    "client_secret": None,
}


@dataclass(frozen=True)
class ForeignTargets:
    """The targets of a `profiles.yml`.

    Attributes:
        default: name of the target that dbt uses if none is named.
        targets: name → target, as `dbt_targets` of the contract has it.
        passed_through: name of a target → further keys of dbt, which the contract passes through.
        left_out: what the contract does not take, one line each.
        has_plain_secrets: whether the file has a secret that no variable stands for.
    """

    default: str | None = None
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    passed_through: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    has_plain_secrets: bool = False


def read_targets(file: Path, profile: str, chosen: Collection[str]) -> ForeignTargets:
    """Read the targets of a profile; variables of the environment are filled in, but no secrets.

    Args:
        file: the `profiles.yml`.
        profile: name of the profile.
        chosen: names of the targets to read; all if empty.

    Raises:
        ConfigurationError: the file has no such profile or target, no target of a supported
            adapter, or reads a variable that is not set.
    """
    outputs, default = _read_outputs(file, profile, chosen)
    found = ForeignTargets(
        default if default in outputs else next(iter(outputs), None),
        has_plain_secrets=any(map(_has_plain_secret, outputs.values())),
    )
    for name, output in outputs.items():
        adapter = output.get("type")
        if adapter not in SUPPORTED:
            found.left_out.append(f"target {name}: the adapter {adapter} is not supported")
            continue
        _add_target(found, file, name, output)
    if not found.targets:
        types = ", ".join(f"{name} is of {output.get('type')}" for name, output in outputs.items())
        raise ConfigurationError(
            f"The profile {profile!r} has no target of {' or '.join(SUPPORTED)}: {types}.",
            where=str(file),
            fix="Millrace runs dbt on Postgres and BigQuery only; add a target of one of them, or "
            "see documentation/comparison.md for other tools",
        )
    return found


def _read_outputs(
    file: Path, profile: str, chosen: Collection[str]
) -> tuple[dict[str, dict[str, Any]], str | None]:
    try:
        document = parse_yaml(read_text(file))
    except (OSError, DocumentError) as error:
        raise ConfigurationError(
            f"{file.name} cannot be read: {error}.", where=str(file), fix="correct it"
        ) from error
    found = document.get(profile) if isinstance(document, dict) else None
    if found is None:
        names = [name for name in document or {} if name != "config"]
        raise ConfigurationError(
            f"{file.name} has no profile {profile!r}, which dbt_project.yml asks for; it has "
            f"{', '.join(names) or 'none'}.",
            where=str(file),
            fix="name the folder of the right file: --profiles-dir FOLDER",
        )
    outputs = found.get("outputs") if isinstance(found, dict) else None
    if not isinstance(outputs, dict) or not all(isinstance(o, dict) for o in outputs.values()):
        raise ConfigurationError(
            f"The profile {profile!r} has no outputs.", where=str(file), fix="correct it"
        )
    for name in chosen:
        if name not in outputs:
            raise ConfigurationError(
                f"The profile {profile!r} has no target {name!r}; it has {', '.join(outputs)}."
                f"{did_you_mean(name, outputs)}",
                where="--target",
                fix="name one of them",
            )
    default = found.get("target")
    chosen_outputs = {name: o for name, o in outputs.items() if not chosen or name in chosen}
    return chosen_outputs, str(default) if default in outputs else None


def _has_plain_secret(output: Mapping[str, Any]) -> bool:
    secrets = (output.get(key) for key in _SECRETS if key not in ("keyfile", "client_id"))
    return any(secret and "env_var" not in str(secret) for secret in secrets)


def _add_target(found: ForeignTargets, file: Path, name: str, output: Mapping[str, Any]) -> None:
    adapter = output["type"]
    known = {dbt_name for names in _KEYS[adapter].values() for dbt_name in names}
    rendered = _render(file, name, {k: v for k, v in output.items() if k not in _SECRETS})
    target: dict[str, Any] = {"type": adapter} | dict(_DEFAULTS[adapter])
    for key, names in _KEYS[adapter].items():
        given = [rendered[each] for each in names if rendered.get(each) is not None]
        if given:
            target[key] = given[0]
    further = {
        key: value
        for key, value in rendered.items()
        if key not in known and key not in RESERVED_OPTIONS
    }
    for key in sorted(output.keys() - known - further.keys() - {"type", "method"}):
        place = _SECRETS.get(key)
        found.left_out.append(
            f"target {name}: the pipeline does not take {key}"
            if place is None
            else f"target {name}: {key} is not copied; it goes into "
            f"dbt_target_secrets.{name}.{place}"
        )
    if further:
        target["dbt_options"] = further
        found.passed_through[name] = sorted(further)
    found.targets[name] = target


def _render(file: Path, name: str, output: Mapping[str, Any]) -> dict[str, Any]:
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context
    from dbt_common.exceptions import DbtBaseException

    set_invocation_context(os.environ)
    try:
        rendered = ProfileRenderer({}).render_data(dict(output))
    except DbtBaseException as error:
        raise ConfigurationError(
            f"Target {name!r} cannot be read: {' '.join(str(error).split())}",
            where=str(file),
            fix="set the variable, or leave the target out: name the others with --target",
        ) from error
    return dict(rendered)
