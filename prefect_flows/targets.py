"""Names that setup and pipeline agree on, and a target's dbt profile, loaded from its blocks.

A block document is read through the Prefect client and turned into a dbt profile here, without
the block classes of prefect-dbt: loading a referenced `TargetConfigs` through `DbtCliProfile`
loses its host and credentials, and importing the classes takes four seconds. Setup, which
creates the blocks, uses the real classes (`infrastructure.setup_profiles.kinds`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import StringConstraints

from prefect_flows.documents import Unreadable, parse_yaml, read_text
from prefect_flows.errors import (
    BlockMissing,
    ConfigurationError,
    PrefectUnreachable,
    did_you_mean,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.orchestration import SyncPrefectClient

Warehouse = Literal["postgres", "bigquery"]

TARGET_PATTERN = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
TargetName = Annotated[str, StringConstraints(pattern=TARGET_PATTERN, max_length=40)]

PROFILE_TYPE = "dbt-cli-profile"
# Name of the flow that refreshes a target; importing it takes seconds.
PIPELINE = "dbt-full-pipeline"
# libpq's own; for targets without a password of their own.
PASSWORD_VARIABLE = "PGPASSWORD"  # noqa: S105 (a name)
SETUP_COMMAND = "uv run python -m infrastructure.setup_profiles"
LOCAL_UP_COMMAND = "uv run python -m infrastructure.local up"


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


@dataclass(frozen=True)
class Profile:
    """A dbt profile with one target, its secrets kept apart.

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
        """Dbt's adapter type: `postgres` or `bigquery`."""
        return str(self.output["type"])

    @property
    def address(self) -> str:
        """Where the warehouse is, as an error names it."""
        if self.warehouse == "postgres":
            o = self.output
            return f"postgres {o['user']}@{o['host']}:{o['port']}/{o['dbname']}"
        return f"{self.warehouse} {self.output.get('project')}"

    @property
    def mend_of_address(self) -> str:
        """What to do when nobody answers there, or refuses."""
        if str(self.output.get("host", "")).startswith("/"):
            return f"start it ({LOCAL_UP_COMMAND}), or correct the target and: {SETUP_COMMAND}"
        return (
            "see that the server runs and that Terraform's outputs hold the right address and "
            f"credentials, then: {SETUP_COMMAND} --target {self.target}"
        )

    @classmethod
    def from_output(cls, name: str, target: str, output: Mapping[str, Any]) -> Profile:
        """Build a profile from dbt's own output, its secrets moved aside."""
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
        """The output as it stands in profiles.yml: every secret is an `env_var` call."""
        calls = {
            path: f"{{{{ env_var('{secret_variable(self.target, path[-1])}') }}}}"
            for path in self.secrets
        }
        return self._filled(
            self._of_machine(f"{{{{ env_var('{PASSWORD_VARIABLE}', '') }}}}") | calls
        )

    def credentials(self) -> dict[str, Any]:
        """The output with its secrets, for a client that is given them in memory."""
        password = os.environ.get(PASSWORD_VARIABLE, "")
        return self._filled(self._of_machine(password) | dict(self.secrets))

    def _of_machine(self, password: str) -> dict[tuple[str, ...], str]:
        """A Postgres target without a password of its own takes what its machine offers.

        dbt asks for the key. libpq reads `.pgpass` and trusts where it is empty, but not the
        variable: an empty password was given.
        """
        return {("password",): password} if self.warehouse == "postgres" else {}

    def environment(self) -> dict[str, str]:
        """The variables that `dbt_output` refers to."""
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
    """Build a profile from the data of a `DbtCliProfile` block, its references resolved.

    Raises:
        KeyError: the data lacks a field that setup always writes.
        ValueError: the target configs are of a warehouse this project does not run on.
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


@contextmanager
def prefect_client() -> Iterator[SyncPrefectClient]:
    """A client of the configured Prefect API, known to answer.

    Raises:
        ConfigurationError: no API is configured; Prefect would start a private one of its own,
            which knows no block.
        PrefectUnreachable: the configured API does not answer, or refuses.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if url is None:
        raise ConfigurationError(
            "No Prefect API is configured.",
            where="PREFECT_API_URL, the Prefect profile, and prefect.toml in this folder",
            mend=f"in the project's folder: {LOCAL_UP_COMMAND}; or set PREFECT_API_URL",
        )
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
        if failure is not None:
            raise PrefectUnreachable(
                f"The Prefect API does not answer: {type(failure).__name__}: {failure}.",
                where=f"PREFECT_API_URL={url}",
                mend=f"start it ({LOCAL_UP_COMMAND}), correct PREFECT_API_URL, "
                "or run the pipeline with --no-prefect",
            ) from failure
        try:
            yield client
        except PrefectHTTPStatusError as error:
            raise PrefectUnreachable(
                f"The Prefect API refuses: {error.response.status_code} "
                f"{error.response.reason_phrase} for {error.request.method} {error.request.url}.",
                where=f"PREFECT_API_URL={url}",
                mend="401 and 403: set PREFECT_API_AUTH_STRING to the server's user:password, for "
                "Prefect Cloud PREFECT_API_KEY to a key that may read and write blocks; for the "
                "local server of this folder, unset both, and PREFECT_API_URL; "
                "404: correct PREFECT_API_URL, which ends in /api",
            ) from error


