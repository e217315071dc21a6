"""Check the project for one warehouse: start dbt and the engine, and check all nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from infrastructure.ci.check_models.checker import Checker
from infrastructure.ci.check_models.compilation import ProjectCompiler, compile_in_dbt
from infrastructure.ci.check_models.engine import Engine
from infrastructure.ci.check_models.findings import CheckResult
from infrastructure.ci.check_models.jobs import Checked, Job
from infrastructure.ci.check_models.places import Places
from infrastructure.ci.check_models.source_columns import SourceColumns
from prefect_flows.core.errors import ProjectError
from prefect_flows.core.profiles import Profile, read_profile_name
from prefect_flows.core.project_folder import enter_folder, find_project_dir
from prefect_flows.transform.lineage import get_checksums
from prefect_flows.transform.session import DbtSession

TARGET = "check"
# Names in the SQL; nothing is looked up under them.
BIGQUERY = {
    "type": "bigquery", "method": "oauth", "project": "millrace-check", "dataset": "check",
    "threads": 1,
}  # fmt: skip


def check(job: Job) -> Checked:
    """Check the project.

    Raises:
        MillraceError: the project does not parse, or Postgres does not start.
    """
    folder = job.local_dir / "check"
    with _open_engine(job, folder) as (engine, output):
        profile = Profile.from_output(read_profile_name(job.dbt_dir), TARGET, output)
        with DbtSession(job.dbt_dir, profile, folder / job.warehouse, job.vars) as session:
            _require_packages(session, job.dbt_dir)
            places = Places(job.dbt_dir, session.path_of)

            def work(compiler: ProjectCompiler) -> CheckResult:
                checker = Checker(compiler, engine, SourceColumns(job.warehouse), places)
                result = checker.run()
                get_lineage = getattr(engine, "get_lineage", None)
                if get_lineage is None:
                    return result
                return replace(result, lineage=get_lineage(checker.relations))

            manifest = session.manifest
            result = compile_in_dbt(session, engine, work)
            return Checked(result, tuple(sorted(manifest.env_vars)), get_checksums(manifest))


@contextmanager
def _open_engine(job: Job, folder: Path) -> Iterator[tuple[Engine, Mapping[str, Any]]]:
    """Open the engine; yield it and the output of a dbt profile for it."""
    if job.warehouse == "postgres":
        from infrastructure.ci.check_models.postgres_engine import scratch_database

        with scratch_database(folder) as (postgres, output):
            yield postgres, output
        return
    from infrastructure.ci.check_models.bigquery_engine import BigQueryEngine
    from infrastructure.ci.check_models.zetasql_client import ZetaSqlClient

    yield BigQueryEngine(ZetaSqlClient()), BIGQUERY


def _require_packages(session: DbtSession, dbt_dir: Path) -> None:
    """Refuse a project whose packages are not installed: the check needs no network."""
    if session.has_packages() and not (dbt_dir / "dbt_packages").is_dir():
        raise ProjectError(
            "dbt's packages are not installed.",
            where=str(dbt_dir / "dbt_packages"),
            fix=f"{enter_folder(dbt_dir, find_project_dir())}uv run dbt deps",
        )
