"""The journal of a run: each result, written as it comes, so that a killed run can be resumed.

One JSON object a line. An entry is complete when its line ends; what a kill cut off is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from prefect_flows.errors import StateStoreError
from prefect_flows.state.store import StateStore

Entry = Mapping[str, Any]


class Journal:
    """The journal of one run.

    Args:
        store: the state store.
        folder: the run's folder in it.

    Attributes:
        failure: why an entry could not be written, if so. The run goes on without a journal, and
            says so when it ends.
    """

    def __init__(self, store: StateStore, folder: str) -> None:
        self.failure: StateStoreError | None = None
        self._store = store
        self._path = f"{folder}/journal.jsonl"
        self._part = 0

    def begin(self, entries: Iterable[Entry]) -> None:
        """Write the entries that are carried over from a run that this one resumes.

        Raises:
            StateStoreError: the store cannot be written.
        """
        self._store.append(self._path, _lines(entries), self._part)

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries; they are safe when this returns."""
        if self.failure is not None:
            return
        self._part += 1
        try:
            self._store.append(self._path, _lines(entries), self._part)
        except StateStoreError as error:
            self.failure = error

    @staticmethod
    def read(store: StateStore, folder: str) -> list[Entry]:
        """Every complete entry of a run's journal, oldest first."""
        entries: list[Entry] = []
        for name in store.names(folder):
            if name.startswith("journal"):
                for line in (store.read(f"{folder}/{name}") or b"").splitlines(keepends=True):
                    entry = _entry(line)
                    if entry is not None:
                        entries.append(entry)
        return entries


def _lines(entries: Iterable[Entry]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def _entry(line: bytes) -> Entry | None:
    """The entry of a line; none for one that a kill cut off."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:  # the disk kept the end of a writing and lost its middle
        return None
    return entry if isinstance(entry, dict) else None
