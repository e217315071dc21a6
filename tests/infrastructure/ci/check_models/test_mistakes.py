"""Each seeded mistake is reported at its place, on each warehouse that has something against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from infrastructure.ci.check_models.check import check_project
from infrastructure.ci.check_models.findings import CheckResult, Finding
from infrastructure.local import postgres
from prefect_flows.core.environment import set_variables
from tests.support.bigquery.emulator import BigQuery
from tests.support.embedded_postgres import empty_database
from tests.support.project import Project, shared_folder
from tests.support.sql_mistakes import MISTAKES, Mistake, write_project

# dbt runs no analyses.
NOT_RUN = {"analysis"}
# What BigQuery refuses, and the emulator does not, which is DuckDB: Google's analyzer judges alone.
ACCEPTED_BY_THE_EMULATOR = {
    "column_without_name", "date_against_timestamp", "function_of_postgres", "in_of_types",
    "integer_against_text", "join_of_types", "reserved_word", "type_of_postgres", "union_of_types",
    "where_is_no_condition",
}  # fmt: skip


def check(folder: Path, warehouse: str) -> CheckResult:
    write_project(folder / "dbt")
    # Places are those of a person's project.
    with set_variables({"MILLRACE_PROJECT_DIR": str(folder)}):
        return check_project(folder / "dbt", folder / ".local", {}, (warehouse,))


@pytest.fixture(scope="session")
def on_postgres(tmp_path_factory: pytest.TempPathFactory) -> CheckResult:
    return check(tmp_path_factory.mktemp("mistakes"), "postgres")


@pytest.fixture(scope="session")
def on_bigquery(tmp_path_factory: pytest.TempPathFactory) -> CheckResult:
    return check(tmp_path_factory.mktemp("mistakes"), "bigquery")


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
    assert len(list_of("postgres")) >= 40
    assert others("postgres", on_postgres) == []


@pytest.mark.bigquery
def test_bigquery_reports_nothing_else(on_bigquery: CheckResult) -> None:
    assert len(list_of("bigquery")) >= 40
    assert others("bigquery", on_bigquery) == []


def find_failures(project: Project, **environment: str) -> set[str]:
    """Run the project; return the unique ids of the nodes whose SQL the warehouse refuses."""
    failed = set[str]()
    # The second run of the incremental model finds the table of the first.
    for command in (["seed"], ["run"], ["run", "--select", "later_run"], ["test"]):
        done = project.dbt("--quiet", *command, **environment)
        assert command != ["seed"] or done.returncode == 0, done.stdout + done.stderr
        document = json.loads((project.folder / "dbt/target/run_results.json").read_text())
        failed |= {each["unique_id"] for each in document["results"] if each["status"] == "error"}
    return failed


def write_profile(folder: Path, output: Mapping[str, object]) -> Project:
    write_project(folder / "dbt")
    profiles = {"millrace": {"target": "dev", "outputs": {"dev": dict(output)}}}
    (folder / "dbt" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    return Project(folder)


def is_refused(mistake: Mistake, failed: set[str]) -> bool:
    """Whether the node of a mistake failed, or a test of its model."""
    return any(
        mistake.name in unique_id if kind == "test" else mistake.name == name
        for unique_id in failed
        for kind, _, name, *_ in [unique_id.split(".")]
    )


@pytest.fixture(scope="module")
def failed_on_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    local = shared_folder(tmp_path_factory, "run_of_mistakes")
    server = postgres.start(local)
    try:
        with empty_database(server) as warehouse:
            output = dict(warehouse.profile.output) | {"password": ""}
            yield find_failures(write_profile(tmp_path_factory.mktemp("run"), output))
    finally:
        postgres.stop(local)


@pytest.mark.models
@pytest.mark.parametrize(
    "mistake",
    [each for each in list_of("postgres") if each.name not in NOT_RUN],
    ids=lambda mistake: mistake.name,
)
def test_a_run_fails_on_it_too(mistake: Mistake, failed_on_postgres: set[str]) -> None:
    assert is_refused(mistake, failed_on_postgres)


def test_the_emulator_fails_on_them_too(bigquery: BigQuery, tmp_path: Path) -> None:
    login = {"method": "oauth-secrets", "token": "made-up", "job_retries": 0}
    project = write_profile(tmp_path, bigquery.target("mistakes") | login)
    failed = find_failures(project, **bigquery.environment)
    accepted = {each.name for each in list_of("bigquery") if not is_refused(each, failed)}
    assert accepted == NOT_RUN | ACCEPTED_BY_THE_EMULATOR
