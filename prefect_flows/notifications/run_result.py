"""What a run that just ended means for whoever answers for its target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prefect_flows.core.errors import MillraceError, PrefectUnreachable, StateStoreError
from prefect_flows.core.notification_preferences import NotificationPreferences
from prefect_flows.notifications import messages
from prefect_flows.notifications.messages import Notice
from prefect_flows.notifications.outbox import Outbox
from prefect_flows.notifications.recipients import sender
from prefect_flows.runtime.base import Runtime
from prefect_flows.state.incidents import (
    Incident,
    IncidentChanges,
    compare_incidents,
    open_incidents,
    save_incidents,
)
from prefect_flows.state.runs import RunStatus
from prefect_flows.state.store import StateStore
from prefect_flows.transform.repro_command import command_for
from prefect_flows.transform.results import NodeResult
from prefect_flows.transform.run_report import RunReport

WARNS = "warn"


@dataclass(frozen=True)
class RunOutcome:
    """A run, as far as it came.

    Attributes:
        error: what ended it; none where it passed or was told to stop, and where an error that
            nobody expected ended it.
        record: what each stage did.
        report: none where it ended before the dbt project was parsed, and of a source's own flow,
            which says nothing of what the pipeline found.
    """

    target: str
    started_at: datetime
    outcome: RunStatus
    error: MillraceError | None
    record: Mapping[str, Any]
    report: RunReport | None = None


def notify_run_result(
    ended: RunOutcome, store: StateStore, runtime: Runtime, seconds: float
) -> None:
    """Keep what is open, and tell what is new and what is over; a run never fails for it.

    Runs of a target come one after the other, so nobody else writes its files.

    Args:
        seconds: how long those who are told are waited for.
    """
    _Telling(ended, store, runtime).tell(seconds)


class _Telling:
    def __init__(self, ended: RunOutcome, store: StateStore, runtime: Runtime) -> None:
        self.ended = ended
        self.store = store
        self.runtime = runtime
        self.log = runtime.log
        self.stored = True

    def tell(self, seconds: float) -> None:
        before, outbox = self._known()
        self._on_disk = outbox.model_copy(deep=True)
        judged = compare_incidents(
            before, list(_seen(self.ended, self.runtime.url)), _good(self.ended, before)
        )
        wishes, receivers = self.runtime.wishes, None
        if wishes is not None:
            notices = _notices(self.ended, judged, wishes, self.runtime.url)
            if notices or outbox.waiting:
                receivers = self._receivers()
                outbox.add(notices, receivers)
        # The notices first: a run that is killed between the two tells twice, not never.
        self._keep(outbox)
        if judged.open != before:
            self._keep_incidents(judged)
        if receivers and outbox.waiting:
            for receiver, why in outbox.deliver(sender(receivers), seconds).items():
                self.log.warning("Nobody could be told by block %s: %s", receiver, why)
            self._keep(outbox)

    def _known(self) -> tuple[list[Incident], Outbox]:
        target = self.ended.target
        try:
            return (
                open_incidents(self.store, target, self.log.warning),
                Outbox.read(self.store, target, self.log.warning),
            )
        except StateStoreError as error:
            self.log.warning("What is open cannot be read, and is told as if new: %s", error)
            self.stored = False
            return [], Outbox()

    def _receivers(self) -> list[str] | None:
        """Who is told; none where that cannot be asked."""
        try:
            return self.runtime.receivers()
        except PrefectUnreachable as error:
            self.log.warning("Who is to be told cannot be asked: %s", error)
            return None

    def _keep(self, outbox: Outbox) -> None:
        if not self.stored or outbox == self._on_disk:
            return
        try:
            outbox.keep(self.store, self.ended.target)
            self._on_disk = outbox.model_copy(deep=True)
        except StateStoreError as error:
            self.log.warning("What is not sent yet cannot be kept: %s", error)

    def _keep_incidents(self, judged: IncidentChanges) -> None:
        if not self.stored:
            return
        try:
            save_incidents(self.store, self.ended.target, judged.open)
        except StateStoreError as error:
            self.log.warning("What is open cannot be kept: %s", error)


def _seen(ended: RunOutcome, url: str | None) -> Iterator[Incident]:
    """What this run found not to be as it should."""
    moments = {"first_at": ended.started_at, "last_at": ended.started_at, "url": url}
    report = ended.report
    cards = report.cards if report is not None else []
    for card in cards:
        yield Incident(
            id=f"{card.unique_id} {card.cause or card.status}",
            kind="stale" if card.resource_type == "source" else "failure",
            name=f"{card.resource_type} {card.name}",
            cause=_line(card.message or card.status),
            cause_class=card.cause,
            node=card.unique_id,
            owner=card.owner,
            blocked=len(card.blocked),
            command=card.command,
            **moments,
        )
    for node in report.nodes if report is not None else ():
        if node.status == WARNS:
            yield Incident(
                id=f"{node.unique_id} {WARNS}",
                kind="stale" if node.resource_type == "source" else "warning",
                name=f"{node.resource_type} {node.name}",
                cause=_line(node.message or node.status),
                node=node.unique_id,
                owner=_owner(report, node) if report is not None else None,
                command=command_for(node, ended.target),
                **moments,
            )
    if cards or ended.outcome in ("passed", "cancelled"):
        return
    if ended.error is None:
        yield Incident(
            id="error", name="run", cause="It ended unexpectedly; its log says why.", **moments
        )
        return
    for source, error in ended.error.of_sources.items():
        yield Incident(id=_id_of_source(source), name=f"source {source}", **_of(error), **moments)
    if not ended.error.of_sources:
        yield Incident(
            id=f"error {type(ended.error).__name__}", name="run", **_of(ended.error), **moments
        )


def _good(ended: RunOutcome, before: Sequence[Incident]) -> set[str]:
    """Ids of what was open, and would have been seen by this run if it still were."""
    report = ended.report
    results = {node.unique_id: node for node in report.nodes} if report is not None else {}

    def good(incident: Incident) -> bool:
        if incident.node is None:
            source = incident.id.removeprefix(_id_of_source(""))
            if source != incident.id:
                return source in ended.record.get("ingest", {})
            # What ended a run before its nodes did not end this one.
            return report is not None and (ended.outcome == "passed" or bool(report.cards))
        if report is not None and incident.node not in report.lineage:
            return True
        return incident.node in results and results[incident.node].done

    return {incident.id for incident in before if good(incident)}


def _notices(
    ended: RunOutcome, judged: IncidentChanges, wishes: NotificationPreferences, url: str | None
) -> list[Notice]:
    report, target = ended.report, ended.target
    cards = {card.unique_id: card for card in report.cards} if report is not None else {}
    found = [messages.of_new(target, judged, wishes, cards, url)]
    if "recovery" in wishes.events:
        over = [incident for incident in judged.over if incident.kind in wishes.events]
        found.append(messages.of_recovery(target, over, len(judged.open), url))
    loads = ended.record.get("ingest", {})
    if "success" in wishes.events and ended.outcome == "passed":
        rows = [sum(load["rows"].values()) for load in loads.values()]
        seconds = sum(load["seconds"] for load in loads.values())
        if report is not None:
            seconds = report.seconds
            rows = [stage.rows or 0 for stage in report.stages]
        found.append(messages.of_success(target, seconds, sum(rows), url))
    if "retry" in wishes.events:
        # A run that goes on with one of an older version has records without attempts.
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
        found.append(messages.of_retries(target, retried, url))
    return [notice for notice in found if notice is not None]


def _of(error: MillraceError) -> dict[str, str]:
    of_a_system = error.retryable or error.of_a_system
    return {
        "cause": _line(f"{error.what} ({error.where})"),
        "cause_class": "system" if of_a_system else "configuration",
        "command": _line(error.fix),
    }


def _id_of_source(source: str) -> str:
    return f"source {source}"


def _owner(report: RunReport, node: NodeResult) -> str | None:
    known = report.lineage.get(node.unique_id)
    if known is None or known.owner is not None:
        return known.owner if known is not None else None
    tested = report.lineage.get(known.attached_to or "")
    return tested.owner if tested is not None else None


def _line(text: str) -> str:
    return " ".join(text.split())[:1000]
