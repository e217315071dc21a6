"""The journal of a run (JSON Lines): each result as it comes, so that a killed run can resume.

Each line is a JSON object: a node with its result, or a stage with its record. An entry is complete
if its line ends; a line that a kill cut off is ignored. A corrupt line is skipped with a warning,
and its node or stage runs again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from prefect_flows.core.errors import CorruptFileError, StateStoreError
from prefect_flows.core.files import Warn, parse_json_file
from prefect_flows.state.store import StateStore

Entry = Mapping[str, Any]


class NodeEntry(BaseModel):
    """A node with the hash of its code and its result."""

    node: str
    code: str
    result: dict[str, Any]


class StageEntry(BaseModel):
    """A stage that passed, with its record."""

    stage: str
    record: dict[str, Any]


_ENTRY: TypeAdapter[NodeEntry | StageEntry] = TypeAdapter(NodeEntry | StageEntry)


class Journal:
    """The journal of one run.

    Args:
        store: the state store.
        folder: the run's folder in it.

    Attributes:
        failure: the error if an entry could not be written. The run continues without a journal,
            and reports this at its end.
    """

    def __init__(self, store: StateStore, folder: str) -> None:
        self.failure: StateStoreError | None = None
        self._store = store
        self._path = f"{folder}/journal.jsonl"
        self._part = 0

    def begin(self, entries: Iterable[Entry]) -> None:
        """Write the entries of the run that this one resumes, which may be none.

        Raises:
            StateStoreError: the store cannot be written.
        """
        self._store.append(self._path, _lines(entries), self._part)

    def add(self, entries: Iterable[Entry]) -> None:
        """Append entries; they are on disk when this returns, unless `failure` is set."""
        if self.failure is not None:
            return
        self._part += 1
        try:
            self._store.append(self._path, _lines(entries), self._part)
        except StateStoreError as error:
            self.failure = error

    @staticmethod
    def read(store: StateStore, folder: str, warn: Warn) -> list[Entry]:
        """Read all complete entries of a run's journal, oldest first."""
        entries: list[Entry] = []
        for name in store.names(folder):
            if not (name.startswith("journal") and name.endswith(".jsonl")):
                continue
            lines = (store.read(f"{folder}/{name}") or b"").splitlines(keepends=True)
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):  # the run was killed while it wrote the line
                    continue
                where = f"{store.url}/{folder}/{name}, line {number}"
                try:
                    entry = parse_json_file(line, _ENTRY, where=where, fix="")
                    entries.append(entry.model_dump())
                except CorruptFileError as error:
                    warn(f"{error.what} The line was skipped.\n  where: {where}")
        return entries


def _lines(entries: Iterable[Entry]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
