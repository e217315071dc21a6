"""Files of a target: manifest and hashes for `--changed`, partial parse, timings, pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from prefect_flows.core.files import Warn
from prefect_flows.state.store import StateStore

# Timings of this many runs are stored.
RUNS_OF_TIMINGS = 10

PARTIAL_PARSE = "partial_parse.msgpack"
MANIFEST = "manifest.json"
HASHES = "hashes.json"
VARIABLES = "variables.json"
RUN_RESULTS = "run_results.json"
SOURCES = "sources.json"
REPORT = "report.html"
DOCS = "docs.html"
TIMINGS = "timings.json"

_HASHES = TypeAdapter(dict[str, str])
_TIMINGS = TypeAdapter(list[dict[str, float]])


class ManifestShape(BaseModel):
    """The fields that every dbt manifest has; dbt validates the rest."""

    metadata: dict[str, Any]
    nodes: dict[str, dict[str, Any]]
    sources: dict[str, dict[str, Any]]
    macros: dict[str, dict[str, Any]]
    child_map: dict[str, list[str]]
    parent_map: dict[str, list[str]]


MANIFEST_KIND = TypeAdapter(ManifestShape)


class ResultEntry(BaseModel):
    """The fields that are read from an entry of dbt's `run_results.json`."""

    unique_id: str
    status: str
    execution_time: float
    adapter_response: dict[str, Any] | None = None


class RunResultsShape(BaseModel):
    """The fields that are read from dbt's `run_results.json`."""

    results: list[ResultEntry]


RUN_RESULTS_KIND = TypeAdapter(RunResultsShape)


class TargetState:
    """The folder of a target in the state store.

    Every method raises `StateStoreError` if the store cannot be read or written.

    Args:
        store: the state store.
        target: name of the target.
        target_path: dbt's target path on this machine.
        parsed_dir: folder of the image with the partial parse of its build; None outside images.
    """

    def __init__(
        self, store: StateStore, target: str, target_path: Path, parsed_dir: Path | None = None
    ) -> None:
        self.store = store
        self.folder = f"targets/{target}"
        self._target_path = target_path
        self._parsed_by_image = None if parsed_dir is None else parsed_dir / target / PARTIAL_PARSE

    def restore_partial_parse(self) -> bool:
        """Copy the image's partial parse to a target path without one; return whether it did.

        The partial parse never comes from the state store: it contains the code of models and
        macros, so an account that can write the store could inject code (decision 14).
        """
        file = self._target_path / PARTIAL_PARSE
        if file.exists() or self._parsed_by_image is None or not self._parsed_by_image.exists():
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._parsed_by_image, file)
        return True

    def last_good(self, warn: Warn) -> Path | None:
        """Return a local folder with the manifest of the last good run; None before the first."""
        path = f"{self.folder}/{MANIFEST}"
        if self.store.load(path, MANIFEST_KIND, warn) is None:
            return None
        if self.store.folder is not None:
            return self.store.folder / self.folder
        folder = self._target_path / "last_good"
        self.store.fetch(path, folder / MANIFEST)
        return folder

    def last_good_hashes(self, warn: Warn) -> dict[str, str] | None:
        """Load node id → hash at the last good run; None before the first one."""
        return self.store.load(f"{self.folder}/{HASHES}", _HASHES, warn)

    def last_good_variables(self) -> dict[str, str]:
        """Load node id → hash of its variables at the last good run; empty before the first."""
        return self.store.load(f"{self.folder}/{VARIABLES}", _HASHES) or {}

    def save_last_good(self, hashes: Mapping[str, str], variables: Mapping[str, str]) -> None:
        """Save the manifest and hashes that `--changed` and pull requests compare with.

        The hashes are written last. If the process is killed before that, the hashes of an older
        run mark too many nodes as changed, but never too few.
        """
        self.save(MANIFEST)
        self.write(VARIABLES, json.dumps(dict(variables)).encode())
        self.write(HASHES, json.dumps(dict(hashes)).encode())

    def save(self, name: str, as_name: str | None = None) -> None:
        """Save one of dbt's artifacts, if dbt has written it."""
        self.store.put(self._target_path / name, f"{self.folder}/{as_name or name}")

    def write(self, name: str, data: bytes) -> None:
        """Save a file with the given content."""
        self.store.write(f"{self.folder}/{name}", data)

    def timings(self, warn: Warn | None = None) -> list[dict[str, float]]:
        """Load node id → seconds for each of the last runs, oldest first."""
        return self.store.load(f"{self.folder}/{TIMINGS}", _TIMINGS, warn) or []

    def add_timings(self, before: list[dict[str, float]], seconds: Mapping[str, float]) -> None:
        """Save the timings of this run with those of the last ones."""
        kept = [*before, dict(seconds)][-RUNS_OF_TIMINGS:]
        self.write(TIMINGS, json.dumps(kept).encode())
