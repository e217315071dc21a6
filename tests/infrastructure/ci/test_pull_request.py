"""Real changes of the project's own models, built beside the quickstart's tables and compared."""

from __future__ import annotations

import concurrent.futures
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import REPOSITORY, Project, Quickstart, neighbour
from tests.support.pull_requests import PullRequest, cells, rows

pytestmark = pytest.mark.pull_requests

DROPPED = """\
      - name: distance_miles
        description: >
          Miles between the airports. Eagle (EGE) was recorded with two distances one mile apart
          from Newark and from Kennedy; this is the longer one.
        data_type: integer
"""
ADDED = """\
        data_tests: [not_null]
      - name: carrier_name_letters
        description: Letters of the name.
        data_type: integer
        data_tests:
          - accepted_values:
              arguments: {values: [16, 17], quote: false}
"""
NEW = """\
select
    manufacturer,
    count(*) as planes
from {{ ref('dim_planes') }}
group by manufacturer
"""
NEW_PROPERTIES = """\
models:
  - name: dim_manufacturers
    description: Makers of planes. One row per manufacturer.
    columns:
      - {name: manufacturer, data_type: string, data_tests: [unique]}
      - {name: planes, data_type: bigint}
"""


@pytest.fixture(scope="module")
def project(quickstart: Quickstart) -> Project:
    """The project with all tables that the quickstart makes."""
    return quickstart.project


@pytest.fixture(scope="module")
def pull_request(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PullRequest]:
    """A clone of the project whose target is a role of its own, which may only read elsewhere."""
    folder = tmp_path_factory.mktemp("pull_request") / "millrace"
    clone = neighbour(project, folder, REPOSITORY / "dbt")
    clone.patience = 600  # one build waits for another
    project.query("drop schema if exists ci_7 cascade")
    project.query("drop role if exists pull_requests")
    project.query("create role pull_requests login")
    grants(project)
    outputs = folder / "outputs.json"
    target = project.dev | {"schema": "ci", "user": "pull_requests"}
    targets = {"dev": project.dev, "ci": target}
    outputs.write_text(json.dumps({"dbt_targets": {"value": targets}}))
    done = clone.setup("--outputs", str(outputs), "--target", "ci")
    assert done.returncode == 0, done.stdout + done.stderr
    yield PullRequest(clone, 7, "ci", "dev", str(project.local / "state"))
    project.query("drop schema if exists ci_7 cascade")
    project.query("drop owned by pull_requests")
    project.query("drop role pull_requests")


def grants(project: Project) -> None:
    """What documentation/pull_requests.md gives the role."""
    text = (REPOSITORY / "documentation" / "pull_requests.md").read_text()
    (block,) = (b for b in text.split("```sql\n")[1:] if "grant create on database" in b)
    statements = block.partition("```")[0]
    project.query(statements)


@pytest.fixture
def clean(pull_request: PullRequest) -> PullRequest:
    """Nothing changed yet."""
    shutil.rmtree(pull_request.dbt)
    shutil.copytree(REPOSITORY / "dbt", pull_request.dbt, ignore=shutil.ignore_patterns("target"))
    return pull_request


def relations(project: Project, schema: str) -> set[str]:
    found = project.query(
        f"select table_name from information_schema.tables where table_schema = '{schema}'"
    )
    return {name for (name,) in found}


