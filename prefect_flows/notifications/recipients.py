"""Sends notifications through Prefect blocks (webhook, Slack, Teams, Discord, mail) of a target.

The blocks are named `notify-<target>` and `notify-<target>--<name>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from prefect_flows.core.formatting import one_line
from prefect_flows.core.markup import (
    Escape,
    escape_for_discord,
    escape_for_slack,
    escape_for_teams,
    fit_message,
)
from prefect_flows.core.names import receiver_name
from prefect_flows.core.notification_preferences import Route
from prefect_flows.notifications.messages import Notice

# Shorter values of a block are not masked: they are not secrets, and occur in ordinary messages.
MIN_SECRET_LENGTH = 8
SLACK = "slack-webhook"
# Block types whose chats interpret markup, with the function that escapes it.
_ESCAPES: Mapping[str, Escape] = {
    SLACK: escape_for_slack,
    "ms-teams-webhook": escape_for_teams,
    "discord-webhook": escape_for_discord,
    "mattermost-webhook": escape_for_discord,
}
# Discord accepts 2,000 for title and text together.
MAX_CHAT_CHARACTERS = 1_990


def group_by_route(
    addresses: Iterable[str], routes: Mapping[str, Route]
) -> dict[str | None, list[str]]:
    """Return route → blocks of its receiver; None → blocks of the receivers that get everything."""
    grouped: dict[str | None, list[str]] = {}
    for address in addresses:
        name = receiver_name(address)
        grouped.setdefault(name if name in routes else None, []).append(address)
    return grouped


def build_sender(receivers: Iterable[str]) -> Callable[[str, Notice], str | None]:
    """Return a function that sends a notification to a recipient, or returns why it cannot.

    It does the slow imports first, before the time limit of the recipients starts. Prefect searches
    all installed collections for a block's class, which takes seconds; its own block types do not
    need that. Apprise is imported here since its modules import one another: several threads that
    import it concurrently find it half initialized.
    """
    import apprise  # noqa: F401
    from prefect.blocks import notifications
    from prefect.blocks.abstract import NotificationBlock, NotificationError
    from prefect.blocks.core import Block
    from prefect.exceptions import PrefectException
    from prefect.plugins import load_prefect_collections

    builtin_types = {
        found.get_block_type_slug(): found
        for found in vars(notifications).values()
        if isinstance(found, type) and issubclass(found, NotificationBlock)
    }
    if any(receiver.partition("/")[0] not in builtin_types for receiver in receivers):
        load_prefect_collections()

    def send(receiver: str, notice: Notice) -> str | None:
        """Send a notification through a block.

        The block is loaded for each one, since Apprise waits up to five seconds between two
        messages of one object.

        Args:
            receiver: the block, as `address` writes it.

        Returns:
            Why it was not sent, without secrets of the block; None if it was sent.
        """
        secrets: list[str] = []
        try:
            slug, _, name = receiver.partition("/")
            block = (
                builtin_types[slug].load(name) if slug in builtin_types else Block.load(receiver)
            )
            if not isinstance(block, NotificationBlock):
                return f"{receiver} is not a notification block"
            data = block.model_dump(context={"include_secrets": True})
            secrets = sorted(_secret_candidates(data), key=len, reverse=True)
            with block.raise_on_failure():
                subject, body = _format_for_channel(notice, slug, data)
                block.notify(body, subject)  # type: ignore[unused-coroutine] # sync here
        except (
            NotificationError, PrefectException, httpx.HTTPError, OSError,
            KeyError, ValueError, TypeError,  # a block whose data does not match its type
        ) as error:  # fmt: skip
            message = f"{type(error).__name__}: {getattr(error, 'log', '') or error}"
            for secret in secrets:
                message = message.replace(secret, "…")
            return one_line(message, 500)
        return None

    return send


def _format_for_channel(notice: Notice, slug: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """Return subject and body of a notification, with all markup escaped but our own."""
    escape = _ESCAPES.get(slug)
    # Mail uses the Slack block, which accepts any URL that Apprise supports.
    if escape is None or _webhook_url(data).startswith("mailto"):
        return notice.subject, notice.body
    # Slack does not interpret markup in titles.
    title = notice.subject if slug == SLACK else fit_message(notice.subject, (), escape, 300)
    room = MAX_CHAT_CHARACTERS - len(title)
    return title, fit_message(notice.body, notice.live, escape, room)


def _webhook_url(data: Mapping[str, Any]) -> str:
    url = data.get("url")
    return str(url.get_secret_value() if isinstance(url, SecretStr) else url)


def _secret_candidates(value: Any) -> Iterator[str]:
    """Yield texts of a block's data that may be secrets, and the parts of URLs."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _secret_candidates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secret_candidates(inner)
    elif isinstance(value, str):
        for part in {value, *value.replace("?", "/").replace("@", "/").split("/")}:
            if len(part) >= MIN_SECRET_LENGTH:
                yield part
