"""Google's SQL analyzer accepts each statement that dbt sends to BigQuery.

dbt runs the project on the analyzer: a first run with all tests, then the later runs that send
other statements. The tables of the sources have the types that dlt makes; those of the flights have
rows, so data tests and unit tests compare values that the analyzer computes.
"""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from prefect_flows.transform.test_batching.execution import MAX_TESTS
from prefect_flows.transform.test_batching.statement import (
    DataTest,
    build_statement,
    read_rows,
)
from tests.support.bigquery.analyzer import Analyzer, SqlError, start_analyzer
from tests.support.bigquery.analyzer_server import AnalyzerServer, Statement, serve_analyzer
from tests.support.bigquery.sample import load_sample
from tests.support.bigquery.stand_ins import PROJECT
from tests.support.project import NOT_IN_A_CLONE, REPOSITORY, Project

pytestmark = pytest.mark.bigquery

DATASET = "analyzed"
TEST_CONFIGS = ("fail_calc", "warn_if", "error_if", "limit")
NUMBERS = (PROJECT, "samples", "numbers")
# The names that BigQuery's API has for the types a contract declares.
API_TYPES = {"bigint": "INTEGER", "int64": "INTEGER", "float64": "FLOAT"}


@pytest.fixture(scope="module")
def analyzer() -> Analyzer:
    analyzer = start_analyzer()
    columns = {"number": "int64", "word": "string", "day": "date", "instant": "timestamp"}
    analyzer.add_table(NUMBERS, columns, [[1, "one", None, None]])
    load_sample(analyzer)
    return analyzer


@pytest.fixture(scope="module")
def server(analyzer: Analyzer) -> Iterator[AnalyzerServer]:
    with serve_analyzer(analyzer) as server:
        yield server


