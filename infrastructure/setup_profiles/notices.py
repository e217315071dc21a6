"""Who is told of a target, and of what: the output `dbt_target_notices`, as blocks of Prefect's.

Addresses of webhooks are secrets: whoever knows one can write to the channel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, field_validator

from infrastructure.prefect_resources.reconcile.resources import Desired
from infrastructure.setup_profiles.strict import Strict, Text
from prefect_flows.core import names
from prefect_flows.core.notification_preferences import USUAL, Event, NotificationPreferences

# Prefect's slugs of its notification blocks. Its server can send by these without a package of its
# own, which automations need.
SLACK, TEAMS = "slack-webhook", "ms-teams-webhook"
DISCORD, WEBHOOK = "discord-webhook", "custom-webhook"

ReceiverName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
_DISCORD = re.compile(r"https://(?:[\w-]+\.)*discord(?:app)?\.com/api/webhooks/(\d+)/([\w-]+)/?")
_SLACK = re.compile(
    r"https://hooks\.slack(?:-gov)?\.com/services/[A-Z0-9]+/[A-Z0-9]+/\w+/?", re.IGNORECASE
)


class SlackReceiver(Strict):
    """A channel of Slack, by an incoming webhook."""

    type: Literal["slack"]
    """The kind of receiver."""
    url: SecretStr
    """Address of the incoming webhook."""

    @field_validator("url")
    @classmethod
    def _is_one(cls, url: SecretStr) -> SecretStr:
        if not _SLACK.fullmatch(url.get_secret_value()):
            raise ValueError("not an incoming webhook (https://hooks.slack.com/services/…/…/…)")
        return url

    def block(self) -> tuple[str, dict[str, Any]]:
        """Prefect's type, and the data of its block."""
        return SLACK, {"url": self.url.get_secret_value()}


class TeamsReceiver(Strict):
    """A channel of Microsoft Teams, by a workflow that a webhook starts."""

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

    def block(self) -> tuple[str, dict[str, Any]]:
        """Prefect's type, and the data of its block."""
        return TEAMS, {"url": self.url.get_secret_value(), "include_image": False}


class DiscordReceiver(Strict):
    """A channel of Discord, by a webhook."""

    type: Literal["discord"]
    """The kind of receiver."""
    url: SecretStr
    """Address of the webhook."""

    @field_validator("url")
    @classmethod
    def _is_one(cls, url: SecretStr) -> SecretStr:
        if not _DISCORD.fullmatch(url.get_secret_value()):
            raise ValueError("not a webhook (https://discord.com/api/webhooks/…/…)")
        return url

    def block(self) -> tuple[str, dict[str, Any]]:
        """Prefect's type, and the data of its block."""
        found = _DISCORD.fullmatch(self.url.get_secret_value())
        assert found is not None  # noqa: S101 # validated above
        return DISCORD, {"webhook_id": found[1], "webhook_token": found[2]}


class WebhookReceiver(Strict):
    """Any HTTP server that takes JSON: `{"subject": …, "body": …}`."""

    type: Literal["webhook"]
    """The kind of receiver."""
    url: SecretStr
    """Address that takes a POST."""
    headers: Annotated[dict[Text, SecretStr], Field(default_factory=dict)]
    """Headers of the request: name → value."""

    @field_validator("url")
    @classmethod
    def _is_one(cls, url: SecretStr) -> SecretStr:
        if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", url.get_secret_value()):
            raise ValueError("not an address (https://…)")
        return url

    def block(self) -> tuple[str, dict[str, Any]]:
        """Prefect's type, and the data of its block: what is secret stands among its secrets."""
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
    """People, by a mail server."""

    type: Literal["email"]
    """The kind of receiver."""
    server: Text
    """The mail server."""
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    """Port of the mail server."""
    security: Literal["starttls", "ssl", "none"] = "starttls"
    """How the connection is kept secret."""
    user: Text | None = None
    """Who logs in there; nobody does when absent."""
    password: SecretStr | None = None
    """Of that user."""
    sender: Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s,]+$")]
    """Whom the mail is from."""
    recipients: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s,]+$")]], Field(min_length=1)
    ]
    """Whom it goes to."""

    def block(self) -> tuple[str, dict[str, Any]]:
        """Prefect's type, and the data of its block.

        Prefect's own block of e-mail comes in a package that its server does not have. That of
        Slack takes any address that Apprise knows, and e-mail is one of them.
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


class TargetNotices(Strict):
    """Who is told of a target, and of what."""

    receivers: Annotated[dict[ReceiverName, Receiver], Field(min_length=1)]
    """Name → where; each becomes a block `notify-<target>--<name>`."""
    events: Annotated[tuple[Event, ...], BeforeValidator(_as_tuple)] = USUAL
    """What is told: failure, recovery, warning (a test that only warns), stale (a source that is
    too old), success, retry."""
    owners: Annotated[dict[Text, Text], Field(default_factory=dict)]
    """`meta.owner` of dbt → how the receivers' chat mentions them."""


def desired_notices(notices: Mapping[str, TargetNotices]) -> list[Desired]:
    """The blocks of every receiver, and a variable a target with what it is told."""
    wanted = []
    for target, each in notices.items():
        for name, receiver in each.receivers.items():
            kind, data = receiver.block()
            wanted.append(Desired(kind, names.notify_block(target, name), data))
        wishes = NotificationPreferences(events=each.events, owners=each.owners)
        wanted.append(
            Desired(
                "variable",
                names.notices_variable(target),
                {"value": wishes.model_dump(mode="json")},
            )
        )
    return wanted
