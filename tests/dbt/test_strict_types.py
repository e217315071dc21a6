"""Each statement that dbt sends to BigQuery, before a judge that knows BigQuery's types.

The project runs on bqemulator with a sample of real rows, twice where a second run sends other
statements. What it sent is then put before the strict emulator in the same order, where each
table, test and unit test is made anew, of the same rows.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.bigquery import sample
from tests.support.bigquery.emulator import running
from tests.support.bigquery.proxy import Asked
from tests.support.bigquery.strict import BUILD, VARIABLE, Answer, Judge, judging
from tests.support.project import Project, copy_of_the_project, shared_folder
from google.api_core.exceptions import GoogleAPICallError

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        VARIABLE not in os.environ,
        reason=(
            "NOT CHECKED: whether BigQuery's analyzer accepts the SQL of models, snapshots, data "
            "tests and unit tests, and gives the contracts' types. Build the judge (6 minutes) "
            f"with `{BUILD}`, and set {VARIABLE} to the program's path."
        ),
    ),
]

DATASET = "strict"
SCHEMAS = ("staging", "intermediate", "marts", "seeds", "snapshots")

# The names that BigQuery's API has for the types a contract declares.
TYPES = {"bigint": "INTEGER", "int64": "INTEGER", "float64": "FLOAT"}

# What the judge refuses although BigQuery's reference allows it: node and start of the statement,
# and the judge's words. A refusal that is gone fails the tests, and then its line goes too.
REFUSED = {
    # Scripts have variables: its statements are judged one by one below.
    ("model.millrace.fct_flights", "-- generated script"): "not supported: VariableDeclaration",
}

# Tests that run and then count wrong rows, because the judge is wrong about values, not types.
FAILING = {
    # A DATE cast from a DATETIME that was computed compares unequal to the same DATE.
    "relationships_fct_flights_flight_date__date_day__ref_dim_dates_",
    "relationships_fct_weather_hourly_observed_date__date_day__ref_dim_dates_",
    "not_null_agg_carrier_performance_monthly_month_start_date",
    # CURRENT_TIMESTAMP() differs within a statement, so nullif() of two is not null.
    "assert_planes_snapshot_has_one_current_row_per_plane",
}


@dataclass(frozen=True)
class Statement:
    """What dbt sent: for which node, and without the comment that says so."""

    node: str
    sql: str


@dataclass
class Judged:
    """The statements that were put before the judge, each with its answer or its refusal."""

    answers: list[tuple[Statement, Answer]]
    refusals: list[tuple[Statement, str]]

    def of(self, kind: str) -> list[tuple[Statement, Answer]]:
        return [(s, answer) for s, answer in self.answers if s.node.startswith(f"{kind}.")]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return copy_of_the_project(tmp_path_factory.mktemp("strict") / "millrace")


@pytest.fixture(scope="module")
def statements(project: Project, tmp_path_factory: pytest.TempPathFactory) -> list[Statement]:
    """What dbt sends: a first run with all tests, then later runs and a look at freshness."""
    # An emulator of its own: the sample would stand in the way of a test that loads the source.
    with running(shared_folder(tmp_path_factory, "bigquery")) as bigquery:
        project.environment = bigquery.environment
        outputs = project.folder / "outputs.json"
        target = {"strict": bigquery.target(DATASET)}
        outputs.write_text(json.dumps({"dbt_targets": {"value": target}}))
        done = project.setup("--outputs", str(outputs), "--target", "strict", "--profiles-only")
        assert done.returncode == 0, done.stdout + done.stderr
        with bigquery.client() as client:
            client.create_dataset(sample.DATASET)
            for sql in sample.statements():
                client.query(sql).result()
        second = ["run", "--select", "fct_flights"]
        for command in (["build"], ["snapshot"], ["source", "freshness"], second):
            done = project.dbt(*command, "--target", "strict")
            assert done.returncode == 0, done.stdout + done.stderr
        assert not bigquery.google.refused, "something reached for a server outside"
        return [found for asked in bigquery.proxy.asked if (found := statement(asked)) is not None]


def statement(asked: Asked) -> Statement | None:
    """The statement in a request that starts a query, if it does."""
    query = ((asked.json or {}).get("configuration") or {}).get("query")
    if query is None:
        return None
    comment, sql = re.fullmatch(r"/\* (\{.*?\}) \*/(.*)", query["query"], re.DOTALL).groups()
    return Statement(json.loads(comment).get("node", ""), sql.strip())


@pytest.fixture(scope="module")
def manifest(project: Project, statements: list[Statement]) -> dict[str, Any]:
    return json.loads((project.folder / "dbt" / "target" / "manifest.json").read_text())


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    with judging(os.environ[VARIABLE], tmp_path_factory.mktemp("judge")) as judge:
        judge.client.create_dataset("samples")
        judge.run("create table samples.numbers (number int64, word string)")
        yield judge


@pytest.fixture(scope="module")
def judged(
    project: Project, judge: Judge, statements: list[Statement], manifest: dict[str, Any]
) -> Judged:
    judge.client.create_dataset(sample.DATASET)
    for schema in SCHEMAS:
        judge.client.create_dataset(f"{DATASET}_{schema}")
    for sql in [*sample.statements(), *seed(project, manifest)]:
        judge.run(sql)
    judged = Judged([], [])
    for each in statements:
        # A view is computed at each use, by this emulator in seconds; a table once.
        sql = re.sub("^create or replace view", "create or replace table", each.sql)
        try:
            judged.answers.append((each, judge.run(sql)))
        except GoogleAPICallError as error:
            judged.refusals.append((each, error.message))
    return judged


def seed(project: Project, manifest: dict[str, Any]) -> Iterator[str]:
    """What makes the seed's table, which dbt loads from its file without a statement."""
    node = manifest["nodes"]["seed.millrace.weather_bands"]
    columns = node["config"]["column_types"]
    numbers = {name for name, kind in columns.items() if kind != "string"}
    with (project.folder / "dbt" / "seeds" / "weather_bands.csv").open() as file:
        rows = [
            {
                name: None if text == "" else float(text) if name in numbers else text
                for name, text in row.items()
            }
            for row in csv.DictReader(file)
        ]
    for row in rows:
        row["sort_order"] = int(row["sort_order"])
    return sample.table_of(f"{DATASET}_seeds.weather_bands", columns, rows)


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select * from samples.numbers where number = '1'", "types: INT64, STRING"),
        (
            "select number from samples.numbers union all select word from samples.numbers",
            "incompatible types: INT64, STRING",
        ),
        ("select coalesce(number, word) from samples.numbers", "Argument types: INT64, STRING"),
        ("select sum(word) from samples.numbers", "Unable to coerce type STRING"),
        ("select list_value(1, 2)", "Function not found: list_value"),
        ("select strftime(current_date(), '%Y')", "Function not found: strftime"),
        ("select numbr from samples.numbers", "Unrecognized name: numbr"),
        ("select number::string from samples.numbers", "Syntax error"),
        (
            "select numbers.word, count(*) as numbers from samples.numbers group by numbers.word",
            "not allowed in GROUP BY",
        ),
    ],
)
def test_the_judge_is_strict(judge: Judge, sql: str, words: str) -> None:
    """DuckDB takes some of these, and so does Postgres; the last one stood in a mart of ours."""
    with pytest.raises(GoogleAPICallError) as refused:
        judge.run(sql)
    assert words in refused.value.message


