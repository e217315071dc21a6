"""Opens the configured state store, with the login from a `Secret` block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.prefect_api import read_secret, read_state_url
from prefect_flows.core.settings import Settings
from prefect_flows.core.validation_messages import format_faults
from prefect_flows.state.state_url import LOGIN_BLOCK
from prefect_flows.state.store import StateStore

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


class _Login(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class S3Login(_Login):
    """Login of an `s3://` bucket: arguments of s3fs."""

    key: str = Field(min_length=1)
    secret: str = Field(min_length=1)
    token: str | None = None
    endpoint_url: str | None = None


class GoogleLogin(_Login):
    """Login of a `gs://` bucket: arguments of gcsfs, with a service account key."""

    token: dict[str, Any] = Field(min_length=1)


_LOGINS: dict[str, type[_Login]] = {"s3": S3Login, "gs": GoogleLogin, "gcs": GoogleLogin}


def configured_store(
    settings: Settings, client: SyncPrefectClient, url: str | None = None
) -> StateStore:
    """Open the state store that is configured for this machine.

    Args:
        settings: the settings of this machine.
        client: reads the URL and the login from Prefect.
        url: overrides the configured URL.

    Raises:
        ConfigurationError: the URL, or the login in the block `state-store-login`, is not valid.
    """
    url = url or settings.state_url or read_state_url(client) or settings.default_state_url
    model = _LOGINS.get(url.partition("://")[0])
    value = None if model is None else read_secret(client, LOGIN_BLOCK)
    if model is None or value is None:
        return StateStore(url)
    try:
        login = model.model_validate(value)
    except ValidationError as error:
        raise ConfigurationError(
            f"The login of the state store is not valid: {format_faults(error)}.",
            where=f"block secret/{LOGIN_BLOCK} at {client.api_url}",
            fix=f"give a JSON object with {', '.join(model.model_fields)} to: "
            f"uv run millrace secret {LOGIN_BLOCK}",
        ) from None  # the original error holds the secret
    return StateStore(url, login.model_dump(exclude_none=True))
