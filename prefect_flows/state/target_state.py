"""A target's files in the state store: what the next run starts from, and what people look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.state.store import StateStore

# How many runs a node's usual time is taken from.
RUNS_OF_TIMINGS = 10

PARTIAL_PARSE = "partial_parse.msgpack"
MANIFEST = "manifest.json"
HASHES = "hashes.json"
RUN_RESULTS = "run_results.json"
SOURCES = "sources.json"
REPORT = "report.html"
DOCS = "docs.html"
TIMINGS = "timings.json"

_HASHES = TypeAdapter(dict[str, str])
_TIMINGS = TypeAdapter(list[dict[str, float]])


class ManifestShape(BaseModel):
    """What every manifest of dbt has; the rest of it is dbt's to check."""

    metadata: dict[str, Any]
    nodes: dict[str, dict[str, Any]]
    sources: dict[str, dict[str, Any]]
    macros: dict[str, dict[str, Any]]
    child_map: dict[str, list[str]]
    parent_map: dict[str, list[str]]


MANIFEST_KIND = TypeAdapter(ManifestShape)


class ResultEntry(BaseModel):
    """What is read of an entry of dbt's `run_results.json`."""

    unique_id: str
    status: str
    execution_time: float
    adapter_response: dict[str, Any] | None = None


class RunResultsShape(BaseModel):
    """What is read of dbt's `run_results.json`."""

    results: list[ResultEntry]


RUN_RESULTS_KIND = TypeAdapter(RunResultsShape)


class TargetState:
    """The folder of a target.

    Every method raises `StateStoreError` when the store cannot be read or written.

    Args:
        target_path: dbt's folder of artifacts on this machine.
        parsed_dir: where the image holds the project as its build parsed it; none on a machine.
    """

    def __init__(
        self, store: StateStore, target: str, target_path: Path, parsed_dir: Path | None = None
    ) -> None:
        self.store = store
        self.folder = f"targets/{target}"
        self._target_path = target_path
        self._of_image = None if parsed_dir is None else parsed_dir / target / PARTIAL_PARSE

    def bring_partial_parse(self) -> bool:
        """Bring the parsed project of the image to a volume that has none; whether it was brought.

        Never from the state store: dbt takes the code of models and macros from a parsed project,
        and every account that can write the store could put its own code there (decision 14).
        """
        file = self._target_path / PARTIAL_PARSE
        if file.exists() or self._of_image is None or not self._of_image.exists():
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._of_image, file)
        return True

    def last_good(self, warn: Warn) -> Path | None:
        """A folder of this machine with the manifest of the last good run; none before it."""
        path = f"{self.folder}/{MANIFEST}"
        if self.store.load(path, MANIFEST_KIND, warn) is None:
            return None
        if self.store.folder is not None:
            return self.store.folder / self.folder
        folder = self._target_path / "last_good"
        self.store.fetch(path, folder / MANIFEST)
        return folder

    def last_good_hashes(self, warn: Warn) -> dict[str, str] | None:
        """The hash of each node as the last good run had it; none before it."""
        return self.store.load(f"{self.folder}/{HASHES}", _HASHES, warn)

    def keep_last_good(self, hashes: Mapping[str, str]) -> None:
        """Keep what the next run is compared with.

        The hashes come last: those of an older run tell too much to be changed, and never too
        little.
        """
        self.keep(MANIFEST)
        self.write(HASHES, json.dumps(dict(hashes)).encode())

    def keep(self, name: str, as_name: str | None = None) -> None:
        """Keep one of dbt's files, where it was written."""
        self.store.put(self._target_path / name, f"{self.folder}/{as_name or name}")

    def write(self, name: str, data: bytes) -> None:
        """Keep a file that is made here."""
        self.store.write(f"{self.folder}/{name}", data)

    def timings(self, warn: Warn | None = None) -> list[dict[str, float]]:
        """Seconds of each node in each of the last runs, oldest first: node's id → seconds."""
        return self.store.load(f"{self.folder}/{TIMINGS}", _TIMINGS, warn) or []

    def add_timings(self, before: list[dict[str, float]], seconds: Mapping[str, float]) -> None:
        """Keep the times of this run with those of the last ones."""
        kept = [*before, dict(seconds)][-RUNS_OF_TIMINGS:]
        self.write(TIMINGS, json.dumps(kept).encode())
