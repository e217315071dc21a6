"""Build notification blocks from Terraform's output `dbt_target_notices`.

Webhook URLs are secrets: anybody who knows one can post to the channel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from infrastructure.prefect_resources.reconcile.resources import Desired
from infrastructure.setup_profiles.strict import Strict, Text
from prefect_flows.core import names
from prefect_flows.core.notification_preferences import (
    DEFAULT_EVENTS,
    Event,
    NotificationPreferences,
    Route,
)

# Prefect's slugs of its notification blocks. The server has these without additional packages,
# which automations need.
SLACK, TEAMS = "slack-webhook", "ms-teams-webhook"
DISCORD, WEBHOOK = "discord-webhook", "custom-webhook"

ReceiverName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
_DISCORD = re.compile(r"https://(?:[\w-]+\.)*discord(?:app)?\.com/api/webhooks/(\d+)/([\w-]+)/?")
_SLACK = re.compile(
    r"https://hooks\.slack(?:-gov)?\.com/services/[A-Z0-9]+/[A-Z0-9]+/\w+/?", re.IGNORECASE
)
_WEB = re.compile(r"https?://[^\s/]+(/\S*)?")


def _matching(pattern: re.Pattern[str], fault: str) -> AfterValidator:
    def check(url: SecretStr) -> SecretStr:
        if not pattern.fullmatch(url.get_secret_value()):
            raise ValueError(fault)
        return url

    return AfterValidator(check)


class SlackReceiver(Strict):
    """A Slack channel, through an incoming webhook."""

    type: Literal["slack"]
    """The kind of receiver."""
    url: Annotated[
        SecretStr,
        _matching(_SLACK, "not an incoming webhook (https://hooks.slack.com/services/…/…/…)"),
    ]
    """Address of the incoming webhook."""

    def to_block(self) -> tuple[str, dict[str, Any]]:
        """Return the block type and the data of its block."""
        return SLACK, {"url": self.url.get_secret_value()}


class TeamsReceiver(Strict):
    """A Microsoft Teams channel, through a workflow with a webhook."""

    type: Literal["teams"]
    """The kind of receiver."""
    url: SecretStr
    """Address of the workflow."""

    @field_validator("url")
    @classmethod
    def _is_one(cls, url: SecretStr) -> SecretStr:
        from apprise.plugins.workflows import NotifyWorkflows

        # No types.
        parse: Any = NotifyWorkflows.parse_native_url
        if not parse(url.get_secret_value()):
            raise ValueError("not the address of a workflow (https://…/workflows/…/invoke?…&sig=…)")
        return url

    def to_block(self) -> tuple[str, dict[str, Any]]:
        """Return the block type and the data of its block."""
        return TEAMS, {"url": self.url.get_secret_value(), "include_image": False}


class DiscordReceiver(Strict):
    """A Discord channel, through a webhook."""

    type: Literal["discord"]
    """The kind of receiver."""
    url: Annotated[
        SecretStr, _matching(_DISCORD, "not a webhook (https://discord.com/api/webhooks/…/…)")
    ]
    """Address of the webhook."""

    def to_block(self) -> tuple[str, dict[str, Any]]:
        """Return the block type and the data of its block."""
        found = _DISCORD.fullmatch(self.url.get_secret_value())
        assert found is not None  # noqa: S101 # validated above
        return DISCORD, {"webhook_id": found[1], "webhook_token": found[2]}


class WebhookReceiver(Strict):
    """An HTTP endpoint that accepts JSON: `{"subject": …, "body": …}`."""

    type: Literal["webhook"]
    """The kind of receiver."""
    url: Annotated[SecretStr, _matching(_WEB, "not an address (https://…)")]
    """Address that takes a POST."""
    headers: Annotated[dict[Text, SecretStr], Field(default_factory=dict)]
    """Headers of the request: name → value."""

    def to_block(self) -> tuple[str, dict[str, Any]]:
        """Return the block type and its data, with URL and headers among the block's secrets."""
        headers = {name: f"{{{{header{i}}}}}" for i, name in enumerate(self.headers)}
        values = {
            f"header{i}": value.get_secret_value() for i, value in enumerate(self.headers.values())
        }
        return WEBHOOK, {
            "name": "millrace",
            "url": "{{url}}",
            "json_data": {"subject": "{{subject}}", "body": "{{body}}"},
            "headers": headers,
            "secrets": {"url": self.url.get_secret_value(), **values},
        }


