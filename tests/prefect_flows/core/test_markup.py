"""Data stays data in Markdown and in each chat, also by way of Prefect's blocks and Apprise."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests
from markdown_it import MarkdownIt
from prefect.blocks.notifications import (
    AppriseNotificationBlock,
    DiscordWebhook,
    MattermostWebhook,
    MicrosoftTeamsWebhook,
    SlackWebhook,
)

from prefect_flows.core.markup import (
    escape_for_discord,
    escape_for_slack,
    escape_inline,
    escape_markdown,
    fit_message,
)
from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.notifications.messages import Notice, build_incident_notice
from prefect_flows.notifications.recipients import build_sender
from prefect_flows.reporting.run_report import stage_summaries
from prefect_flows.state.incidents import Incident, IncidentChanges
from tests.support.receivers import SLACK, TEAMS

HOSTILE = (
    "<!channel> <http://evil.example|our docs> @everyone <@U666> [docs](http://evil.example) "
    "![x](http://evil.example/x.png) <img src=x onerror=alert(1)> **b** `c` | d &lt;!here&gt; "
    "!here|x> http://evil.example www.evil.example me@evil.example <@&1> <#2> # h"
)
MENTION, URL = "<@U024BE7LH>", "http://127.0.0.1:4200/runs/flow-run/1?a=1&b=2"
CHATS: dict[str, tuple[type[AppriseNotificationBlock], dict[str, Any]]] = {
    "slack-webhook": (SlackWebhook, {"url": SLACK}),
    "ms-teams-webhook": (MicrosoftTeamsWebhook, {"url": TEAMS, "include_image": False}),
    "discord-webhook": (
        DiscordWebhook, {"webhook_id": "123456789012345678", "webhook_token": "madeUp-1234567890"},
    ),
    "mattermost-webhook": (MattermostWebhook, {"hostname": "chat.example", "token": "madeUp"}),
}  # fmt: skip


def rendered(markdown: str) -> str:
    # What a page makes links of by itself.
    text = re.sub(r"(```+)\n.*?\n\1\n", "", markdown, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)(://|@)|www(?!\\)\.", text), text
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)


@pytest.mark.parametrize("as_markdown", [escape_markdown, escape_inline])
def test_markdown_shows_data_as_it_is(as_markdown: Callable[[str], str]) -> None:
    page = rendered(f"a | b\n--|--\nx | {as_markdown(HOSTILE)}\n")
    assert not re.search(r"<(a|img|strong|em|code|h1)\b", page), page
    shown = re.sub("<[^>]+>", "", page.rpartition("<td>")[2])
    assert "&lt;!channel&gt; &lt;http://evil.example|our docs&gt; @everyone" in shown
    assert "[docs](http://evil.example)" in shown
    assert "&amp;lt;!here&amp;gt;" in shown


def test_names_stay_readable_within_a_line() -> None:
    assert escape_inline("new table raw_files__inbox.orders (1 columns), dbt-run") == (
        "new table raw_files__inbox.orders (1 columns), dbt-run"
    )
    assert escape_inline("_a_ __b__ c_ x_*_y") == r"\_a\_ \_\_b\_\_ c\_ x\_\*\_y"


def record(text: str) -> dict[str, Any]:
    stage = {
        "nodes": 1, "statuses": {"error": 1}, "attempts": 1, "rows": 0, "bytes": 0, "seconds": 1.0,
        "resumed": 0, "failed": [{"status": "error", "node": text, "cause": None, "message": text}],
        "warned": [],
    }  # fmt: skip
    load = {
        "schema": text, "rows": {text: 1}, "bytes": 1, "extract_seconds": 1.0, "load_seconds": 1.0,
        "removed": {}, "schema_changes": [text], "rejected_rows": 1,
        "rejected": [{"table": text, "where": text, "why": text, "rows": 1}],
    }  # fmt: skip
    return {"target": "dev", "ingest": {text: load}, "run": stage, "test": stage,
            "marts": {text: 1}, "unmatched": [text]}  # fmt: skip


@pytest.mark.parametrize(
    "summary", [stage_summaries.extraction, stage_summaries.load, stage_summaries.transformation,
                stage_summaries.validation,
                lambda found: stage_summaries.run(found, f"```\n{HOSTILE}")],
)  # fmt: skip
def test_no_artifact_of_a_run_has_markup_of_the_warehouse(summary: Callable[..., str]) -> None:
    page = rendered(summary(record(HOSTILE)))
    assert "our docs" in page
    without_failure = re.sub("<pre>.*?</pre>", "", page, flags=re.DOTALL)
    without_failure = without_failure.replace("<p><strong>Failed.</strong></p>", "")
    assert not re.search(r"<(a|img|strong|em|code)\b", without_failure), page


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Apprise would post: its own code runs up to the connection."""
    sent: list[dict[str, Any]] = []

    def send(
        _self: requests.Session, request: requests.PreparedRequest, **_: Any
    ) -> requests.Response:
        body = request.body
        assert body is not None
        sent.append(json.loads(body))
        answer = requests.Response()
        answer.status_code, answer._content = 200, b"ok"
        return answer

    monkeypatch.setattr(requests.Session, "send", send)
    return sent