def test_each_node_was_judged(judged: Judged, manifest: dict[str, Any]) -> None:
    nodes = {**manifest["nodes"], **manifest["unit_tests"]}
    expected = {name for name in nodes if not name.startswith("seed.")}
    found = {s.node for s, _ in [*judged.answers, *judged.refusals]}
    assert expected - found == set()


def test_only_what_is_listed_is_refused(judged: Judged) -> None:
    refusals = list(judged.refusals)
    for (node, start), words in REFUSED.items():
        found = [
            (s, said)
            for s, said in refusals
            if s.node == node and s.sql.startswith(start) and words in said
        ]
        assert found, f"the judge has learned it: {node}, {start}"
        refusals = [refusal for refusal in refusals if refusal not in found]
    assert not refusals, "\n\n".join(f"{s.node}: {said}\n{s.sql}" for s, said in refusals)


def test_marts_have_the_types_of_their_contracts(judged: Judged, manifest: dict[str, Any]) -> None:
    """By what the analyzer makes of the query, before the table's declared types convert it."""
    contracts = {
        name: [
            (column, TYPES.get(found["data_type"], found["data_type"].upper()))
            for column, found in node["columns"].items()
        ]
        for name, node in manifest["nodes"].items()
        if node["resource_type"] == "model" and node["contract"]["enforced"]
    }
    assert len(contracts) == 9
    # dbt asks so for the types of a query, before it makes the table.
    asked = [(s, answer) for s, answer in judged.of("model") if s.sql.startswith("select * from (")]
    assert {s.node for s, _ in asked} >= set(contracts)
    for each, answer in asked:
        assert answer.columns == contracts[each.node], each.node


def test_data_tests_pass(judged: Judged, manifest: dict[str, Any]) -> None:
    failed = {
        manifest["nodes"][s.node]["name"]
        for s, answer in judged.of("test")
        for _, should_warn, should_error in answer.rows
        if should_warn or should_error
    }
    assert failed == FAILING


def test_unit_tests_pass(judged: Judged) -> None:
    compared = [
        (s, answer)
        for s, answer in judged.of("unit_test")
        if s.sql.startswith("-- Build actual result")
    ]
    assert len(compared) == 6
    for each, answer in compared:
        (*_, (last, _)) = answer.columns
        assert last == "actual_or_expected"
        rows: dict[str, Counter[tuple[Any, ...]]] = {"actual": Counter(), "expected": Counter()}
        for *values, which in answer.rows:
            rows[which][tuple(values)] += 1
        assert rows["actual"] == rows["expected"], each.node


def test_the_script_of_an_incremental_run(judge: Judge, judged: Judged) -> None:
    """Its statements one by one, with the days it replaces in the place of its variable."""
    (script,) = [s.sql for s, _ in judged.refusals if s.sql.startswith("-- generated script")]
    (query,) = re.findall(r"set \(dbt_partitions_for_replacement\) = \((.*?)\);", script, re.DOTALL)
    answer = judge.run(query)
    assert len(answer.columns) == 1
    (merge,) = re.findall(r"merge into .*?;", script, re.DOTALL)
    merge = merge.replace("dbt_partitions_for_replacement", "[date '2013-12-30']")
    # The judge carries out no MERGE from a query; what it is asked for is a table's every column.
    merge, queries = re.subn(r"using \(\s*select\s*\* from (\S+)\s*\)", r"using \1", merge)
    assert queries == 1
    judge.run(merge)
    with pytest.raises(GoogleAPICallError, match="failed to analyze"):
        judge.run(merge.replace("date(DBT_INTERNAL_DEST.flight_date)", "flight_number"))


def test_the_program_is_named(tmp_path: Path) -> None:
    """A wrong path is said at once, not skipped over."""
    with pytest.raises(FileNotFoundError), judging(str(tmp_path / "missing"), tmp_path):
        pass
