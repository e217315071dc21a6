"""Deadlines of models and exposures, and when runs last completed them.

    <state_url>/targets/<target>/deadlines.json     node id → deadline, and its last completion

Runs write the file. The check of the deadlines only reads it, so it needs neither dbt nor a run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, TypeAdapter, field_validator

from prefect_flows.core.files import Warn
from prefect_flows.state.store import StateStore

DEADLINES = "deadlines.json"
_PATTERN = re.compile(r"([01]\d|2[0-3]):([0-5]\d) (\S+)")


@dataclass(frozen=True)
class Deadline:
    """A time of each day in a time zone, until which a node is to be complete."""

    at: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: object) -> Deadline:
        """Parse a deadline such as `07:00 Europe/Berlin`.

        Raises:
            ValueError: it is none, or the time zone does not exist.
        """
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"{text!r} is not a time and a time zone")
        hours, minutes, zone = found.groups()
        try:
            return cls(time(int(hours), int(minutes)), ZoneInfo(zone))
        # OSError: the name of a folder, such as `Europe`. ValueError: a path outside the folder.
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"there is no time zone {zone!r}") from error

    def get_last(self, now: datetime) -> tuple[datetime, datetime]:
        """Return the last deadline until now, and the begin of its day in its zone, in UTC."""
        day = now.astimezone(self.zone).date()
        while (due := datetime.combine(day, self.at, self.zone).astimezone(UTC)) > now:
            day -= timedelta(days=1)
        return due, datetime.combine(day, time(), self.zone).astimezone(UTC)


class DeadlineState(BaseModel):
    """A node with a deadline.

    Attributes:
        name: display name, for example `model fct_flights`.
        deadline: as in the node's `meta`.
        owner: see `Incident`.
        group: see `Incident`.
        tags: see `Incident`.
        seen_at: end of the first run that knew the deadline, UTC.
        complete_at: end of the last run that completed the node, UTC; None before the first one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    deadline: str
    owner: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    seen_at: datetime
    complete_at: datetime | None = None

    @field_validator("deadline")
    @classmethod
    def _is_one(cls, text: str) -> str:
        Deadline.parse(text)
        return text

    def find_missed(self, now: datetime) -> datetime | None:
        """Return the last deadline if the node was not complete on its day; None if it was.

        Complete on that day after the deadline is late, but not missed any more. A deadline that
        was not known yet is not missed.
        """
        due, day = Deadline.parse(self.deadline).get_last(now)
        is_met = self.complete_at is not None and self.complete_at >= day
        return None if is_met or self.seen_at > due else due


_STATES = TypeAdapter(dict[str, DeadlineState])


def load_deadlines(
    store: StateStore, target: str, warn: Warn | None = None
) -> dict[str, DeadlineState]:
    """Load node id → deadline of a target; empty if its project has none.

    Raises:
        StateStoreError: the store cannot be read, or the file is corrupt and `warn` is None.
    """
    return store.load(f"targets/{target}/{DEADLINES}", _STATES, warn) or {}


def save_deadlines(store: StateStore, target: str, states: Mapping[str, DeadlineState]) -> None:
    """Save node id → deadline.

    Raises:
        StateStoreError: the store cannot be written.
    """
    store.write(f"targets/{target}/{DEADLINES}", _STATES.dump_json(dict(states), indent=1))