def load_profile(client: SyncPrefectClient, target: str) -> Profile:
    """Load the profile of a target from its blocks, secrets included.

    Raises:
        BlockMissing: setup has not been run for this target; names those that exist.
        ConfigurationError: the block exists, but is not as setup writes it.
    """
    from prefect.exceptions import ObjectNotFound

    name = profile_block(target)
    mend = f"{SETUP_COMMAND} --target {target}"
    try:
        document = client.read_block_document_by_name(name, PROFILE_TYPE, include_secrets=True)
    except ObjectNotFound as error:
        raise _block_missing(client, target) from error
    try:
        return profile_from_block(document.data)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"Block {name!r} is not as setup writes it: {type(error).__name__}: {error}.",
            where=f"the Prefect API at {client.api_url}",
            mend=mend,
        ) from error


def require_target(client: SyncPrefectClient, target: str) -> None:
    """Refuse a name for which setup made nothing, before there is a run of it.

    A target that only lost its block is left to the run, which tells whoever answers for it.

    Raises:
        BlockMissing: setup has not been run for this target; names those that exist.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        client.read_global_concurrency_limit_by_name(lease_limit(target))
    except ObjectNotFound as error:
        if target not in existing_targets(client):
            raise _block_missing(client, target) from error


def _block_missing(client: SyncPrefectClient, target: str) -> BlockMissing:
    existing = existing_targets(client)
    known = f"targets that exist: {', '.join(existing)}" if existing else "no target exists yet"
    similar = did_you_mean(target, existing)
    setup = f"{SETUP_COMMAND} --target {target}"
    return BlockMissing(
        f"Block {profile_block(target)!r} does not exist: setup has not been run for target "
        f"{target!r} ({known}).{similar}",
        where=f"the Prefect API at {client.api_url}",
        mend=f"correct the name of the target; or, if it is right: {setup}" if similar else setup,
    )


def read_secret(client: SyncPrefectClient, name: str) -> Any | None:
    """The value of a `Secret` block; none where there is no such block."""
    from prefect.exceptions import ObjectNotFound

    try:
        document = client.read_block_document_by_name(name, "secret", include_secrets=True)
    except ObjectNotFound:
        return None
    return document.data["value"]


def stored_state_url(client: SyncPrefectClient) -> str | None:
    """The state store's URL that setup took from Terraform; none when Terraform gives none."""
    variable = client.read_variable_by_name(STATE_URL_VARIABLE)
    return None if variable is None else str(variable.value)


def existing_targets(client: SyncPrefectClient) -> list[str]:
    """The targets for which a `DbtCliProfile` block exists, sorted."""
    from prefect.exceptions import ObjectNotFound

    prefix = profile_block("")
    try:
        documents = client.read_block_documents_by_type(PROFILE_TYPE)
    except ObjectNotFound:  # setup has never been run: the type itself is not registered yet
        return []
    return sorted(
        document.name.removeprefix(prefix)
        for document in documents
        if document.name is not None and document.name.startswith(prefix)
    )


def profile_name(dbt_dir: Path) -> str:
    """The profile's name, as `dbt_project.yml` gives it.

    Raises:
        ConfigurationError: the file, or the name in it, is missing.
    """
    file = dbt_dir / "dbt_project.yml"
    try:
        document = parse_yaml(read_text(file))
        return str(document["profile"])
    except (OSError, Unreadable, KeyError, TypeError, IndexError) as error:
        raise ConfigurationError(
            f"The name of the dbt profile cannot be read: {type(error).__name__}: {error}.",
            where=str(file),
            mend="give it a line `profile: <name>`",
        ) from error


def profile_from_file(file: Path, target: str) -> Profile:
    """Load the profile of a target from the `profiles.yml` that setup writes.

    For runs without a Prefect API. Secrets are read, as dbt reads them, from the environment and
    from the project's `.env`.

    Raises:
        ConfigurationError: the file, the target, or a variable it asks for is missing.
    """
    from dbt.config.profile import Profile as DbtProfile
    from dbt.config.profile import read_profile
    from dbt.config.renderer import ProfileRenderer
    from dbt_common.context import set_invocation_context
    from dbt_common.exceptions import DbtBaseException
    from dotenv import load_dotenv

    load_dotenv(file.parents[1] / ".env")
    set_invocation_context(os.environ)
    mend = f"{SETUP_COMMAND} --profiles-only"
    if not file.exists():
        raise ConfigurationError(f"{file.name} does not exist.", where=str(file), mend=mend)
    name = profile_name(file.parent)
    try:
        document = read_profile(str(file.parent))
        raw = document.get(name)
        if raw is None:
            raise ConfigurationError(
                f"{file.name} has no profile {name!r}, which dbt_project.yml asks for; "
                f"it has {', '.join(document) or 'none'}.",
                where=str(file),
                mend=f"{mend}, after moving the file away",
            )
        outputs = raw["outputs"]
        if target not in outputs:
            raise ConfigurationError(
                f"{file.name} has no target {target!r}; it has {', '.join(sorted(outputs))}."
                f"{did_you_mean(target, outputs)}",
                where=str(file),
                mend=f"{SETUP_COMMAND} --profiles-only --target {target}",
            )
        # dbt renders a password whose variable is not set as none, and says nothing.
        asked = re.findall(r"env_var\('(\w+)'\)", str(outputs[target]).replace('"', "'"))
        missing = sorted(variable for variable in asked if variable not in os.environ)
        if missing:
            raise ConfigurationError(
                f"Target {target!r} asks for variables that are not set: {', '.join(missing)}.",
                where=str(file),
                mend="set them in the environment, or in the .env of the project",
            )
        _, output = DbtProfile.render_profile(raw, name, target, ProfileRenderer({}))
    except (DbtBaseException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{file.name} is not as setup writes it: {type(error).__name__}: {error}.",
            where=str(file),
            mend=f"{mend}, after moving the file away",
        ) from error
    return Profile.from_output(name, target, output)
