"""Check the project for one warehouse, in a process of its own: dbt's adapters are global."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infrastructure.ci.check_models.checker import Checker
from infrastructure.ci.check_models.compilation import ProjectCompiler, compile_in_dbt
from infrastructure.ci.check_models.engine import Engine
from infrastructure.ci.check_models.findings import CheckResult, Warehouse
from infrastructure.ci.check_models.places import Places
from infrastructure.ci.check_models.source_columns import SourceColumns
from prefect_flows.core.errors import MillraceError, ProjectError
from prefect_flows.core.profiles import Profile, read_profile_name
from prefect_flows.transform.session import DbtSession

TARGET = "check"
# Names in the SQL; nothing is looked up under them.
BIGQUERY = {
    "type": "bigquery", "method": "oauth", "project": "millrace-check", "dataset": "check",
    "threads": 1,
}  # fmt: skip
ANALYZER_FOLDER = "zetasql"


@dataclass(frozen=True)
class Job:
    """What to check.

    Attributes:
        dbt_dir: the dbt project.
        local_dir: folder for the scratch server, compiled analyzer and parsed projects.
        vars: dbt's `--vars`.
    """

    warehouse: Warehouse
    dbt_dir: Path
    local_dir: Path
    vars: Mapping[str, Any]


@dataclass(frozen=True)
class Failure:
    """An expected error in the process; errors of their own do not travel between processes."""

    kind: type[MillraceError]
    what: str
    where: str
    fix: str

    def raise_again(self) -> None:
        """Raise the error here."""
        raise self.kind(self.what, where=self.where, fix=self.fix)


@dataclass(frozen=True)
class Checked:
    """The result of a check, and the environment variables that the project reads."""

    result: CheckResult
    variables: tuple[str, ...]


def check_warehouse(job: Job) -> Checked | Failure:
    """Check the project for one warehouse."""
    try:
        return _check(job)
    except MillraceError as error:
        return Failure(type(error), error.what, error.where, error.fix)


def _check(job: Job) -> Checked:
    folder = job.local_dir / "check"
    with _open_engine(job, folder) as (engine, output):
        profile = Profile.from_output(read_profile_name(job.dbt_dir), TARGET, output)
        with DbtSession(job.dbt_dir, profile, folder / job.warehouse, job.vars) as session:
            _require_packages(session, job.dbt_dir)
            places = Places(job.dbt_dir, session.path_of)

            def check(compiler: ProjectCompiler) -> CheckResult:
                checker = Checker(compiler, engine, SourceColumns(job.warehouse), places)
                result = checker.run()
                get_lineage = getattr(engine, "get_lineage", None)
                if get_lineage is None:
                    return result
                return replace(result, lineage=get_lineage(checker.relations))

            assert session.manifest is not None  # noqa: S101 # parses the project first
            result = compile_in_dbt(session, engine, check)
            return Checked(result, tuple(sorted(session.manifest.env_vars)))


@contextmanager
def _open_engine(job: Job, folder: Path) -> Iterator[tuple[Engine, Mapping[str, Any]]]:
    """Open the engine; yield it and the output of a dbt profile for it."""
    if job.warehouse == "postgres":
        from infrastructure.ci.check_models.postgres_engine import scratch_database

        with scratch_database(folder) as (postgres, output):
            yield postgres, output
        return
    from infrastructure.ci.check_models.bigquery_engine import BigQueryEngine
    from infrastructure.ci.check_models.zetasql_client import start_client

    yield BigQueryEngine(start_client(job.local_dir / ANALYZER_FOLDER)), BIGQUERY


def _require_packages(session: DbtSession, dbt_dir: Path) -> None:
    """Refuse a project whose packages are not installed: the check needs no network."""
    if session.has_packages() and not (dbt_dir / "dbt_packages").is_dir():
        raise ProjectError(
            "dbt's packages are not installed.",
            where=str(dbt_dir / "dbt_packages"),
            fix=f"cd {dbt_dir.name} && uv run dbt deps",
        )
