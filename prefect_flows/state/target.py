"""A target's files in the state store: what the next run starts from, and what people look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

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
        self._parsed: tuple[int, int] | None = None

    def bring_partial_parse(self) -> str | None:
        """Bring dbt's parsed project to a machine that has none; says from where it was brought."""
        file = self._target_path / PARTIAL_PARSE
        brought = None
        if not file.exists():
            if self.store.fetch(f"{self.folder}/{PARTIAL_PARSE}", file):
                brought = "the state store"
            elif self._of_image is not None and self._of_image.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._of_image, file)
                brought = "the image"
        self._parsed = _stamp(file)
        return brought

    def keep_partial_parse(self) -> None:
        """Put the parsed project back, where the run's parse changed it or the store has none."""
        file = self._target_path / PARTIAL_PARSE
        if _stamp(file) != self._parsed or PARTIAL_PARSE not in self.store.names(self.folder):
            self.store.put(file, f"{self.folder}/{PARTIAL_PARSE}")

    def last_good(self) -> Path | None:
        """A folder of this machine with the manifest of the last good run; none before it."""
        if self.store.folder is not None:
            folder = self.store.folder / self.folder
        else:
            folder = self._target_path / "last_good"
            self.store.fetch(f"{self.folder}/{MANIFEST}", folder / MANIFEST)
        return folder if (folder / MANIFEST).exists() else None

    def last_good_hashes(self) -> dict[str, str] | None:
        """The hash of each node as the last good run had it; none before it."""
        data = self.store.read(f"{self.folder}/{HASHES}")
        return dict(json.loads(data)) if data is not None else None

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

    def timings(self) -> list[dict[str, float]]:
        """Seconds of each node in each of the last runs, oldest first: node's id → seconds."""
        data = self.store.read(f"{self.folder}/{TIMINGS}")
        return list(json.loads(data)) if data is not None else []

    def add_timings(self, before: list[dict[str, float]], seconds: Mapping[str, float]) -> None:
        """Keep the times of this run with those of the last ones."""
        kept = [*before, dict(seconds)][-RUNS_OF_TIMINGS:]
        self.write(TIMINGS, json.dumps(kept).encode())


def _stamp(file: Path) -> tuple[int, int] | None:
    if not file.exists():
        return None
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size