def told(slug: str, notice: Notice, posted: list[dict[str, Any]]) -> str:
    """All texts that a chat gets."""
    assert build_sender([f"{slug}/notify-dev"])(f"{slug}/notify-dev", notice) is None
    (document,) = posted

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("text", "title", "content") or not isinstance(inner, str):
                    yield from texts(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from texts(inner)
        elif isinstance(value, str):
            yield value

    return "\n".join(texts(document))


# What would be live, as each chat looks for it.
LIVE = {
    "slack-webhook": r"<[!@#a-z]|(?<!\S)https?://(?!127)",
    "ms-teams-webhook": r"\]\(|https?://(?!127)|www\.",
    "discord-webhook": r"@(everyone|here|&?\d)|(?<!\\)<[@#]|(?<!\\)\[|https?://(?!127)|www\.",
    "mattermost-webhook": r"@(everyone|here|all|channel)|(?<!\\)\[|https?://(?!127)|www\.",
}


# Apprise imports it.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")
@pytest.mark.parametrize("slug", CHATS)
def test_no_chat_sees_markup_of_the_warehouse_and_an_owner_is_still_called(
    slug: str, posted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, data = CHATS[slug]
    block = kind(**data)
    monkeypatch.setattr(kind, "load", lambda _name: block)
    now = datetime.now(UTC)
    facts: dict[str, Any] = {
        "id": "1", "kind": "failure", "node": None, "cause_class": "code", "blocked": 0,
        "first_at": now, "last_at": now, "owner": "shop",
    }  # fmt: skip
    new = [
        Incident(**facts, name=HOSTILE[:60], cause=HOSTILE, command="cd dbt && uv run dbt run"),
        Incident(**facts, name=HOSTILE, cause=HOSTILE, command=None),
    ]
    notice = build_incident_notice(
        "dev", IncidentChanges(new=new), NotificationPreferences(owners={"shop": MENTION}), {}, URL
    )
    assert notice is not None

    text = told(slug, notice, posted)

    ours = text.replace(MENTION, "").replace(URL, "")
    assert not re.search(LIVE[slug], ours), text
    # AND what is ours is as it was: the chat calls the owner, and the run has a link
    assert MENTION in text
    assert URL in text.replace("&amp;", "&")
    assert "our docs" in text
    assert len(text) <= 2000


@pytest.mark.parametrize("escape", [escape_for_slack, escape_for_discord])
def test_a_message_fits_and_keeps_what_is_live(escape: Callable[[str], str]) -> None:
    body = "\n".join(["*" * 900, f"owner: {MENTION} (shop)", "_" * 900, f"run: {URL}"])
    text = fit_message(body, (MENTION, URL), escape, 1_990)
    assert len(text) <= 1_990
    assert f"owner: {MENTION} (shop)" in text
    assert text.endswith(f"run: {URL}")
