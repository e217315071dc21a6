"""Overview of all targets in the state store: history, incidents, reports, unfinished runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from prefect_flows.core.errors import StateStoreError
from prefect_flows.core.names import TARGET_PATTERN
from prefect_flows.state.incidents import Incident, load_open_incidents
from prefect_flows.state.run_summary import SUMMARY, RunOverview, TargetHistory, load_history
from prefect_flows.state.runs import RunHeader, get_last_run, runs_folder
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_state import DOCS, REPORT

# Targets are read concurrently, because each request to an object store takes long.
MAX_PARALLEL_TARGETS = 8


@dataclass(frozen=True)
class TargetOverview:
    """The state of a target.

    Attributes:
        history: the last runs; None before the first run.
        unfinished: header of the last run if it has no result: it still runs, or was killed.
        incidents: the open incidents, oldest first.
        folders: names of the run folders in the store.
        has_report: whether the target has a report.
        has_docs: whether the target has dbt documentation.
        faults: errors because of which some of this is missing.
    """

    target: str
    history: TargetHistory | None = None
    unfinished: RunHeader | None = None
    incidents: Sequence[Incident] = ()
    folders: frozenset[str] = frozenset()
    has_report: bool = False
    has_docs: bool = False
    faults: list[str] = field(default_factory=list)

    def get_report_url(self, run: RunOverview) -> str | None:
        """Return the path of a run's report in the store; None if it has none or was pruned."""
        if not run.has_report or run.folder not in self.folders:
            return None
        return f"{runs_folder(self.target)}/{run.folder}/{REPORT}"


def load_overviews(store: StateStore) -> list[TargetOverview]:
    """Load the overview of every target, by name; one that cannot be read is listed with its error.

    Raises:
        StateStoreError: the store cannot be listed.
    """
    names = [name for name in store.names("targets") if re.fullmatch(TARGET_PATTERN, name)]
    with ThreadPoolExecutor(MAX_PARALLEL_TARGETS) as pool:
        return list(pool.map(lambda name: load_overview(store, name), names))


def load_overview(store: StateStore, target: str) -> TargetOverview:
    """Load the overview of one target."""
    faults: list[str] = []
    past, unfinished, incidents = None, None, list[Incident]()
    folders, files = list[str](), list[str]()
    try:
        files = store.names(f"targets/{target}")
        folders = store.names(runs_folder(target))
        past = load_history(store, target)
        unfinished = _unfinished(store, target, past)
    except StateStoreError as error:
        faults.append(str(error))
    try:
        incidents = load_open_incidents(store, target)
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
    found = get_last_run(store, target)
    if found is None:
        return None
    folder, header = found
    if header.ended is not None or SUMMARY in store.names(folder):
        return None
    if past is not None and past.last.started_at >= header.started_at:
        return None
    return header
