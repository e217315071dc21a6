"""Checks the deadlines of a target without a run, and notifies the owners of missed ones.

<state_url>/targets/<target>/missed_deadlines.json     the missed ones, which were notified
<state_url>/targets/<target>/deadline_outbox.json      unsent notifications
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from pydantic import TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.notifications import messages
from prefect_flows.notifications.messages import Notice
from prefect_flows.notifications.outbox import Outbox
from prefect_flows.notifications.recipients import build_sender, group_by_route
from prefect_flows.state.deadlines import DeadlineState
from prefect_flows.state.incidents import Incident, IncidentChanges
from prefect_flows.state.store import StateStore

MISSED, OUTBOX = "missed_deadlines.json", "deadline_outbox.json"
_INCIDENTS = TypeAdapter(list[Incident])


def notify_missed_deadlines(
    store: StateStore,
    target: str,
    states: Mapping[str, DeadlineState],
    preferences: NotificationPreferences,
    recipients: Sequence[str],
    now: datetime,
    seconds: float,
    warn: Warn,
) -> list[Incident]:
    """Notify once of each missed deadline and once when the node is complete; return the missed.

    Args:
        states: the target's nodes with deadlines.
        recipients: the target's notification blocks.
        now: time of the check, UTC.
        seconds: time limit for the recipients.
        warn: gets why a recipient was not reached.

    Raises:
        StateStoreError: the store cannot be read or written.
    """
    path = f"targets/{target}/{MISSED}"
    before = {incident.id: incident for incident in store.load(path, _INCIDENTS, warn) or []}
    missed = {incident.id: incident for incident in _find_missed(target, states, now)}
    changes = IncidentChanges(
        new=[incident for i, incident in missed.items() if i not in before],
        ongoing=[incident for i, incident in before.items() if i in missed],
        resolved=[incident for i, incident in before.items() if i not in missed],
    )
    outbox = Outbox.read(store, target, warn, OUTBOX)
    saved = outbox.model_copy(deep=True)
    notices = list(_build_notices(target, changes, preferences))
    outbox.add(notices, group_by_route(recipients, preferences.routes))
    # The outbox first, as after a run: rather notified twice than not at all.
    if outbox != saved:
        outbox.save(store, target, OUTBOX)
    if changes.new or changes.resolved:
        store.write(path, _INCIDENTS.dump_json(changes.open, indent=1))
    if outbox.waiting:
        for recipient, why in outbox.deliver(build_sender(recipients), seconds).items():
            warn(f"Could not send a notification through block {recipient}: {why}")
        outbox.save(store, target, OUTBOX)
    return list(missed.values())


def _find_missed(
    target: str, states: Mapping[str, DeadlineState], now: datetime
) -> Iterator[Incident]:
    for unique_id, state in states.items():
        due = state.find_missed(now)
        if due is None:
            continue
        last = state.complete_at
        yield Incident(
            id=f"{unique_id} deadline",
            kind="stale",
            name=state.name,
            cause=f"It missed its deadline {state.deadline} of {due:%Y-%m-%d %H:%M} UTC; it was "
            + ("never complete." if last is None else f"last complete {last:%Y-%m-%d %H:%M} UTC."),
            owner=state.owner,
            group=state.group,
            tags=state.tags,
            first_at=due,
            last_at=now,
            fix=f"uv run millrace run --target {target}",
        )


def _build_notices(
    target: str, changes: IncidentChanges, preferences: NotificationPreferences
) -> Iterator[Notice]:
    """Yield the messages; those of a node go to the receivers of its owner, group and tags only.

    If there are none, they go to the receivers that get everything.
    """

    def routes_of(incident: Incident) -> list[str | None]:
        labels = incident.owner, incident.group, incident.tags
        return [n for n, each in preferences.routes.items() if each.matches(*labels)] or [None]

    for route in (None, *preferences.routes):
        routed = changes.filter(lambda incident, r=route: r in routes_of(incident))  # type: ignore[misc]
        found = [messages.build_incident_notice(target, routed, preferences, {}, None)]
        if {"recovery", "stale"} <= set(preferences.events):
            still_open = len(routed.open)
            found.append(messages.build_recovery_notice(target, routed.resolved, still_open, None))
        for notice in found:
            if notice is not None:
                yield notice.model_copy(update={"route": route})
