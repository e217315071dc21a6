"""Notification preferences of a target: which events to report, and how to mention owners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.names import SETUP_COMMAND, notification_variable
from prefect_flows.core.validation_messages import format_faults

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

Event = Literal["failure", "recovery", "warning", "stale", "success", "retry"]
# The default.
DEFAULT_EVENTS: tuple[Event, ...] = ("failure", "recovery", "warning", "stale")


class NotificationPreferences(BaseModel):
    """The notification preferences of a target, as a run reads them from a Prefect variable.

    Setup writes the variable from `TargetNotices` (`infrastructure.setup_profiles.notices`). A new
    option goes into both classes and into `desired_notices`.

    Attributes:
        events: events to notify about. A test that warns is a `warning`, a source that fails its
            freshness check is `stale`, and `retry` lists at the end of a run what was retried.
        owners: `meta.owner` → how a chat mentions them, for example `<@U024BE7LH>` in Slack.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: tuple[Event, ...] = DEFAULT_EVENTS
    owners: Mapping[str, str] = {}


def load_preferences(client: SyncPrefectClient, target: str) -> NotificationPreferences:
    """Load the preferences of a target from its Prefect variable; the default if there is none.

    Raises:
        ConfigurationError: the variable is not valid.
    """
    variable = client.read_variable_by_name(notification_variable(target))
    if variable is None:
        return NotificationPreferences()
    try:
        return NotificationPreferences.model_validate(variable.value)
    except ValidationError as error:
        raise ConfigurationError(
            f"Variable {variable.name!r} is not valid: {format_faults(error)}.",
            where=f"the Prefect API at {client.api_url}",
            fix=f"{SETUP_COMMAND} --target {target}",
        ) from error
