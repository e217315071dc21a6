"""What the state store knows of every target: gathered from a few small files of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from prefect_flows.core.errors import StateStoreError
from prefect_flows.core.names import TARGET_PATTERN
from prefect_flows.state.incidents import Incident, open_incidents
from prefect_flows.state.run_summary import SUMMARY, RunLine, TargetHistory, history
from prefect_flows.state.runs import RunHeader, last_run, runs_folder
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_state import DOCS, REPORT

# Targets that are read side by side: an object store answers each question late.
AT_ONCE = 8


@dataclass(frozen=True)
class TargetOverview:
    """What is known of a target.

    Attributes:
        history: none before the first run that kept one.
        unfinished: the last run, if it has not said how it ended: it runs, or was killed.
        incidents: what is open, oldest first.
        folders: names of the runs' folders that are still kept.
        faults: why something of the above is not known.
    """

    target: str
    history: TargetHistory | None = None
    unfinished: RunHeader | None = None
    incidents: Sequence[Incident] = ()
    folders: frozenset[str] = frozenset()
    has_report: bool = False
    has_docs: bool = False
    faults: list[str] = field(default_factory=list)

    def report_of(self, run: RunLine) -> str | None:
        """Path of a run's report in the store; none where it has none, or it was removed."""
        if not run.has_report or run.folder not in self.folders:
            return None
        return f"{runs_folder(self.target)}/{run.folder}/{REPORT}"


def overview(store: StateStore) -> list[TargetOverview]:
    """Every target of the store, by name. One that cannot be read is there with its fault.

    Raises:
        StateStoreError: the store cannot be listed.
    """
    names = [name for name in store.names("targets") if re.fullmatch(TARGET_PATTERN, name)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda name: overview_of(store, name), names))


def overview_of(store: StateStore, target: str) -> TargetOverview:
    """What is known of one target."""
    faults: list[str] = []
    past, unfinished, incidents = None, None, list[Incident]()
    folders, files = list[str](), list[str]()
    try:
        files = store.names(f"targets/{target}")
        folders = store.names(runs_folder(target))
        past = history(store, target)
        unfinished = _unfinished(store, target, past)
    except StateStoreError as error:
        faults.append(str(error))
    try:
        incidents = open_incidents(store, target)
    except StateStoreError as error:
        faults.append(str(error))
    return TargetOverview(
        target=target,
        history=past,
        unfinished=unfinished,
        incidents=incidents,
        folders=frozenset(folders),
        has_report=REPORT in files,
        has_docs=DOCS in files,
        faults=faults,
    )


def _unfinished(store: StateStore, target: str, past: TargetHistory | None) -> RunHeader | None:
    found = last_run(store, target)
    if found is None:
        return None
    folder, header = found
    if header.ended is not None or SUMMARY in store.names(folder):
        return None
    if past is not None and past.last.started_at >= header.started_at:
        return None
    return header
