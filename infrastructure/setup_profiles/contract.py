"""The contract between Terraform and setup: schema of `terraform output -json`.

The document is validated as a whole before anything is written; every fault is listed with its
path.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
)

from infrastructure.setup_profiles.notices import TargetNotices
from infrastructure.setup_profiles.strict import Strict, Text
from prefect_flows.core.documents import DocumentError, parse_json
from prefect_flows.core.errors import ContractError
from prefect_flows.core.names import TargetName, dashed
from prefect_flows.core.validation_messages import format_fault
from prefect_flows.state.state_url import find_url_fault, get_url_fix

# Keys of dbt's profile that the contract says in its own way, or that hold a secret.
RESERVED_OPTIONS = frozenset(
    {
        *("type", "host", "port", "user", "pass", "password", "dbname", "database", "schema"),
        *("threads", "sslmode", "publish", "project", "dataset", "location", "execution_project"),
        *("priority", "maximum_bytes_billed", "job_execution_timeout_seconds", "api_endpoint"),
        *("impersonate_service_account", "method", "keyfile", "keyfile_json", "token"),
        *("refresh_token", "client_id", "client_secret", "application_name"),
    }
)


def _without_reserved(options: dict[str, Any]) -> dict[str, Any]:
    if found := sorted(RESERVED_OPTIONS & options.keys()):
        raise ValueError(
            f"{', '.join(found)} must not be here: the target's own keys and dbt_target_secrets "
            "say it"
        )
    return options


DbtOptions = Annotated[dict[Text, Any], AfterValidator(_without_reserved)]


class PostgresTarget(Strict):
    """A Postgres database and the schema that dbt builds into."""

    type: Literal["postgres"]
    """Type of the warehouse."""
    host: Text
    """Host name or address of the server, or the folder of its socket."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """Port of the server."""
    database: Text
    """Name of an existing database."""
    user: Text
    """User that dbt connects as."""
    schema_: Annotated[Text, Field(alias="schema")]
    """Schema of the models, and prefix of custom schemas."""
    threads: PositiveInt
    """Maximum number of nodes that dbt runs concurrently; each uses a connection."""
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = (
        None
    )
    """libpq's `sslmode`; libpq's default if absent."""
    publish: bool | None = None
    """Whether readers see only models whose tests passed; false if absent."""
    dbt_options: DbtOptions | None = None
    """Further keys of dbt's profile, unchanged: `search_path`, `role`, …; no secrets."""


class BigQueryTarget(Strict):
    """A BigQuery project and the dataset that dbt builds into."""

    type: Literal["bigquery"]
    """Type of the warehouse."""
    project: Text
    """Project that contains the datasets."""
    dataset: Text
    """Dataset of the models, and prefix of custom datasets."""
    location: Text
    """Location of the datasets: `EU`, `US`, or a region."""
    threads: PositiveInt
    """Maximum number of nodes that dbt runs concurrently."""
    execution_project: Text | None = None
    """Project that runs and pays for the queries; `project` if absent."""
    priority: Literal["interactive", "batch"] | None = None
    """Priority of each query."""
    maximum_bytes_billed: PositiveInt | None = None
    """BigQuery rejects a query that would bill more."""
    job_execution_timeout_seconds: PositiveInt | None = None
    """BigQuery cancels a query that takes longer."""
    impersonate_service_account: Text | None = None
    """Service account that the machine's own credentials impersonate."""
    api_endpoint: Text | None = None
    """Endpoint of the API, if it is not Google's, for example an emulator."""
    publish: bool | None = None
    """Whether readers see only models whose tests passed; false if absent."""
    dbt_options: DbtOptions | None = None
    """Further keys of dbt's profile, unchanged: `dataproc_region`, `job_retries`, …; no secrets."""


Target = Annotated[PostgresTarget | BigQueryTarget, Field(discriminator="type")]


class ServiceAccountKey(BaseModel):
    """A Google service account key, as Google issues it. Other fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    type: Literal["service_account"]
    """Type of the key."""
    project_id: Text
    """Project of the service account."""
    private_key: SecretStr
    """Private key."""
    client_email: Text
    """E-mail address of the service account."""
    token_uri: Text
    """Endpoint that exchanges the key for a token."""


def _from_json_text(value: Any) -> Any:
    return parse_json(value) if isinstance(value, str) else value


class TargetSecret(Strict):
    """The secret of a target: a password (Postgres), or a key as object or JSON text (BigQuery)."""

    password: Annotated[SecretStr, Field(min_length=1)] | None = None
    """Password of a Postgres target's user."""
    service_account_key: Annotated[ServiceAccountKey, BeforeValidator(_from_json_text)] | None = (
        None
    )
    """Service account key of a BigQuery target: an object, or its JSON text."""


SECRET_BY_TYPE = {"postgres": "password", "bigquery": "service_account_key"}


def _state_url(url: str) -> str:
    if (fault := find_url_fault(url)) is not None:
        raise ValueError(f"{fault}; {get_url_fix(url)}")
    return url


