"""Each seeded mistake is reported at its place, on each warehouse that has something against it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from infrastructure.ci.check_models.check import check_project
from infrastructure.ci.check_models.findings import CheckResult, Finding
from infrastructure.local import postgres
from tests.support.embedded_postgres import empty_database
from tests.support.project import Project, shared_folder
from tests.support.sql_mistakes import MISTAKES, Mistake, write_project

# What a run does not notice: it never runs analyses, and accepts columns that only YAML knows.
NOT_SEEN_BY_A_RUN = {"analysis", "documented_column", "later_run"}


def check(folder: Path, warehouse: str) -> CheckResult:
    write_project(folder / "dbt")
    return check_project(folder / "dbt", folder / ".local", {}, (warehouse,))


@pytest.fixture(scope="session")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> CheckResult:
    return check(tmp_path_factory.mktemp("mistakes"), "postgres")


@pytest.fixture(scope="session")
def on_bigquery(tmp_path_factory: pytest.TempPathFactory, analyzer_cache: Path) -> CheckResult:
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / ".local").mkdir()
    (folder / ".local" / "zetasql").symlink_to(analyzer_cache)
    return check(folder, "bigquery")


def assert_reported(mistake: Mistake, warehouse: str, result: CheckResult) -> None:
    place = mistake.place(warehouse)
    assert place is not None
    file, line, column = place
    found = [each for each in result.findings if Path(each.place.file).stem == mistake.name]
    assert [str(each.place) for each in found] == [f"dbt/{file}:{line}:{column}"]
    assert mistake.says[warehouse] in found[0].message
    assert mistake.suggests in found[0].suggestion


def list_of(warehouse: str) -> list[Mistake]:
    return [mistake for mistake in MISTAKES if mistake.place(warehouse)]


def others(warehouse: str, result: CheckResult) -> list[Finding]:
    """Findings that no mistake explains."""
    names = [mistake.name for mistake in list_of(warehouse)]
    return [found for found in result.findings if Path(found.place.file).stem not in names]


@pytest.mark.parametrize("mistake", list_of("postgres"), ids=lambda mistake: mistake.name)
def test_postgres_reports_a_mistake(mistake: Mistake, on_postgres: CheckResult) -> None:
    assert_reported(mistake, "postgres", on_postgres)


@pytest.mark.bigquery
@pytest.mark.parametrize("mistake", list_of("bigquery"), ids=lambda mistake: mistake.name)
def test_bigquery_reports_a_mistake(mistake: Mistake, on_bigquery: CheckResult) -> None:
    assert_reported(mistake, "bigquery", on_bigquery)


def test_postgres_reports_nothing_else(on_postgres: CheckResult) -> None:
    assert len(list_of("postgres")) >= 30
    assert others("postgres", on_postgres) == []


@pytest.mark.bigquery
def test_bigquery_reports_nothing_else(on_bigquery: CheckResult) -> None:
    assert len(list_of("bigquery")) >= 30
    assert others("bigquery", on_bigquery) == []


@pytest.fixture(scope="module")
def run_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Status of each node in a real run, by name."""
    folder = tmp_path_factory.mktemp("run")
    write_project(folder / "dbt")
    project = Project(folder)
    local = shared_folder(tmp_path_factory, "run_of_mistakes")
    server = postgres.start(local)
    try:
        with empty_database(server) as warehouse:
            output = dict(warehouse.profile.output) | {"password": ""}
            profiles = {"millrace": {"target": "dev", "outputs": {"dev": output}}}
            (folder / "dbt" / "profiles.yml").write_text(yaml.safe_dump(profiles))
            statuses: dict[str, str] = {}
            for command in ("seed", "run", "test"):
                done = project.dbt("--quiet", command)
                assert command != "seed" or done.returncode == 0, done.stdout + done.stderr
                document = json.loads((folder / "dbt/target/run_results.json").read_text())
                statuses |= {each["unique_id"]: each["status"] for each in document["results"]}
            yield statuses
    finally:
        postgres.stop(local)


@pytest.mark.models
@pytest.mark.parametrize(
    "mistake",
    [each for each in list_of("postgres") if each.name not in NOT_SEEN_BY_A_RUN],
    ids=lambda mistake: mistake.name,
)
def test_a_run_fails_on_it_too(mistake: Mistake, run_results: dict[str, str]) -> None:
    assert "error" in {
        status for unique_id, status in run_results.items() if mistake.name in unique_id
    }