@pytest.fixture(scope="module")
def project(server: AnalyzerServer, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The dbt project with every source turned on, and a target on the analyzer."""
    project = Project(tmp_path_factory.mktemp("analyzer") / "millrace")
    shutil.copytree(REPOSITORY / "dbt", project.folder / "dbt", ignore=NOT_IN_A_CLONE)
    outputs = {"analyzer": server.profile(DATASET)}
    profiles = {"millrace": {"target": "analyzer", "outputs": outputs}}
    (project.folder / "dbt" / "profiles.yml").write_text(yaml.safe_dump(profiles))
    return project


def run_dbt(project: Project, *command: str) -> CompletedProcess[str]:
    return project.dbt("--no-use-colors", *command, "--vars", json.dumps({"disabled_sources": []}))


@pytest.fixture(scope="module")
def build(project: Project, server: AnalyzerServer) -> str:
    """The output of `dbt build`, which makes all tables and runs all tests."""
    done = run_dbt(project, "build")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def later(project: Project, server: AnalyzerServer, build: str) -> list[Statement]:
    """The statements of runs that find the tables of the first run."""
    first = len(server.statements)
    for command in (["snapshot"], ["source", "freshness"], ["run", "--select", "fct_flights"]):
        done = run_dbt(project, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    return server.statements[first:]


@pytest.fixture(scope="module")
def manifest(project: Project, build: str) -> dict[str, Any]:
    return json.loads((project.folder / "dbt" / "target" / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("select * from {t} where number = '1'", "operator = for argument types: INT64, STRING"),
        ("select * from {t} where number = word", "operator = for argument types: INT64, STRING"),
        ("select number from {t} union all select word from {t}", "incompatible types: INT64, STR"),
        ("select coalesce(number, word) from {t}", "function COALESCE"),
        ("select case when true then number else word end from {t}", "operator CASE"),
        ("select * from {t} where day > instant", "operator > for argument types: DATE, TIMESTAMP"),
        ("select date_diff(day, instant, day) from {t}", "function DATE_DIFF"),
        ("select sum(word) from {t}", "function SUM"),
        ("select upper(number) from {t}", "function UPPER"),
        ("select list_value(1, 2)", "Function not found: list_value"),
        ("select strftime(current_date(), '%Y')", "Function not found: strftime"),
        ("select numbr from {t}", "Unrecognized name: numbr"),
        ("select * from `millrace-test`.`samples`.`letters`", "Table not found"),
        ("select word, number from {t} group by word", "neither grouped nor aggregated"),
        # An alias that hides its table; a mart of this project once had it.
        (
            "with t as (select * from {t}) select t.word, count(*) as t from t group by t.word",
            "Column t contains an aggregation function, which is not allowed in GROUP BY",
        ),
        ("select number as at from {t}", "Unexpected keyword AT"),
        ("select hash from {t}", "Unexpected keyword HASH"),
        ("select number::string from {t}", "Syntax error"),
        ("select cast(number as int32) from {t}", "Type not found: int32"),
        ("select cast(word as text) from {t}", "Type not found: text"),
        (
            "create or replace table `millrace-test`.`samples`.`made` (number string) "
            "as select number from {t}",
            "Column 'number' has type STRING which cannot be coerced",
        ),
        (
            "create or replace table `millrace-test`.`samples`.`made` partition by word "
            "as select word from {t}",
            "PARTITION BY expression must not be of type STRING",
        ),
        (
            "merge into {t} as target using {t} as source on false "
            "when not matched then insert (number) values (word)",
            "Value has type STRING which cannot be inserted into column number",
        ),
        (
            "declare days array<date>; "
            "set (days) = (select as struct array_agg(number) from {t}); select 1",
            "Cannot assign values of types ['ARRAY<INTEGER>']",
        ),
    ],
)
def test_a_fault_is_refused(analyzer: Analyzer, sql: str, message: str) -> None:
    """DuckDB accepts some of these, and so does Postgres."""
    with pytest.raises(SqlError, match=re.escape(message)):
        analyzer.run(sql.format(t="`millrace-test`.`samples`.`numbers`"))


def test_valid_sql_is_accepted_and_computed(analyzer: Analyzer) -> None:
    answer = analyzer.run(
        "select cast(numbers.number as bigint) + 1 as next, date '2013-01-31' as day, "
        "datetime(timestamp '2013-03-10 12:00:00', 'America/New_York') as local, "
        "[1.5] as list, 'ü' as text from `millrace-test`.`samples`.`numbers`"
    )
    assert answer.result.types == {
        "next": "INTEGER", "day": "DATE", "local": "DATETIME", "list": "ARRAY<FLOAT>",
        "text": "STRING",
    }  # fmt: skip
    (row,) = answer.result.rows
    assert row == [2, dt.date(2013, 1, 31), dt.datetime(2013, 3, 10, 8), [1.5], "ü"]  # noqa: DTZ001


def test_every_statement_is_accepted_and_every_test_passes(
    build: str, server: AnalyzerServer, later: list[Statement]
) -> None:
    assert "WARN=0 ERROR=0 SKIP=0" in build
    assert [f"{found.node}: {found.refusal}" for found in server.statements if found.refusal] == []


def test_every_node_is_analyzed(server: AnalyzerServer, manifest: dict[str, Any]) -> None:
    nodes = {**manifest["nodes"], **manifest["unit_tests"]}
    # The hook that refuses dbt on a target that publishes sends no statement.
    expected = {name for name in nodes if not name.startswith(("seed.", "operation."))}
    assert {"model.millrace.agg_trending_repositories", "model.millrace.fct_flights"} < expected
    assert expected - {found.node for found in server.statements} == set()


def compiled(project: Project, node: dict[str, Any]) -> str:
    """The compiled SQL of a test; the manifest of a later command does not have it."""
    file = (
        project.folder / "dbt/target/compiled" / node["package_name"] / node["original_file_path"]
    )
    return (file / node["path"] if file.is_dir() else file).read_text()


def test_batches_of_tests_return_what_each_test_does(
    analyzer: Analyzer, project: Project, manifest: dict[str, Any]
) -> None:
    """The statements in which the pipeline runs the data tests of the project."""
    tests = [
        DataTest(compiled(project, node), *(node["config"][key] for key in TEST_CONFIGS))
        for node in manifest["nodes"].values()
        if node["resource_type"] == "test"
    ]
    assert len(tests) > 200

    found = []
    for start in range(0, len(tests), MAX_TESTS):
        batch = tests[start : start + MAX_TESTS]
        answer = analyzer.run(build_statement(batch, "bigquery"))
        found += read_rows(answer.result.rows, len(batch))

    expected = []
    for test in tests:
        answer = analyzer.run(
            f"select {test.fail_calc}, {test.fail_calc} {test.warn_if}, "
            f"{test.fail_calc} {test.error_if} from (\n{test.sql}\n) dbt_internal_test"
        )
        expected += [tuple(row) for row in answer.result.rows]
    assert found == expected


def test_tests_read_rows(analyzer: Analyzer, build: str) -> None:
    """On empty tables data tests would pass whatever the SQL computes."""
    rows = {path[1:]: len(table.rows) for path, table in analyzer.tables.items()}
    assert rows[f"{DATASET}_marts", "fct_flights"] == rows["raw_nyc__flights", "flights"] == 113
    assert rows[f"{DATASET}_marts", "dim_dates"] == 730
    assert rows[f"{DATASET}_seeds", "weather_bands"] == 15


def test_marts_have_the_types_of_their_contracts(
    server: AnalyzerServer, manifest: dict[str, Any]
) -> None:
    """The query has them, before the declared types of the table convert it."""
    contracts = {
        name: {
            column: API_TYPES.get(found["data_type"], found["data_type"].upper())
            for column, found in node["columns"].items()
        }
        for name, node in manifest["nodes"].items()
        if node["resource_type"] == "model" and node["contract"]["enforced"]
    }
    assert len(contracts) == 11
    # dbt asks for the types of a query with such a statement, before it makes the table.
    queries = [s for s in server.statements if s.answer and s.sql.startswith("select * from (")]
    types = {s.node: s.answer.result.types for s in queries if s.node in contracts}
    assert {name: list(found.items()) for name, found in types.items()} == {
        name: list(found.items()) for name, found in contracts.items()
    }


def test_later_runs_send_the_statements_that_only_they_send(later: list[Statement]) -> None:
    sent = {(found.node.split(".")[0], found.answer.statement) for found in later if found.answer}
    assert ("snapshot", "MERGE") in sent
    assert ("model", "SCRIPT") in sent
    assert any(found.node.startswith("source.") for found in later)


def test_a_fault_in_an_incremental_script_is_refused(
    analyzer: Analyzer, project: Project, later: list[Statement]
) -> None:
    (script,) = [s.sql for s in later if s.answer and s.answer.statement == "SCRIPT"]
    # The script reads a table of new rows, which dbt has dropped since.
    script = re.sub(r"fct_flights__dbt_tmp\d+", "fct_flights", script)
    assert analyzer.run(script.rpartition("drop table")[0]).statement == "SCRIPT"
    changed = script.replace(
        "date(DBT_INTERNAL_DEST.flight_date)", "DBT_INTERNAL_DEST.carrier_code"
    )
    assert changed != script
    with pytest.raises(SqlError, match=r"operator IN UNNEST"):
        analyzer.run(changed)


def test_a_fault_in_a_model_names_the_model(
    project: Project, server: AnalyzerServer, later: list[Statement]
) -> None:
    model = project.folder / "dbt" / "models" / "intermediate" / "flights"
    model /= "int_flights_classified.sql"
    text = model.read_text()
    changed = text.replace(
        "select * from final", "select * from final where flight_number = tail_number"
    )
    assert changed != text
    model.write_text(changed)
    first = len(server.statements)
    done = run_dbt(project, "run", "--select", "int_flights_classified")
    model.write_text(text)
    assert done.returncode == 1
    assert "Database Error in model int_flights_classified" in done.stdout
    assert "No matching signature for operator = for argument types: INT64, STRING" in done.stdout
    refused = [found for found in server.statements[first:] if found.refusal]
    assert {found.node for found in refused} == {"model.millrace.int_flights_classified"}
