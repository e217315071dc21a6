"""Notification preferences of a target: events to report, to whom, and mentions of owners."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


class Route(BaseModel):
    """Which incidents a receiver gets: those of nodes with one of these owners, groups or tags."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owners: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def matches(self, owner: str | None, group: str | None, tags: Collection[str]) -> bool:
        """Return whether an incident of a node with this owner, group and tags goes here."""
        return owner in self.owners or group in self.groups or bool(set(tags) & set(self.tags))


class NotificationPreferences(BaseModel):
    """The notification preferences of a target, as a run reads them from a Prefect variable.

    Setup writes the variable from `TargetNotices` (`infrastructure.setup_profiles.notices`). A new
    option goes into both classes and into `desired_notices`.

    Attributes:
        events: events to notify about. A test that warns is a `warning`, a source that fails its
            freshness check is `stale`, and `retry` lists at the end of a run what was retried.
        owners: `meta.owner` → how a chat mentions them, for example `<@U024BE7LH>` in Slack.
        routes: name of a receiver → the only incidents that it gets. Receivers without a route get
            everything.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: tuple[Event, ...] = DEFAULT_EVENTS
    owners: Mapping[str, str] = {}
    routes: Mapping[str, Route] = {}


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
