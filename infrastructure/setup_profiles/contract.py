"""The contract between Terraform and setup: what `terraform output -json` must hold.

Validated as a whole before anything is written; every fault is listed with its path.
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
from prefect_flows.core.documents import Unreadable, parse_json
from prefect_flows.core.errors import ContractError
from prefect_flows.core.names import TargetName
from prefect_flows.core.validation_messages import validation_message
from prefect_flows.state.state_url import fix_of_url, url_fault


class PostgresTarget(Strict):
    """A Postgres server and the schema that dbt builds into."""

    type: Literal["postgres"]
    """The warehouse."""
    host: Text
    """Name or address of the server, or the folder of its socket."""
    port: Annotated[int, Field(ge=1, le=65535)]
    """Port of the server."""
    database: Text
    """The database; it exists."""
    user: Text
    """Who logs in."""
    schema_: Annotated[Text, Field(alias="schema")]
    """The schema, and the beginning of the name of every other that models are put into."""
    threads: PositiveInt
    """Nodes that dbt runs at a time; each takes a connection."""
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = (
        None
    )
    """As libpq's; its own default when absent."""


class BigQueryTarget(Strict):
    """A BigQuery project and the dataset that dbt builds into."""

    type: Literal["bigquery"]
    """The warehouse."""
    project: Text
    """The project in which the datasets lie."""
    dataset: Text
    """The dataset, and the beginning of the name of every other that models are put into."""
    location: Text
    """Where the datasets lie: `EU`, `US`, or a region."""
    threads: PositiveInt
    """Nodes that dbt runs at a time."""
    execution_project: Text | None = None
    """The project that runs and pays for the queries; `project` when absent."""
    priority: Literal["interactive", "batch"] | None = None
    """Of each query."""
    maximum_bytes_billed: PositiveInt | None = None
    """A query that would bill more is refused."""
    job_execution_timeout_seconds: PositiveInt | None = None
    """A query that takes longer is ended."""
    impersonate_service_account: Text | None = None
    """The account that the machine's own credentials take on."""
    api_endpoint: Text | None = None
    """Another address than Google's: an emulator's."""


Target = Annotated[PostgresTarget | BigQueryTarget, Field(discriminator="type")]


class ServiceAccountKey(BaseModel):
    """A Google service account's key, as Google gives it. Other fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    type: Literal["service_account"]
    """The kind of key."""
    project_id: Text
    """The account's project."""
    private_key: SecretStr
    """The key itself."""
    client_email: Text
    """The account."""
    token_uri: Text
    """Who exchanges it for a token."""


def _from_json_text(value: Any) -> Any:
    return parse_json(value) if isinstance(value, str) else value


class TargetSecret(Strict):
    """The secret of a target: a password (Postgres), or a key as object or JSON text (BigQuery)."""

    password: Annotated[SecretStr, Field(min_length=1)] | None = None
    """Of a Postgres target's user."""
    service_account_key: Annotated[ServiceAccountKey, BeforeValidator(_from_json_text)] | None = (
        None
    )
    """Of a BigQuery target, as Google gives it: an object, or its JSON text."""


SECRET_OF = {"postgres": "password", "bigquery": "service_account_key"}


def _state_url(url: str) -> str:
    if (fault := url_fault(url)) is not None:
        raise ValueError(f"{fault}; {fix_of_url(url)}")
    return url


class Contract(Strict):
    """The outputs, validated."""

    targets: Annotated[dict[TargetName, Target], Field(alias="dbt_targets", min_length=1)]
    """Target's name → where it is. Any number, any names."""
    secrets: Annotated[
        dict[TargetName, TargetSecret], Field(alias="dbt_target_secrets", default_factory=dict)
    ]
    """Sensitive. Target's name → its secret; a target without one uses what its machine offers."""
    notices: Annotated[
        dict[TargetName, TargetNotices], Field(alias="dbt_target_notices", default_factory=dict)
    ]
    """Target's name → who is told of it, and of what; of one without, nobody."""
    state_url: Annotated[Text, AfterValidator(_state_url)] | None = None
    """Where run state, reports and docs are kept: a folder, `gs://bucket/folder` or
    `s3://bucket/folder`, without a login. `.local/state` when absent."""


# Where a person finds outputs that are right.
MODULES = (
    "documentation/contract.md says what the outputs must be, and the root modules "
    "infrastructure/terraform/postgres and infrastructure/terraform/gcp give them"
)


def parse(text: str | bytes, *, where: str, fix: str) -> Contract:
    """Validate a document in the shape of `terraform output -json`.

    Args:
        where: where the document comes from, for the error.
        fix: the command that makes it anew, for the error.

    Raises:
        ContractError: with every fault at once, each beginning with its path.
    """
    fix = f"{fix}; {MODULES}"
    if not text.strip():
        raise ContractError(["the document is empty"], where=where, fix=fix)
    try:
        document = parse_json(text)
    except Unreadable as error:
        raise ContractError([str(error)], where=where, fix=fix) from None  # it may hold a secret
    if document == {}:
        raise ContractError(["the document has no outputs"], where=where, fix=fix)
    faults = _shape_faults(document)
    if faults:
        raise ContractError(faults, where=where, fix=fix)
    values = {name: _without_nulls(output["value"]) for name, output in document.items()}
    faults = _pairing_faults(values) + _notice_faults(values)
    try:
        contract = Contract.model_validate(values)
    except ValidationError as error:
        found = [_fault(fault) for fault in error.errors(include_input=False)]
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
    """Secrets that have no target, or are not of its kind."""
    targets, secrets = values.get("dbt_targets"), values.get("dbt_target_secrets", {})
    if not isinstance(targets, dict) or not isinstance(secrets, dict):
        return []
    faults = []
    for name, secret in secrets.items():
        target = targets.get(name)
        if target is None:
            faults.append(f"dbt_target_secrets.{name}: dbt_targets has no such target")
        elif isinstance(target, dict) and isinstance(secret, dict) and secret:
            takes = SECRET_OF.get(str(target.get("type")))
            if takes is not None and takes not in secret:
                faults.append(
                    f"dbt_target_secrets.{name}: a target of type {target['type']} takes {takes}"
                )
    return faults


def _notice_faults(values: dict[str, Any]) -> list[str]:
    """Notices that have no target."""
    targets, notices = values.get("dbt_targets"), values.get("dbt_target_notices", {})
    if not isinstance(targets, dict) or not isinstance(notices, dict):
        return []
    return [
        f"dbt_target_notices.{name}: dbt_targets has no such target"
        for name in notices
        if name not in targets
    ]


def _without_nulls(value: Any) -> Any:
    """Drop the nulls that Terraform writes for optional attributes that are not set."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def _fault(fault: Any) -> str:
    """One line: path and message, without the input, which may be a secret."""
    # Pydantic adds the tag of a union to the path, behind the name of the target or receiver.
    at = fault["loc"]
    tag = {"dbt_targets": 2, "dbt_target_notices": 4}.get(str(at[0]))
    path = ".".join(str(part) for index, part in enumerate(at) if part != "[key]" and index != tag)
    message = validation_message(fault)
    return f"{path}: {message}" if path else message
