"""Notifies the owners of a target after a run: new, ongoing and resolved incidents, retries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect_flows.core.errors import MillraceError, PrefectUnreachable, StateStoreError
from prefect_flows.core.formatting import one_line
from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.notifications import messages
from prefect_flows.notifications.messages import Notice
from prefect_flows.notifications.outbox import Outbox
from prefect_flows.notifications.recipients import build_sender, group_by_route
from prefect_flows.runtime.base import Runtime
from prefect_flows.state.incidents import (
    Incident,
    IncidentChanges,
    compare_incidents,
    load_open_incidents,
    save_incidents,
)
from prefect_flows.state.runs import RunStatus
from prefect_flows.state.store import StateStore
from prefect_flows.transform.repro_command import build_command
from prefect_flows.transform.run_report import RunReport

WARN_STATUS = "warn"
MAX_CAUSE_LENGTH = 1000


@dataclass(frozen=True)
class RunOutcome:
    """A finished run.

    Attributes:
        error: the error that ended it; None if the run passed or was cancelled, or if an unexpected
            error ended it.
        record: result of each stage.
        report: None if the run ended before the dbt project was parsed, or if it is a source's own
            flow, which does not check what the pipeline found.
    """

    target: str
    started_at: datetime
    outcome: RunStatus
    error: MillraceError | None
    record: Mapping[str, Any]
    report: RunReport | None = None


def notify_run_result(run: RunOutcome, store: StateStore, runtime: Runtime, seconds: float) -> None:
    """Save the open incidents, and notify of new and resolved ones; never fails the run.

    Only one run of a target is active at a time, so no other process writes its files.

    Args:
        seconds: time limit for the recipients.
    """
    _Notifier(run, store, runtime).notify(seconds)


class _Notifier:
    def __init__(self, run: RunOutcome, store: StateStore, runtime: Runtime) -> None:
        self.run = run
        self.store = store
        self.runtime = runtime
        self.log = runtime.log
        self.stored = True

    def notify(self, seconds: float) -> None:
        before, outbox = self._load_previous()
        self._saved_outbox = outbox.model_copy(deep=True)
        changes = compare_incidents(
            before,
            list(_find_incidents(self.run, self.runtime.url)),
            _resolved_ids(self.run, before),
        )
        preferences, receivers = self.runtime.preferences, None
        if preferences is not None:
            notices = _build_notices(self.run, changes, preferences, self.runtime.url)
            if notices or outbox.waiting:
                receivers = self._read_recipients()
                outbox.add(
                    notices,
                    None if receivers is None else group_by_route(receivers, preferences.routes),
                )
        # The outbox first: a run killed between the two notifies twice rather than not at all.
        self._save_outbox(outbox)
        if changes.open != before:
            self._save_incidents(changes)
        if receivers and outbox.waiting:
            for receiver, why in outbox.deliver(build_sender(receivers), seconds).items():
                self.log.warning(
                    "Could not send a notification through block %s: %s", receiver, why
                )
            self._save_outbox(outbox)

    def _load_previous(self) -> tuple[list[Incident], Outbox]:
        target = self.run.target
        try:
            return (
                load_open_incidents(self.store, target, self.log.warning),
                Outbox.read(self.store, target, self.log.warning),
            )
        except StateStoreError as error:
            self.log.warning("Cannot read open incidents; all are notified as new: %s", error)
            self.stored = False
            return [], Outbox()

    def _read_recipients(self) -> list[str] | None:
        """Return the recipients; None if the Prefect API does not answer."""
        try:
            return self.runtime.recipients()
        except PrefectUnreachable as error:
            self.log.warning("Cannot read the notification blocks: %s", error)
            return None

    def _save_outbox(self, outbox: Outbox) -> None:
        if not self.stored or outbox == self._saved_outbox:
            return
        try:
            outbox.save(self.store, self.run.target)
            self._saved_outbox = outbox.model_copy(deep=True)
        except StateStoreError as error:
            self.log.warning("Cannot save unsent notifications: %s", error)

    def _save_incidents(self, changes: IncidentChanges) -> None:
        if not self.stored:
            return
        try:
            save_incidents(self.store, self.run.target, changes.open)
        except StateStoreError as error:
            self.log.warning("Cannot save open incidents: %s", error)


def _find_incidents(run: RunOutcome, url: str | None) -> Iterator[Incident]:
    """Yield what failed, warned or is stale in this run."""
    timestamps = {"first_at": run.started_at, "last_at": run.started_at, "url": url}
    report = run.report
    cards = report.cards if report is not None else []
    for card in cards:
        yield Incident(
            id=f"{card.unique_id} {card.cause or card.status}",
            kind="stale" if card.resource_type == "source" else "failure",
            name=f"{card.resource_type} {card.name}",
            cause=one_line(card.message or card.status, MAX_CAUSE_LENGTH),
            cause_class=card.cause,
            node=card.unique_id,
            **_labels(report, card.unique_id),
            blocked=len(card.blocked),
            command=card.command,
            **timestamps,
        )
    for node in report.nodes if report is not None else ():
        if node.status == WARN_STATUS:
            yield Incident(
                id=f"{node.unique_id} {WARN_STATUS}",
                kind="stale" if node.resource_type == "source" else "warning",
                name=f"{node.resource_type} {node.name}",
                cause=one_line(node.message or node.status, MAX_CAUSE_LENGTH),
                node=node.unique_id,
                **_labels(report, node.unique_id),
                command=build_command(
                    node, run.target, publishes=report is not None and report.published is not None
                ),
                **timestamps,
            )
    if cards or run.outcome in ("passed", "cancelled"):
        return
    if run.error is None:
        yield Incident(
            id="error", name="run", cause="It ended unexpectedly; its log says why.", **timestamps
        )
        return
    for source, error in run.error.source_errors.items():
        yield Incident(
            id=_source_incident_id(source),
            name=f"source {source}",
            **_error_fields(error),
            **timestamps,
        )
    if not run.error.source_errors:
        yield Incident(
            id=f"error {type(run.error).__name__}",
            name="run",
            **_error_fields(run.error),
            **timestamps,
        )


def _resolved_ids(run: RunOutcome, before: Sequence[Incident]) -> set[str]:
    """Return ids of open incidents that this run would have seen if they still existed."""
    report = run.report
    results = {node.unique_id: node for node in report.nodes} if report is not None else {}

    def is_resolved(incident: Incident) -> bool:
        if incident.node is None:
            source = incident.id.removeprefix(_source_incident_id(""))
            if source != incident.id:
                return source in run.record.get("ingest", {})
            # The error that stopped an earlier run before its nodes did not stop this one.
            return report is not None and (run.outcome == "passed" or bool(report.cards))
        if report is not None and incident.node not in report.lineage:
            return True
        return incident.node in results and results[incident.node].done

    return {incident.id for incident in before if is_resolved(incident)}


def _build_notices(
    run: RunOutcome,
    changes: IncidentChanges,
    preferences: NotificationPreferences,
    url: str | None,
) -> list[Notice]:
    report, target = run.report, run.target
    found = _build_incident_notices(run, changes, preferences, url)
    for name, route in preferences.routes.items():
        routed = changes.filter(lambda i, r=route: r.matches(i.owner, i.group, i.tags))  # type: ignore[misc]
        found += [
            notice.model_copy(update={"route": name})
            for notice in _build_incident_notices(run, routed, preferences, url)
        ]
    loads = run.record.get("ingest", {})
    if "success" in preferences.events and run.outcome == "passed":
        rows = [sum(load["rows"].values()) for load in loads.values()]
        seconds = sum(load["seconds"] for load in loads.values())
        if report is not None:
            seconds = report.seconds
            rows = [stage.rows or 0 for stage in report.stages]
        found.append(messages.build_success_notice(target, seconds, sum(rows), url))
    if "retry" in preferences.events:
        # A run that resumes one of an older version has records without `attempts`.
        retried = [
            f"source {source}: {load['attempts']} attempts of its two stages"
            for source, load in loads.items()
            if load.get("attempts", 2) > 2
        ]
        retried += [
            f"{node.resource_type} {node.name}: {node.attempts} attempts, then {node.status}"
            for node in (report.nodes if report is not None else ())
            if node.attempts > 1 and not node.resumed
        ]
        retries = messages.build_retry_notice(target, retried, url)
        found += [retries] if retries is not None else []
    return found


def _build_incident_notices(
    run: RunOutcome,
    changes: IncidentChanges,
    preferences: NotificationPreferences,
    url: str | None,
) -> list[Notice]:
    """Build the messages for new and for resolved incidents."""
    report, target = run.report, run.target
    cards = {card.unique_id: card for card in report.cards} if report is not None else {}
    published = report.published if report is not None else None
    readers = published.sentence(report.run_id) if report and published else None
    found = [messages.build_incident_notice(target, changes, preferences, cards, url, readers)]
    if "recovery" in preferences.events:
        over = [incident for incident in changes.resolved if incident.kind in preferences.events]
        found.append(messages.build_recovery_notice(target, over, len(changes.open), url))
    return [notice for notice in found if notice is not None]


def _error_fields(error: MillraceError) -> dict[str, str]:
    is_infrastructure = error.retryable or error.is_infrastructure_error
    return {
        "cause": one_line(f"{error.what} ({error.where})", MAX_CAUSE_LENGTH),
        "cause_class": "system" if is_infrastructure else "configuration",
        "fix": one_line(error.fix, MAX_CAUSE_LENGTH),
    }


def _source_incident_id(source: str) -> str:
    return f"source {source}"


def _labels(report: RunReport | None, unique_id: str) -> dict[str, Any]:
    """Return owner, group and tags of a node; a test has those of the node that it tests, too."""
    lineage = report.lineage if report is not None else {}
    own = lineage.get(unique_id)
    tested = lineage.get(own.attached_to or "") if own is not None else None
    found = [node for node in (own, tested) if node is not None]
    return {
        "owner": next((node.owner for node in found if node.owner is not None), None),
        "group": next((node.group for node in found if node.group is not None), None),
        "tags": tuple(dict.fromkeys(tag for node in found for tag in node.tags)),
    }
