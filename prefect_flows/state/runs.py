"""Run headers (`run.json`) in the state store: parameters, status, which run to resume, pruning."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter

from prefect_flows.core.errors import CorruptFileError
from prefect_flows.core.files import Warn
from prefect_flows.core.passwords import redact
from prefect_flows.state.journal import Entry, Journal
from prefect_flows.state.store import StateStore

RunStatus = Literal["passed", "failed", "cancelled", "timed out"]

# Statuses of a run that can be resumed; None: it was killed, or still runs.
RESUMABLE: frozenset[str | None] = frozenset({None, "cancelled", "timed out"})


class RunHeader(BaseModel):
    """The content of a run's `run.json`.

    Attributes:
        id: the flow run's id; without Prefect, a random one.
        parameters: the parameters, without passwords in URLs. Only a run with equal parameters
            resumes this one.
        url: URL of the flow run; None without Prefect.
        host: name of the machine.
        process: id of the process.
        ended: how the run ended; None while it runs and after it was killed; `resumed` if another
            run has resumed it.
        resumes: id of the run that this one resumed.
        oldest_at: when the first run in the chain of resumed runs started, UTC; None if this run
            resumed no other.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    target: str
    parameters: Annotated[Mapping[str, Any], AfterValidator(redact)]
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
        """When the run, or the first of those that it resumed, started, UTC."""
        return self.oldest_at or self.started_at


HEADER = "run.json"
_HEADER = TypeAdapter(RunHeader)

# Names of run folders begin with this, so that they sort by time.
FOLDER_TIME_FORMAT = "%Y%m%dT%H%M%S.%f"


@dataclass(frozen=True)
class ResumableRun:
    """A run that did not pass, with its journal."""

    header: RunHeader
    folder: str
    entries: Sequence[Entry]


class Run:
    """A run in the state store: its folder, header and journal."""

    def __init__(self, store: StateStore, header: RunHeader) -> None:
        self.store = store
        self.header = header
        started = header.started_at.strftime(FOLDER_TIME_FORMAT)
        self.folder = f"{runs_folder(header.target)}/{started}-{header.id}"
        self.journal = Journal(store, self.folder)

    def begin(self, resumes: ResumableRun | None, entries: Sequence[Entry]) -> None:
        """Write the journal and the header of a run that starts.

        The journal is written first. If the process is killed before the header is written, the
        next run still resumes the previous run.

        Args:
            resumes: the run that this one resumes.
            entries: journal entries of that run that are still valid.

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
        """Write how the run ended into its header.

        Raises:
            StateStoreError: the store cannot be written.
        """
        self._write(self.header.model_copy(update={"ended": ended, "ended_at": datetime.now(UTC)}))

    def _write(self, header: RunHeader) -> None:
        self.store.write(f"{self.folder}/{HEADER}", header.model_dump_json().encode())


def runs_folder(target: str) -> str:
    """Return the folder of a target's runs in the state store."""
    return f"runs/{target}"


def find_interrupted_run(
    store: StateStore, target: str, parameters: Mapping[str, Any], within: timedelta, warn: Warn
) -> ResumableRun | None:
    """Return the last run of a target if it was interrupted and had the same parameters.

    If its header is corrupt, no run is resumed: results of an earlier run may be out of date.

    Args:
        store: the state store.
        target: name of the target.
        parameters: parameters of the new run.
        within: how long ago the run may have started; results of an older one are out of date.
        warn: is called with a message about a corrupt header or journal.
    """
    try:
        last = get_last_run(store, target)
    except CorruptFileError as error:
        warn(f"{error.what} The run starts over.\n  where: {error.where}")
        return None
    if last is None:
        return None
    folder, header = last
    if (
        header.ended not in RESUMABLE
        or header.parameters != parameters
        or header.started_at < datetime.now(UTC) - within
    ):
        return None
    return ResumableRun(header, folder, Journal.read(store, folder, warn))


def find_failed_run(store: StateStore, target: str, warn: Warn) -> ResumableRun | None:
    """Return the last run of a target if it did not pass: it failed, or was cancelled or killed.

    Raises:
        CorruptFileError: its header is corrupt.
    """
    last = get_last_run(store, target)
    if last is None or last[1].ended == "passed":
        return None
    folder, header = last
    return ResumableRun(header, folder, Journal.read(store, folder, warn))


def get_last_run(store: StateStore, target: str) -> tuple[str, RunHeader] | None:
    """Return the folder and header of the run that started last.

    Raises:
        CorruptFileError: its header is corrupt. It is not renamed: the next run has to know
            that there was a run of which nothing is known.
    """
    for name in reversed(store.names(runs_folder(target))):
        folder = f"{runs_folder(target)}/{name}"
        header = store.load(f"{folder}/{HEADER}", _HEADER)
        if header is not None:
            return folder, header
    return None


def prune(store: StateStore, target: str, *, keep: int, keep_days: float) -> list[str]:
    """Remove all runs but the last `keep`, and all that started more than `keep_days` days ago.

    The last run always stays.

    Returns:
        The names of the removed folders.
    """
    names = store.names(runs_folder(target))
    limit = (datetime.now(UTC) - timedelta(days=keep_days)).strftime(FOLDER_TIME_FORMAT)
    removed = [name for name in names[:-1] if name not in names[-keep:] or name < limit]
    for name in removed:
        store.remove(f"{runs_folder(target)}/{name}")
    return removed