def change_everything(pull_request: PullRequest) -> None:
    edit = pull_request.edit
    marts = "models/marts"
    # The logic of the fact: some rows less, and other values in a column.
    edit(f"{marts}/core/fct_flights.sql", "        tail_number,\n",
         "        case when flight_number <> 1 then tail_number end as tail_number,\n")  # fmt: skip
    edit(f"{marts}/core/fct_flights.sql", "    from flights\n",
         "    from flights\n    where flight_number <> 2 or flight_number is null\n")  # fmt: skip
    # A column less, which breaks a contract, and one more, of which a test fails.
    edit(f"{marts}/performance/agg_route_performance.sql", "        by_route.distance_miles,\n", "")
    edit(f"{marts}/performance/agg_route_performance.yml", DROPPED, "")
    letters = "        carrier_name,\n        length(carrier_name) as carrier_name_letters\n"
    edit(f"{marts}/core/dim_airlines.sql", "        carrier_name\n", letters)
    edit(f"{marts}/core/dim_airlines.yml", "        data_tests: [not_null]\n", ADDED)
    # A model more, and one less.
    (pull_request.dbt / marts / "core" / "dim_manufacturers.sql").write_text(NEW)
    (pull_request.dbt / marts / "core" / "dim_manufacturers.yml").write_text(NEW_PROPERTIES)
    for suffix in ("sql", "yml"):
        (pull_request.dbt / marts / "performance" / f"agg_delay_by_weather.{suffix}").unlink()
    edit(f"{marts}/_exposures.yml", "      - ref('agg_delay_by_weather')\n", "")
    file = pull_request.dbt / "tests/marts/assert_aggregates_count_every_flight.sql"
    before, _, rest = file.read_text().partition(
        "    union all\n\n    select\n        {{ dbt.concat"
    )
    file.write_text(before + rest.partition("group by weather_measure\n")[2])


def test_every_kind_of_change_is_built_compared_and_commented(
    clean: PullRequest, project: Project
) -> None:
    production = relations(project, "dev_marts")
    before = project.query("select count(*), sum(distance_miles) from dev_marts.fct_flights")
    change_everything(clean)

    build = clean.build(code=1)

    # Only what differs, and what depends on it, in one schema; the rest was read from production.
    assert relations(project, "ci_7") == {
        "agg_carrier_performance_monthly", "agg_route_performance", "dim_airlines",
        "dim_manufacturers", "fct_flights",
    }  # fmt: skip
    changes = {each["unique_id"].split(".")[2]: each["change"] for each in build["nodes"]}
    assert changes == {
        "agg_carrier_performance_monthly": "downstream",
        "agg_delay_by_weather": "removed",
        "agg_route_performance": "modified",
        "dim_airlines": "modified",
        "dim_manufacturers": "new",
        "fct_flights": "modified",
    }
    assert build["outcome"] == "failed"
    failed = {failure["name"] for failure in build["failures"]}
    assert failed == {
        "accepted_values_dim_airlines_carrier_name_letters__False__16__17",
        # 51 flights less than staging has, and 700 without their tail number.
        "assert_fct_flights_matches_staging",
    }
    assert set(build["contract_breaks"]) == {"agg_route_performance", "agg_delay_by_weather"}
    assert "distance_miles" in build["contract_breaks"]["agg_route_performance"][0]

    comment, found = clean.compare()

    # The truth, asked apart from all of the above.
    ((less,),) = project.query("select count(*) from dev_marts.fct_flights where flight_number = 2")
    ((other,),) = project.query(
        "select count(tail_number) from dev_marts.fct_flights where flight_number = 1"
    )
    assert (less, other) == (51, 700)
    assert rows(found["fct_flights"]) == (336_776, 336_776 - less, 0, less, other)
    assert found["fct_flights"]["changed_by_column"] == {"tail_number": other}
    assert found["fct_flights"]["skipped_columns"] == ["_loaded_at"]
    assert found["fct_flights"]["key"] == ["flight_id"]
    assert "incremental" in found["fct_flights"]["notes"][0]
    assert rows(found["dim_airlines"]) == (16, 16, 0, 0, 0)
    assert found["dim_airlines"]["columns_added"] == {"carrier_name_letters": "integer"}
    assert found["agg_route_performance"]["columns_removed"] == {"distance_miles": "integer"}
    assert found["dim_manufacturers"]["rows_after"] == 36
    # Averages that nothing changed do not differ in their last digits.
    assert rows(found["agg_carrier_performance_monthly"])[:4] == (185, 185, 0, 0)
    assert 0 < found["agg_carrier_performance_monthly"]["changed"] < 10

    assert comment.startswith("<!-- millrace pull request -->\n## 2 failures; 6 models")
    assert cells(comment, "fct_flights")[1:6] == [
        "modified: code", "336,776 → 336,725", "0", "51", "700",
    ]  # fmt: skip
    assert cells(comment, "dim_manufacturers")[1:3] == ["new", "36"]
    assert cells(comment, "agg_delay_by_weather")[1] == "removed"
    assert "**agg\\_route\\_performance**: Columns were removed:" in comment
    assert "| value\\_field | n\\_records |" in comment
    assert "```mermaid\nflowchart LR\n" in comment
    assert str(clean.project.folder) not in comment

    # Production is as it was.
    assert relations(project, "dev_marts") == production
    assert project.query("select count(*), sum(distance_miles) from dev_marts.fct_flights") == (
        before
    )