class Contract(Strict):
    """Terraform's outputs, validated."""

    targets: Annotated[dict[TargetName, Target], Field(alias="dbt_targets", min_length=1)]
    """Target → connection. Any number of targets, with any names."""
    secrets: Annotated[
        dict[TargetName, TargetSecret], Field(alias="dbt_target_secrets", default_factory=dict)
    ]
    """Sensitive. Target → secret; a target without one uses the machine's own credentials."""
    notices: Annotated[
        dict[TargetName, TargetNotices], Field(alias="dbt_target_notices", default_factory=dict)
    ]
    """Target → recipients and events of notifications; nobody is notified of other targets."""
    state_url: Annotated[Text, AfterValidator(_state_url)] | None = None
    """Where state, reports and docs are stored: a folder, `gs://bucket/folder` or
    `s3://bucket/folder`, without a login. `.local/state` if absent.
    """


# Where users find correct outputs.
MODULES = (
    "documentation/contract.md says what the outputs must be, and the root modules "
    "infrastructure/terraform/postgres and infrastructure/terraform/gcp give them"
)


def parse_contract(text: str | bytes, *, where: str, fix: str) -> Contract:
    """Validate a document in the format of `terraform output -json`.

    Args:
        text: the document.
        where: origin of the document, for the error.
        fix: command that creates the document, for the error.

    Raises:
        ContractError: the document is invalid; lists every fault with its path.
    """
    fix = f"{fix}; {MODULES}"
    if not text.strip():
        raise ContractError(["the document is empty"], where=where, fix=fix)
    try:
        document = parse_json(text)
    except DocumentError as error:
        raise ContractError(
            [str(error)], where=where, fix=fix
        ) from None  # the document may contain a secret
    if document == {}:
        raise ContractError(["the document has no outputs"], where=where, fix=fix)
    faults = _shape_faults(document)
    if faults:
        raise ContractError(faults, where=where, fix=fix)
    values = {name: _remove_nulls(output["value"]) for name, output in document.items()}
    faults = _pairing_faults(values) + _notice_faults(values) + _name_faults(values)
    try:
        contract = Contract.model_validate(values)
    except ValidationError as error:
        found = [_format_fault(fault) for fault in error.errors(include_input=False)]
        raise ContractError(found + faults, where=where, fix=fix) from None
    if faults:
        raise ContractError(faults, where=where, fix=fix)
    return contract


def _shape_faults(document: Any) -> list[str]:
    if not isinstance(document, dict):
        return ["the document is not an object of outputs"]
    return [
        f'{name}: not an output of `terraform output -json` (an object with a "value")'
        for name, output in document.items()
        if not isinstance(output, dict) or "value" not in output
    ]


def _pairing_faults(values: dict[str, Any]) -> list[str]:
    """Return faults for secrets without a target, or of the wrong type."""
    targets, secrets = values.get("dbt_targets"), values.get("dbt_target_secrets", {})
    if not isinstance(targets, dict) or not isinstance(secrets, dict):
        return []
    faults = []
    for name, secret in secrets.items():
        target = targets.get(name)
        if target is None:
            faults.append(f"dbt_target_secrets.{name}: dbt_targets has no such target")
        elif isinstance(target, dict) and isinstance(secret, dict) and secret:
            takes = SECRET_BY_TYPE.get(str(target.get("type")))
            if takes is not None and takes not in secret:
                faults.append(
                    f"dbt_target_secrets.{name}: a target of type {target['type']} takes {takes}"
                )
    return faults


def _notice_faults(values: dict[str, Any]) -> list[str]:
    """Return faults for notifications without a target."""
    targets, notices = values.get("dbt_targets"), values.get("dbt_target_notices", {})
    if not isinstance(targets, dict) or not isinstance(notices, dict):
        return []
    return [
        f"dbt_target_notices.{name}: dbt_targets has no such target"
        for name in notices
        if name not in targets
    ]


def _name_faults(values: dict[str, Any]) -> list[str]:
    """Return faults for targets whose blocks would have the same names."""
    targets = values.get("dbt_targets")
    if not isinstance(targets, dict):
        return []
    return [
        f"dbt_targets.{name}: its blocks would have the names of those of {dashed(name)}"
        for name in targets
        if dashed(name) != name and dashed(name) in targets
    ]


def _remove_nulls(value: Any) -> Any:
    """Remove the nulls that Terraform writes for optional attributes."""
    if isinstance(value, dict):
        return {key: _remove_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def _format_fault(fault: Any) -> str:
    """Format a fault as path and message, without the input, which may be a secret."""
    # Pydantic appends the union's tag to the path, after the name of the target or receiver.
    at = fault["loc"]
    tag = {"dbt_targets": 2, "dbt_target_notices": 4}.get(str(at[0]))
    return format_fault(fault if tag is None else fault | {"loc": at[:tag] + at[tag + 1 :]})