class EmailReceiver(Strict):
    """Recipients of e-mail, through an SMTP server."""

    type: Literal["email"]
    """The kind of receiver."""
    server: Text
    """SMTP server."""
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    """Port of the SMTP server."""
    security: Literal["starttls", "ssl", "none"] = "starttls"
    """Encryption of the connection."""
    user: Text | None = None
    """User of the SMTP server; no login if absent."""
    password: SecretStr | None = None
    """Password of the user."""
    sender: Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s,]+$")]
    """Sender address."""
    recipients: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s,]+$")]], Field(min_length=1)
    ]
    """Recipient addresses."""

    def to_block(self) -> tuple[str, dict[str, Any]]:
        """Return the block type and the data of its block.

        Prefect's own e-mail block is in a package that its server does not have. The Slack block
        accepts any URL that Apprise supports, including e-mail.
        """
        secure = self.security != "none"
        login = ""
        if self.user is not None:
            password = self.password.get_secret_value() if self.password is not None else ""
            login = f"{quote(self.user, safe='')}:{quote(password, safe='')}@"
        query = {
            "smtp": self.server,
            "from": self.sender,
            "to": ",".join(self.recipients),
            "format": "text",
            **({"mode": self.security} if secure else {}),
        }
        scheme = "mailtos" if secure else "mailto"
        return SLACK, {"url": f"{scheme}://{login}{self.server}:{self.port}/?{urlencode(query)}"}


Receiver = Annotated[
    SlackReceiver | TeamsReceiver | DiscordReceiver | WebhookReceiver | EmailReceiver,
    Field(discriminator="type"),
]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[tuple[Text, ...], BeforeValidator(_as_tuple)]


class ReceiverRoute(Strict):
    """The only incidents that a receiver gets: those of nodes with one of these labels."""

    owners: Names = ()
    """Owners (`meta.owner` in dbt)."""
    groups: Names = ()
    """Groups of dbt."""
    tags: Names = ()
    """Tags of dbt."""

    @model_validator(mode="after")
    def _routes_something(self) -> ReceiverRoute:
        if not (self.owners or self.groups or self.tags):
            raise ValueError("name owners, groups or tags; without a route it gets everything")
        return self


class TargetNotices(Strict):
    """Receivers, routes, events and mentions of a target; runs read `NotificationPreferences`."""

    receivers: Annotated[dict[ReceiverName, Receiver], Field(min_length=1)]
    """Name → receiver; each becomes a block `notify-<target>--<name>`."""
    events: Annotated[tuple[Event, ...], BeforeValidator(_as_tuple)] = DEFAULT_EVENTS
    """Events to notify of: failure, recovery, warning (a test that only warns), stale (outdated
    source data), success, retry.
    """
    owners: Annotated[dict[Text, Text], Field(default_factory=dict)]
    """`meta.owner` in dbt → how the receivers' chat mentions the owner."""
    routes: Annotated[dict[ReceiverName, ReceiverRoute], Field(default_factory=dict)]
    """Name of a receiver → the only incidents that it gets. Receivers without a route get
    everything; there must be one.
    """

    @model_validator(mode="after")
    def _routes_have_receivers(self) -> TargetNotices:
        unknown = sorted(self.routes.keys() - self.receivers.keys())
        if unknown:
            raise ValueError(f"routes.{unknown[0]}: there is no such receiver")
        if not self.receivers.keys() - self.routes.keys():
            raise ValueError(
                "every receiver has a route; leave one without, for what belongs to no node"
            )
        return self


def desired_notices(notices: Mapping[str, TargetNotices]) -> list[Desired]:
    """Return the block of every receiver, and a variable with each target's preferences."""
    desired = []
    for target, each in notices.items():
        for name, receiver in each.receivers.items():
            kind, data = receiver.to_block()
            desired.append(Desired(kind, names.notify_block(target, name), data))
        preferences = NotificationPreferences(
            events=each.events,
            owners=each.owners,
            routes={name: Route(**route.model_dump()) for name, route in each.routes.items()},
        )
        desired.append(
            Desired(
                "variable",
                names.notification_variable(target),
                {"value": preferences.model_dump(mode="json")},
            )
        )
    return desired
