"""Incidents of a target: what is broken, since when, and whether it is resolved.

An incident is a node that fails, a source that cannot be ingested, a test that warns, a source
whose freshness check fails, or an error that ended a run before its first node. It stays open until
a run passes the same check. A run that sees an open incident again adds to its count.

    <state_url>/targets/<target>/incidents.json     the open incidents
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.state.store import StateStore

Kind = Literal["failure", "warning", "stale"]

INCIDENTS = "incidents.json"


class Incident(BaseModel):
    """One problem of a target, over all runs that saw it.

    Attributes:
        id: equal for the same problem with the same failure class.
        kind: `stale` is a failed freshness check, whether it fails the run or not.
        name: display name, for example `model fct_flights`.
        cause: the error in one line, without values if personal data may be in them.
        cause_class: a `FailureClass`, or `system` for an infrastructure error such as a timeout;
            None for a warning.
        node: dbt's unique id; None if the problem has no node.
        owner: `meta.owner` of the node, or of the node that a test checks.
        group: group of the same.
        tags: tags of both.
        blocked: number of nodes and exposures downstream.
        first_at: when the first run that saw it started, UTC.
        last_at: when the last run that saw it started, UTC.
        runs: number of runs that saw it.
        url: URL of the last flow run that saw it; None without Prefect.
        command: the command that reproduces it; None if there is none.
        fix: what fixes it, in words and commands; None if that is not known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    kind: Kind = "failure"
    name: str
    cause: str
    cause_class: str | None = None
    node: str | None = None
    owner: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    blocked: int = 0
    first_at: datetime
    last_at: datetime
    runs: int = 1
    url: str | None = None
    command: str | None = None
    fix: str | None = None


_LIST = TypeAdapter(list[Incident])


@dataclass(frozen=True)
class IncidentChanges:
    """How a run changes the incidents of its target.

    Attributes:
        new: incidents that were not open before.
        ongoing: open incidents that this run saw again.
        resolved: incidents that this run resolved, or whose node is gone from the project.
        unchecked: open incidents that this run did not check.
    """

    new: Sequence[Incident] = ()
    ongoing: Sequence[Incident] = ()
    resolved: Sequence[Incident] = ()
    unchecked: Sequence[Incident] = ()

    @property
    def open(self) -> list[Incident]:
        """All incidents that are open after the run."""
        return [*self.unchecked, *self.ongoing, *self.new]

    def filter(self, wanted: Callable[[Incident], bool]) -> IncidentChanges:
        """Return the same of some incidents only."""
        return IncidentChanges(
            *(
                list(filter(wanted, incidents))
                for incidents in (self.new, self.ongoing, self.resolved, self.unchecked)
            )
        )


def compare_incidents(
    before: Iterable[Incident], seen: Sequence[Incident], good: Collection[str]
) -> IncidentChanges:
    """Compare the incidents of a run with the open ones.

    Args:
        before: incidents that were open.
        seen: incidents of this run.
        good: ids of incidents that this run checked and did not see.
    """
    known = {incident.id: incident for incident in before}
    seen_ids = {incident.id for incident in seen}
    return IncidentChanges(
        new=[incident for incident in seen if incident.id not in known],
        ongoing=[
            incident.model_copy(
                update={
                    "first_at": known[incident.id].first_at,
                    "runs": known[incident.id].runs + 1,
                }
            )
            for incident in seen
            if incident.id in known
        ],
        resolved=[each for i, each in known.items() if i not in seen_ids and i in good],
        unchecked=[each for i, each in known.items() if i not in seen_ids and i not in good],
    )


def load_open_incidents(store: StateStore, target: str, warn: Warn | None = None) -> list[Incident]:
    """Load the open incidents of a target, oldest first.

    Args:
        store: the state store.
        target: name of the target.
        warn: see `StateStore.load`.

    Raises:
        StateStoreError: the store cannot be read, or the file is corrupt.
    """
    return store.load(f"targets/{target}/{INCIDENTS}", _LIST, warn) or []


def save_incidents(store: StateStore, target: str, incidents: Sequence[Incident]) -> None:
    """Save the open incidents of a target.

    Raises:
        StateStoreError: the store cannot be written.
    """
    ordered = sorted(incidents, key=lambda incident: incident.first_at)
    store.write(f"targets/{target}/{INCIDENTS}", _LIST.dump_json(ordered, indent=1))
