"""dbt profiles of a target, from Prefect blocks (`DbtCliProfile`) or from `profiles.yml`.

This module reads the data of the blocks without the block classes of prefect-dbt: `DbtCliProfile`
loses host and credentials of a referenced `TargetConfigs`, and importing the classes takes four
seconds. Setup uses the classes to create the blocks
(`infrastructure.setup_profiles.block_resources`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect_flows.core.documents import DocumentError, parse_yaml, read_text
from prefect_flows.core.errors import ConfigurationError, did_you_mean
from prefect_flows.core.names import LOCAL_UP_COMMAND, SETUP_COMMAND, secret_variable

# libpq's variable; used for targets without a password.
PASSWORD_VARIABLE = "PGPASSWORD"  # noqa: S105 (a name)


@dataclass(frozen=True)
class Profile:
    """A dbt profile with one target, and its secrets apart from the rest.

    Attributes:
        name: the profile's name, as in `dbt_project.yml`.
        target: the target's name.
        output: the target's settings in dbt's own keys, without secrets.
        secrets: path in `output` → secret value, for example `("password",)`.
    """

    name: str
    target: str
    output: Mapping[str, Any]
    secrets: Mapping[tuple[str, ...], str] = field(default_factory=dict, repr=False)

    @property
    def warehouse(self) -> str:
        """The adapter type: `postgres` or `bigquery`."""
        return str(self.output["type"])

    @property
    def publishes(self) -> bool:
        """Whether readers see only models whose tests passed (`publish` in the contract).

        dbt ignores this key of the output.
        """
        return bool(self.output.get("publish", False))

    @property
    def address(self) -> str:
        """The address of the warehouse, for error messages."""
        if self.warehouse == "postgres":
            o = self.output
            return f"postgres {o['user']}@{o['host']}:{o['port']}/{o['dbname']}"
        return f"{self.warehouse} {self.output.get('project')}"

    @property
    def address_hint(self) -> str:
        """What fixes a warehouse that does not answer or refuses the connection."""
        if str(self.output.get("host", "")).startswith("/"):
            return f"start it ({LOCAL_UP_COMMAND}), or correct the target and: {SETUP_COMMAND}"
        return (
            "see that the server runs and that Terraform's outputs hold the right address and "
            f"credentials, then: {SETUP_COMMAND} --target {self.target}"
        )

    @classmethod
    def from_output(cls, name: str, target: str, output: Mapping[str, Any]) -> Profile:
        """Build a profile from an output of `profiles.yml`; separate its secrets."""
        rest = dict(output)
        secrets: dict[tuple[str, ...], str] = {}
        if rest.get("password"):
            secrets["password",] = str(rest["password"])
            rest["password"] = ""
        if "keyfile_json" in rest:
            key = dict(rest["keyfile_json"])
            secrets["keyfile_json", "private_key"] = str(key.pop("private_key"))
            rest["keyfile_json"] = key
        return cls(name, target, rest, secrets)

    def dbt_output(self) -> dict[str, Any]:
        """Return the output for profiles.yml; every secret is an `env_var` call."""
        calls = {
            path: f"{{{{ env_var('{secret_variable(self.target, path[-1])}') }}}}"
            for path in self.secrets
        }
        return self._filled(
            self._default_password(f"{{{{ env_var('{PASSWORD_VARIABLE}', '') }}}}") | calls
        )

    def credentials(self) -> dict[str, Any]:
        """Return the output with its secrets, for clients in this process."""
        password = os.environ.get(PASSWORD_VARIABLE, "")
        return self._filled(self._default_password(password) | dict(self.secrets))

    def _default_password(self, password: str) -> dict[tuple[str, ...], str]:
        """Return the `password` of a Postgres target that has none, which may be empty.

        dbt requires the key. If it is empty, libpq uses `.pgpass` or trust authentication, but not
        `PGPASSWORD`, because a password was passed.
        """
        return {("password",): password} if self.warehouse == "postgres" else {}

    def environment(self) -> dict[str, str]:
        """Return the environment variables that `dbt_output` refers to, with their secrets."""
        return {
            secret_variable(self.target, path[-1]): value for path, value in self.secrets.items()
        }

    def _filled(self, values: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
        output = dict(self.output)
        for path, value in values.items():
            inner = output
            for key in path[:-1]:
                inner[key] = dict(inner[key])
                inner = inner[key]
            inner[path[-1]] = value
        return output


def profile_from_block(data: Mapping[str, Any]) -> Profile:
    """Build a profile from the data of a `DbtCliProfile` block with resolved references.

    Raises:
        KeyError: the data lacks a field that setup always writes.
        ValueError: the warehouse type is not supported.
    """
    configs = data["target_configs"]
    output = {"type": configs["type"], "schema": configs["schema"], "threads": configs["threads"]}
    if configs["type"] == "postgres":
        connection = configs["credentials"]["connection_info"]
        output |= {
            "host": connection["host"],
            "port": connection["port"],
            "user": connection["username"],
            "dbname": connection["database"],
            "password": connection.get("password") or "",
        }
    elif configs["type"] == "bigquery":
        key = configs["credentials"].get("service_account_info")
        output |= {"project": configs["project"], "method": "oauth"}
        if key:
            output |= {"method": "service-account-json", "keyfile_json": key}
    else:
        raise ValueError(f"unknown warehouse type {configs['type']!r}")
    output |= configs.get("extras") or {}
    return Profile.from_output(data["name"], data["target"], output)


def read_profile_name(dbt_dir: Path) -> str:
    """Read the profile's name from `dbt_project.yml`.

    Raises:
        ConfigurationError: the file, or the name in it, is missing.
    """
    file = dbt_dir / "dbt_project.yml"
    try:
        document = parse_yaml(read_text(file))
        return str(document["profile"])
    except (OSError, DocumentError, KeyError, TypeError, IndexError) as error:
        raise ConfigurationError(
            f"The name of the dbt profile cannot be read: {type(error).__name__}: {error}.",
            where=str(file),
            fix="give it a line `profile: <name>`",
        ) from error


def profile_from_file(file: Path, target: str, dbt_dir: Path | None = None) -> Profile:
    """Load the profile of a target from the `profiles.yml` that setup writes, for `--no-prefect`.

    Secrets come from the environment and from the project's `.env`.

    Args:
        file: the file.
        target: name of the target.
        dbt_dir: the dbt project; the folder of the file by default.

    Raises:
        ConfigurationError: the file, the target, or a variable that it reads is missing.
    """
    from dbt.config.profile import Profile as DbtProfile
    from dbt.config.profile import read_profile
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context
    from dbt_common.exceptions import DbtBaseException
    from dotenv import load_dotenv

    load_dotenv(file.parents[1] / ".env")
    set_invocation_context(os.environ)
    fix = f"{SETUP_COMMAND} --profiles-only"
    if not file.exists():
        raise ConfigurationError(f"{file.name} does not exist.", where=str(file), fix=fix)
    name = read_profile_name(dbt_dir or file.parent)
    try:
        document = read_profile(str(file.parent))
        raw = document.get(name)
        if raw is None:
            raise ConfigurationError(
                f"{file.name} has no profile {name!r}, which dbt_project.yml asks for; "
                f"it has {', '.join(document) or 'none'}.",
                where=str(file),
                fix=f"{fix}, after moving the file away",
            )
        outputs = raw["outputs"]
        if target not in outputs:
            raise ConfigurationError(
                f"{file.name} has no target {target!r}; it has {', '.join(sorted(outputs))}."
                f"{did_you_mean(target, outputs)}",
                where=str(file),
                fix=f"{SETUP_COMMAND} --profiles-only --target {target}",
            )
        # dbt renders a password whose variable is not set as None, without an error.
        variables = re.findall(r"env_var\('(\w+)'\)", str(outputs[target]).replace('"', "'"))
        missing = sorted(variable for variable in variables if variable not in os.environ)
        if missing:
            raise ConfigurationError(
                f"Target {target!r} asks for variables that are not set: {', '.join(missing)}.",
                where=str(file),
                fix="set them in the environment, or in the .env of the project",
            )
        _, output = DbtProfile.render_profile(raw, name, target, ProfileRenderer({}))
    except (DbtBaseException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{file.name} is not valid: {type(error).__name__}: {error}.",
            where=str(file),
            fix=f"{fix}, after moving the file away",
        ) from error
    return Profile.from_output(name, target, output)
