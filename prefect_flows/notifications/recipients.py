"""Who is told: Prefect's notification blocks `notify-<target>` and `notify-<target>--<name>`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx
from pydantic import SecretStr

from prefect_flows.core.markup import Escape, in_a_card, in_a_chat, in_discord, in_slack
from prefect_flows.notifications.messages import Notice

# Shorter words of a block's data are no secrets, and stand in every message.
SHORTEST_SECRET = 8
SLACK = "slack-webhook"
# Types of blocks whose chats see markup in a text; others show it as it is.
_ESCAPES: Mapping[str, Escape] = {
    SLACK: in_slack,
    "ms-teams-webhook": in_a_card,
    "discord-webhook": in_discord,
    "mattermost-webhook": in_discord,
}
# Discord takes 2,000 of title and text.
MOST_CHARACTERS_OF_CHATS = 1_990


def sender(told: Iterable[str]) -> Callable[[str, Notice], str | None]:
    """What sends to these receivers. What it needs is imported before their seconds count.

    Prefect looks for a block's class in all installed collections, whose import takes seconds. Its
    own types need none, but Apprise, whose modules import one another: several threads that begin
    to import it at once find it half made.
    """
    import apprise  # noqa: F401
    from prefect.blocks import notifications
    from prefect.blocks.abstract import NotificationBlock, NotificationError
    from prefect.blocks.core import Block
    from prefect.exceptions import PrefectException
    from prefect.plugins import load_prefect_collections

    own = {
        found.get_block_type_slug(): found
        for found in vars(notifications).values()
        if isinstance(found, type) and issubclass(found, NotificationBlock)
    }
    if any(receiver.partition("/")[0] not in own for receiver in told):
        load_prefect_collections()

    def send(receiver: str, notice: Notice) -> str | None:
        """Send a notice through a block.

        The block is loaded for each: through one object Apprise waits up to five seconds between
        two messages.

        Args:
            receiver: the block, as `address` says it.

        Returns:
            Why it was not sent, without a secret of the block; none where it was.
        """
        secrets: list[str] = []
        try:
            slug, _, name = receiver.partition("/")
            block = own[slug].load(name) if slug in own else Block.load(receiver)
            if not isinstance(block, NotificationBlock):
                return f"{receiver} is no notification block"
            data = block.model_dump(context={"include_secrets": True})
            secrets = sorted(_texts(data), key=len, reverse=True)
            with block.raise_on_failure():
                subject, body = _in_its_channel(notice, slug, data)
                block.notify(body, subject)  # type: ignore[unused-coroutine] # sync here
        except (
            NotificationError, PrefectException, httpx.HTTPError, OSError,
            KeyError, ValueError, TypeError,  # a block that is not as its type wants it
        ) as error:  # fmt: skip
            said = f"{type(error).__name__}: {getattr(error, 'log', '') or error}"
            for secret in secrets:
                said = said.replace(secret, "…")
            return " ".join(said.split())[:500]
        return None

    return send


def _in_its_channel(notice: Notice, slug: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """Subject and body of a notice, in which a chat sees no markup but ours."""
    escape = _ESCAPES.get(slug)
    # A mail goes by Slack's block, which takes any address that Apprise knows.
    if escape is None or _address(data).startswith("mailto"):
        return notice.subject, notice.body
    # Slack's titles know no markup.
    title = notice.subject if slug == SLACK else in_a_chat(notice.subject, (), escape, 300)
    room = MOST_CHARACTERS_OF_CHATS - len(title)
    return title, in_a_chat(notice.body, notice.live, escape, room)


def _address(data: Mapping[str, Any]) -> str:
    url = data.get("url")
    return str(url.get_secret_value() if isinstance(url, SecretStr) else url)


def _texts(value: Any) -> Iterator[str]:
    """The texts in a block's data that may be secrets, and their parts: an address may be one."""
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        for part in {value, *value.replace("?", "/").replace("@", "/").split("/")}:
            if len(part) >= SHORTEST_SECRET:
                yield part