@pytest.mark.nightly
def test_a_second_push_leaves_only_what_it_changes_itself(
    clean: PullRequest, project: Project
) -> None:
    # GIVEN what the first push left
    change_everything(clean)
    clean.build(code=1)
    shutil.rmtree(clean.dbt)
    shutil.copytree(REPOSITORY / "dbt", clean.dbt)
    # WHEN the next one changes a view alone, in a way that changes no row
    path = "models/staging/nyc__flights/stg_nyc__flights__airlines.sql"
    file = clean.dbt / path
    file.write_text(file.read_text().rstrip() + "\n-- a remark\n")
    build = clean.build()
    # THEN nothing of the first is left, and its dim_airlines was not read either
    assert relations(project, "ci_7") == {
        "stg_nyc__flights__airlines", "dim_airlines", "agg_carrier_performance_monthly",
    }  # fmt: skip
    assert build["outcome"] == "passed"
    comment, found = clean.compare()
    assert all(rows(each)[2:] == (0, 0, 0) for each in found.values())
    assert "3 do not differ" in comment
    assert "Failures" not in comment
    # AND a push that changes nothing leaves no schema
    file.write_text((REPOSITORY / "dbt" / path).read_text())
    assert clean.build()["outcome"] == "nothing"
    assert project.query("select 1 from pg_namespace where nspname = 'ci_7'") == []
    assert "## No model differs from production" in clean.compare()[0]


@pytest.mark.nightly
def test_two_builds_at_once_do_not_meet_in_the_schema(clean: PullRequest, project: Project) -> None:
    clean.edit("models/marts/core/dim_airlines.sql", "        carrier_name\n",
               "        upper(carrier_name) as carrier_name\n")  # fmt: skip
    # A second clone of the same pull request, as another runner has it.
    clone = neighbour(project, clean.project.folder.parent / "other", clean.dbt)
    clone.patience = clean.project.patience
    other = PullRequest(clone, 7, "ci", "dev", clean.state_url)
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        builds = list(threads.map(lambda each: each.build(), (clean, other)))
    first, last = sorted(builds, key=lambda build: build["seconds"])
    assert {build["outcome"] for build in builds} == {"passed"}
    assert {build["tests"]["pass"] for build in builds} == {14}
    assert first["id"] != last["id"]
    ((mark,),) = project.query(
        "select obj_description(oid) from pg_namespace where nspname = 'ci_7'"
    )
    # What the schema holds is the last one's, and a comparison of the other is refused.
    assert json.loads(mark)["build"] == last["id"]
    overtaken = clean if builds[0] is first else other
    output = str(Path(overtaken.project.folder) / "comment.md")
    done = overtaken.run("compare", *overtaken.arguments("--output", output))
    assert done.returncode == 2
    assert "ConfigurationError: The schema ci_7 was built again at" in done.stderr
    assert clean.close().stdout.strip() == "ci_7: dropped"
    assert not clean.folder.exists()
