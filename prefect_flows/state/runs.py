"""The runs of a target in the state store: how each began and ended, and which to go on from."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from prefect_flows.core.errors import DamagedFile
from prefect_flows.core.files import Warn
from prefect_flows.core.passwords import redacted
from prefect_flows.state.journal import Entry, Journal
from prefect_flows.state.store import StateStore

RunStatus = Literal["passed", "failed", "cancelled", "timed out"]

# A run that ended so, or that never said how it ended, can be resumed.
INTERRUPTED: frozenset[str | None] = frozenset({None, "cancelled", "timed out"})


class RunHeader(BaseModel):
    """`run.json` of a run.

    Attributes:
        id: the flow run's id, or one of its own without Prefect.
        parameters: what was asked for, URLs without their passwords; only a run of the same
            parameters resumes it.
        ended: how it ended; none while it runs, and for ever when it was killed; `resumed` when
            another run went on from it.
        resumes: id of the run that this one went on from.
        oldest_at: when the first of the runs began that this one went on from, one after the other;
            none where it went on from none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    target: str
    parameters: Annotated[Mapping[str, Any], AfterValidator(redacted)]
    url: str | None
    started_at: datetime
    host: str = Field(default_factory=socket.gethostname)
    process: int = Field(default_factory=os.getpid)
    ended_at: datetime | None = None
    ended: RunStatus | Literal["resumed"] | None = None
    resumes: str | None = None
    oldest_at: datetime | None = None

    @property
    def begun_at(self) -> datetime:
        """When the oldest result of the run may have been made, UTC."""
        return self.oldest_at or self.started_at


HEADER = "run.json"
_HEADER = TypeAdapter(RunHeader)

# How the name of a run's folder begins, so that names sort by time.
STARTED = "%Y%m%dT%H%M%S.%f"


@dataclass(frozen=True)
class Interrupted:
    """A run that did not pass, and what it had done."""

    header: RunHeader
    folder: str
    entries: Sequence[Entry]


class Run:
    """A run's folder in the state store."""

    def __init__(self, store: StateStore, header: RunHeader) -> None:
        self.store = store
        self.header = header
        started = header.started_at.strftime(STARTED)
        self.folder = f"{runs_folder(header.target)}/{started}-{header.id}"
        self.journal = Journal(store, self.folder)

    def begin(self, resumes: Interrupted | None, entries: Sequence[Entry]) -> None:
        """Make the run known, with the entries that it carries over.

        The journal comes first: a run that is known has all that it carries, and until then the
        one that it resumes is still the one to resume.

        Raises:
            StateStoreError: the store cannot be written.
        """
        self.journal.begin(entries)
        if resumes is not None:
            self.header = self.header.model_copy(
                update={"resumes": resumes.header.id, "oldest_at": resumes.header.begun_at}
            )
        self._write(self.header)
        if resumes is not None:
            ended = resumes.header.model_copy(update={"ended": "resumed"})
            self.store.write(f"{resumes.folder}/{HEADER}", ended.model_dump_json().encode())

    def end(self, ended: RunStatus) -> None:
        """Say how the run ended.

        Raises:
            StateStoreError: the store cannot be written.
        """
        self._write(self.header.model_copy(update={"ended": ended, "ended_at": datetime.now(UTC)}))

    def _write(self, header: RunHeader) -> None:
        self.store.write(f"{self.folder}/{HEADER}", header.model_dump_json().encode())


def runs_folder(target: str) -> str:
    """Folder of a target's runs in the state store."""
    return f"runs/{target}"


def interrupted_run(
    store: StateStore, target: str, parameters: Mapping[str, Any], within: timedelta, warn: Warn
) -> Interrupted | None:
    """The last run of a target, if it was killed or stopped and asked for the same.

    One whose header is damaged is not resumed, and neither is a run before it: what that one built
    may be out of date.

    Args:
        within: how long ago it may have begun: what an older one built is out of date.
    """
    try:
        last = last_run(store, target)
    except DamagedFile as error:
        warn(f"{error.what} The run starts over.\n  where: {error.where}")
        return None
    if last is None:
        return None
    folder, header = last
    if (
        header.ended not in INTERRUPTED
        or header.parameters != parameters
        or header.started_at < datetime.now(UTC) - within
    ):
        return None
    return Interrupted(header, folder, Journal.read(store, folder, warn))


def failed_run(store: StateStore, target: str, warn: Warn) -> Interrupted | None:
    """The last run of a target, unless it passed: it failed, was stopped, or was killed.

    Raises:
        DamagedFile: its header does not say what it was.
    """
    last = last_run(store, target)
    if last is None or last[1].ended == "passed":
        return None
    folder, header = last
    return Interrupted(header, folder, Journal.read(store, folder, warn))


def last_run(store: StateStore, target: str) -> tuple[str, RunHeader] | None:
    """Folder and header of the run that began last.

    Raises:
        DamagedFile: its header does not hold what it should. It is not set aside: that the run
            was there, and that nothing is known of it, is what the next one has to know.
    """
    for name in reversed(store.names(runs_folder(target))):
        folder = f"{runs_folder(target)}/{name}"
        header = store.load(f"{folder}/{HEADER}", _HEADER)
        if header is not None:
            return folder, header
    return None


def prune(store: StateStore, target: str, *, keep: int, keep_days: float) -> list[str]:
    """Remove the runs that are not among the last `keep`, or began more than `keep_days` ago.

    The last one always stays.

    Returns:
        The names of the removed folders.
    """
    names = store.names(runs_folder(target))
    limit = (datetime.now(UTC) - timedelta(days=keep_days)).strftime(STARTED)
    removed = [name for name in names[:-1] if name not in names[-keep:] or name < limit]
    for name in removed:
        store.remove(f"{runs_folder(target)}/{name}")
    return removed
