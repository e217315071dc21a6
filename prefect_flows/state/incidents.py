"""Incidents of a target: what is broken, since when, and what became of it.

An incident is a node that fails, a source that cannot be brought in, a test that warns, a source
that is too old, or an error that ended a run before its nodes. It is open until a run sees it
good. A run that fails for what is open already adds to its count.

    <state_url>/targets/<target>/incidents.json     those that are open
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.state.store import StateStore

Kind = Literal["failure", "warning", "stale"]

INCIDENTS = "incidents.json"


class Incident(BaseModel):
    """One thing that is not as it should be.

    Attributes:
        id: the same for the same thing and class of cause.
        kind: `stale` is a source that is too old, whether that fails the run or not.
        name: what a person calls it, for example `model fct_flights`.
        cause_class: data, code, configuration, transient, cancelled, or system, which is a server
            that does not answer or a stage without end; none for what only warns.
        cause: one line: what was said of it, without values where personal data is near.
        node: dbt's id; none where no node is at fault.
        owner: `meta.owner` of the node, or of what the test looks at.
        blocked: number of nodes and exposures behind it.
        first_at, last_at: when the runs that first and last saw it began, UTC.
        runs: how many runs have seen it.
        url: the last run that saw it; none without Prefect.
        command: shows it again; none where no command does.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    kind: Kind = "failure"
    name: str
    cause: str
    cause_class: str | None = None
    node: str | None = None
    owner: str | None = None
    blocked: int = 0
    first_at: datetime
    last_at: datetime
    runs: int = 1
    url: str | None = None
    command: str | None = None


_LIST = TypeAdapter(list[Incident])


@dataclass(frozen=True)
class IncidentChanges:
    """What a run means for the incidents of its target.

    Attributes:
        new: not seen before.
        again: seen before, and by this run.
        over: seen before, and good in this run, or gone from the project.
        unknown: seen before, and not looked at by this run.
    """

    new: Sequence[Incident] = ()
    again: Sequence[Incident] = ()
    over: Sequence[Incident] = ()
    unknown: Sequence[Incident] = ()

    @property
    def open(self) -> list[Incident]:
        """All that is open after the run."""
        return [*self.unknown, *self.again, *self.new]


def compare_incidents(
    before: Iterable[Incident], seen: Sequence[Incident], good: Collection[str]
) -> IncidentChanges:
    """Tell what is new from what is known.

    Args:
        before: what was open.
        seen: what this run saw.
        good: ids of incidents that a run like this one would have seen, and did not.
    """
    known = {incident.id: incident for incident in before}
    seen_ids = {incident.id for incident in seen}
    return IncidentChanges(
        new=[incident for incident in seen if incident.id not in known],
        again=[
            incident.model_copy(
                update={
                    "first_at": known[incident.id].first_at,
                    "runs": known[incident.id].runs + 1,
                }
            )
            for incident in seen
            if incident.id in known
        ],
        over=[each for i, each in known.items() if i not in seen_ids and i in good],
        unknown=[each for i, each in known.items() if i not in seen_ids and i not in good],
    )


def open_incidents(store: StateStore, target: str, warn: Warn | None = None) -> list[Incident]:
    """What is open, oldest first.

    Args:
        warn: as `StateStore.load` has it.

    Raises:
        StateStoreError: the store cannot be read, or the file is damaged.
    """
    return store.load(f"targets/{target}/{INCIDENTS}", _LIST, warn) or []


def save_incidents(store: StateStore, target: str, incidents: Sequence[Incident]) -> None:
    """Keep what is open.

    Raises:
        StateStoreError: the store cannot be written.
    """
    ordered = sorted(incidents, key=lambda incident: incident.first_at)
    store.write(f"targets/{target}/{INCIDENTS}", _LIST.dump_json(ordered, indent=1))
