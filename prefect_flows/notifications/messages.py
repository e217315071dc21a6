"""What a notice says: what is wrong, who answers for it, what is behind it, how to see it again.

Every notice fits the narrowest channel, which is Discord with 2,000 characters of title and text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.state.incidents import Incident, IncidentChanges
from prefect_flows.transform.run_report import FailingRows, FailureCard

MOST_CHARACTERS = 1_900
MOST_IN_SUBJECT = 150
MOST_OF_CAUSE, MOST_OF_COMMAND, MOST_OF_ROW = 400, 300, 120
MOST_BEHIND, MOST_ROWS = 5, 3
VERBS = {"failure": "failed", "warning": "warns", "stale": "is stale"}


class Notice(BaseModel):
    """A message to whoever answers for a target.

    Attributes:
        at: when it was written, UTC.
        live: the parts of the body that are no data: the run's address, and how the chat mentions
            an owner. A chat sees markup in nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    subject: str
    body: str
    at: datetime
    live: Sequence[str] = ()


def of_new(
    target: str,
    judged: IncidentChanges,
    wishes: NotificationPreferences,
    cards: Mapping[str, FailureCard],
    url: str | None,
) -> Notice | None:
    """One notice of all that is new and wished for, the first cause first; none without any."""
    new = [incident for incident in judged.new if incident.kind in wishes.events]
    if not new:
        return None
    new.sort(key=lambda incident: list(VERBS).index(incident.kind))
    first, others = new[0], new[1:]
    card = cards.get(first.node or "")
    of_class = f" ({first.cause_class})" if first.cause_class else ""
    lines = [_cut(f"{first.name}{of_class}: {first.cause}", MOST_OF_CAUSE)]
    if first.owner:
        lines.append(f"owner: {_mention(first.owner, wishes)}")
    if first.blocked:
        lines.append(_behind(first, card))
    if card is not None and card.failing_rows is not None:
        lines += _rows(card.failing_rows)
    last = []
    if judged.again:
        last.append(f"open since before: {len(judged.again)}")
    if first.command:
        say = "see it again" if first.node else "fix"
        last.append(f"{say}: {_cut(first.command, MOST_OF_COMMAND)}")
    if url:
        last.append(f"run: {url}")
    also = [_also(incident, wishes) for incident in others]
    more = f" and {len(others):,} more" if others else ""
    owners = {incident.owner for incident in new}
    live = [mention for owner, mention in wishes.owners.items() if owner in owners]
    subject = f"{target}: {first.name} {VERBS[first.kind]}{more}"
    return _notice(subject, lines, also, last, _live(url, live))


def of_recovery(
    target: str, over: Sequence[Incident], still_open: int, url: str | None
) -> Notice | None:
    """One notice of all that is good again; none without any."""
    if not over:
        return None
    now = datetime.now(UTC)
    oldest = sorted(over, key=lambda incident: incident.first_at)
    first, others = oldest[0], oldest[1:]
    more = f" and {len(others):,} more" if others else ""
    return _notice(
        f"{target}: {first.name} is good again{more}",
        [_recovered(first, now)],
        [_recovered(incident, now) for incident in others],
        [*([f"still open: {still_open}"] if still_open else []), *([f"run: {url}"] if url else [])],
        _live(url),
    )


def of_success(target: str, seconds: float, rows: int, url: str | None) -> Notice:
    """A run that passed."""
    lines = [f"It took {said_time(timedelta(seconds=seconds))} and wrote {rows:,} rows."]
    last = [f"run: {url}"] if url else []
    return _notice(f"{target}: a run passed", lines, [], last, _live(url))


def of_retries(target: str, retried: Sequence[str], url: str | None) -> Notice | None:
    """What was tried again in a run; none where nothing was."""
    if not retried:
        return None
    subject = f"{target}: {len(retried):,} tried again"
    return _notice(subject, [], retried, [f"run: {url}"] if url else [], _live(url))


def said_time(duration: timedelta) -> str:
    """A duration in its two largest units: `3 days 4 h`, `4 h 10 min`, `10 min`, `12 s`."""
    seconds = int(duration.total_seconds())
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days} day{'s' if days > 1 else ''}" + (f" {hours} h" if hours else "")
    if hours:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    return f"{minutes} min" if minutes else f"{seconds} s"


def _recovered(incident: Incident, now: datetime) -> str:
    runs = f"{incident.runs:,} run{'s' if incident.runs > 1 else ''}"
    return f"{incident.name}: broken for {said_time(now - incident.first_at)}, seen by {runs}"


def _also(incident: Incident, wishes: NotificationPreferences) -> str:
    owner = f", owner: {_mention(incident.owner, wishes)}" if incident.owner else ""
    return f"also: {incident.name} {VERBS[incident.kind]}{owner}"


def _mention(owner: str, wishes: NotificationPreferences) -> str:
    mention = wishes.owners.get(owner)
    return owner if mention is None else f"{mention} ({owner})"


def _behind(incident: Incident, card: FailureCard | None) -> str:
    behind = [f"{kind} {name}" for kind, name in (card.blocked if card else ())]
    shown = ", ".join(behind[:MOST_BEHIND])
    more = f" and {len(behind) - MOST_BEHIND:,} more" if len(behind) > MOST_BEHIND else ""
    return f"behind it: {shown}{more}" if shown else f"behind it: {incident.blocked:,}"


def _rows(rows: FailingRows) -> list[str]:
    """The first failing rows; columns that may hold personal data are not among them."""
    shown = [
        _cut(
            ", ".join(f"{column}={value}" for column, value in zip(rows.columns, row, strict=True)),
            MOST_OF_ROW,
        )
        for row in rows.rows[:MOST_ROWS]
        if row
    ]
    hidden = f" (without {', '.join(rows.hidden_columns)})" if rows.hidden_columns else ""
    return (
        [_cut(f"failing rows{hidden}:", MOST_OF_ROW), *(f"- {row}" for row in shown)]
        if shown
        else []
    )


def _live(url: str | None, mentions: Iterable[str] = ()) -> list[str]:
    return [part for part in (url, *mentions) if part]


def _notice(
    subject: str,
    lines: Sequence[str],
    also: Iterable[str],
    last: Sequence[str],
    live: Sequence[str],
) -> Notice:
    """What fits: the lines and the last ones always, and as many of the others as there is room."""
    subject = _cut(f"Millrace: {subject}", MOST_IN_SUBJECT)
    room = MOST_CHARACTERS - len(subject) - sum(len(line) + 1 for line in (*lines, *last))
    also = [_cut(line, 200) for line in also]
    fitting: list[str] = []
    for index, line in enumerate(also):
        left = len(also) - index - 1
        rest = f"and {left:,} more" if left else ""
        if room < len(line) + 1 + (len(rest) + 1 if rest else 0):
            fitting.append(f"and {left + 1:,} more")
            break
        fitting.append(line)
        room -= len(line) + 1
    body = "\n".join([*lines, *fitting, *last])
    return Notice(subject=subject, body=body, at=datetime.now(UTC), live=live)


def _cut(text: str, characters: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= characters else f"{line[: characters - 1]}…"
