"""Formats notifications: failures, warnings, recoveries, successes and retries of a run.

Every message fits Discord, the most limited channel, with 2,000 characters of title and text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from prefect_flows.core.formatting import format_duration, one_line
from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.state.incidents import Incident, IncidentChanges
from prefect_flows.transform.run_report import FailingRows, FailureCard

MAX_CHARACTERS = 1_900
MAX_SUBJECT_LENGTH = 150
MAX_CAUSE_LENGTH, MAX_COMMAND_LENGTH, MAX_ROW_LENGTH = 400, 300, 120
MAX_BLOCKED, MAX_FAILING_ROWS = 5, 3
VERB_BY_KIND = {"failure": "failed", "warning": "warns", "stale": "is stale"}


class Notice(BaseModel):
    """A message to the owners of a target.

    Attributes:
        at: when it was created, UTC.
        live: parts of the body in which a chat interprets markup: the run's URL and the mentions of
            owners. All other text is data, and is escaped.
        route: name of the only receiver that gets it; None for those that get everything.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    subject: str
    body: str
    at: datetime
    live: Sequence[str] = ()
    route: str | None = None


def build_incident_notice(
    target: str,
    changes: IncidentChanges,
    preferences: NotificationPreferences,
    cards: Mapping[str, FailureCard],
    url: str | None,
    published: str | None = None,
) -> Notice | None:
    """Build one message for all new incidents of the requested kinds; None if there are none.

    Args:
        target: name of the target.
        changes: new, ongoing and resolved incidents.
        preferences: the target's preferences.
        cards: node id → its failure card.
        url: URL of the flow run.
        published: which run's data readers see; None if the target does not publish.
    """
    new = [incident for incident in changes.new if incident.kind in preferences.events]
    if not new:
        return None
    new.sort(key=lambda incident: list(VERB_BY_KIND).index(incident.kind))
    first, others = new[0], new[1:]
    card = cards.get(first.node or "")
    cause_class = f" ({first.cause_class})" if first.cause_class else ""
    lines = [one_line(f"{first.name}{cause_class}: {first.cause}", MAX_CAUSE_LENGTH)]
    if first.owner:
        lines.append(f"owner: {_mention(first.owner, preferences)}")
    if first.blocked:
        lines.append(_blocked_line(first, card))
    if card is not None and card.failing_rows is not None:
        lines += _failing_row_lines(card.failing_rows)
    last_lines = []
    if published is not None:
        last_lines.append(published)
    if changes.ongoing:
        last_lines.append(f"ongoing: {len(changes.ongoing)}")
    for label, advice in (("reproduce", first.command), ("fix", first.fix)):
        if advice:
            last_lines.append(f"{label}: {one_line(advice, MAX_COMMAND_LENGTH)}")
    if url:
        last_lines.append(f"run: {url}")
    short_lines = [_short_line(incident, preferences) for incident in others]
    more = f" and {len(others):,} more" if others else ""
    owners = {incident.owner for incident in new}
    live = [mention for owner, mention in preferences.owners.items() if owner in owners]
    subject = f"{target}: {first.name} {VERB_BY_KIND[first.kind]}{more}"
    return _build_notice(subject, lines, short_lines, last_lines, _live_parts(url, live))


def build_recovery_notice(
    target: str, over: Sequence[Incident], still_open: int, url: str | None
) -> Notice | None:
    """Build one message for all resolved incidents; None if there are none."""
    if not over:
        return None
    now = datetime.now(UTC)
    oldest = sorted(over, key=lambda incident: incident.first_at)
    first, others = oldest[0], oldest[1:]
    more = f" and {len(others):,} more" if others else ""
    return _build_notice(
        f"{target}: {first.name} recovered{more}",
        [_recovery_line(first, now)],
        [_recovery_line(incident, now) for incident in others],
        [*([f"still open: {still_open}"] if still_open else []), *([f"run: {url}"] if url else [])],
        _live_parts(url),
    )


def build_success_notice(target: str, seconds: float, rows: int, url: str | None) -> Notice:
    """Build the message for a run that passed."""
    lines = [f"It took {format_duration(seconds)} and wrote {rows:,} rows."]
    last_lines = [f"run: {url}"] if url else []
    return _build_notice(f"{target}: a run passed", lines, [], last_lines, _live_parts(url))


def build_retry_notice(target: str, retried: Sequence[str], url: str | None) -> Notice | None:
    """Build the message that lists what a run retried; None if it retried nothing."""
    if not retried:
        return None
    subject = f"{target}: {len(retried):,} retried"
    return _build_notice(subject, [], retried, [f"run: {url}"] if url else [], _live_parts(url))


def _recovery_line(incident: Incident, now: datetime) -> str:
    runs = f"{incident.runs:,} run{'s' if incident.runs > 1 else ''}"
    return f"{incident.name}: broken for {format_duration(now - incident.first_at)}, seen by {runs}"


def _short_line(incident: Incident, preferences: NotificationPreferences) -> str:
    owner = f", owner: {_mention(incident.owner, preferences)}" if incident.owner else ""
    return f"also: {incident.name} {VERB_BY_KIND[incident.kind]}{owner}"


def _mention(owner: str, preferences: NotificationPreferences) -> str:
    mention = preferences.owners.get(owner)
    return owner if mention is None else f"{mention} ({owner})"


def _blocked_line(incident: Incident, card: FailureCard | None) -> str:
    blocked = [f"{kind} {name}" for kind, name in (card.blocked if card else ())]
    shown = ", ".join(blocked[:MAX_BLOCKED])
    more = f" and {len(blocked) - MAX_BLOCKED:,} more" if len(blocked) > MAX_BLOCKED else ""
    return f"blocked: {shown}{more}" if shown else f"blocked: {incident.blocked:,}"


def _failing_row_lines(rows: FailingRows) -> list[str]:
    """Format the first failing rows; they have no columns that may hold personal data."""
    shown = [
        one_line(
            ", ".join(f"{column}={value}" for column, value in zip(rows.columns, row, strict=True)),
            MAX_ROW_LENGTH,
        )
        for row in rows.rows[:MAX_FAILING_ROWS]
        if row
    ]
    hidden = f" (without {', '.join(rows.hidden_columns)})" if rows.hidden_columns else ""
    return (
        [one_line(f"failing rows{hidden}:", MAX_ROW_LENGTH), *(f"- {row}" for row in shown)]
        if shown
        else []
    )


def _live_parts(url: str | None, mentions: Iterable[str] = ()) -> list[str]:
    return [part for part in (url, *mentions) if part]


def _build_notice(
    subject: str,
    lines: Sequence[str],
    short_lines: Iterable[str],
    last_lines: Sequence[str],
    live: Sequence[str],
) -> Notice:
    """Build a message that fits: all `lines` and `last_lines`, and as many `short_lines` as fit."""
    subject = one_line(f"Millrace: {subject}", MAX_SUBJECT_LENGTH)
    room = MAX_CHARACTERS - len(subject) - sum(len(line) + 1 for line in (*lines, *last_lines))
    short_lines = [one_line(line, 200) for line in short_lines]
    fitting_lines: list[str] = []
    for index, line in enumerate(short_lines):
        remaining = len(short_lines) - index - 1
        rest = f"and {remaining:,} more" if remaining else ""
        if room < len(line) + 1 + (len(rest) + 1 if rest else 0):
            fitting_lines.append(f"and {remaining + 1:,} more")
            break
        fitting_lines.append(line)
        room -= len(line) + 1
    body = "\n".join([*lines, *fitting_lines, *last_lines])
    return Notice(subject=subject, body=body, at=datetime.now(UTC), live=live)
