"""The pipeline leaves on BigQuery, too, what the command line of dbt leaves.

What BigQuery does otherwise than Postgres is in these: jobs instead of a connection, no
transactions, datasets instead of schemas, seeds that are loaded, scripts for microbatches. A
trouble alone, of which the Postgres tests have one scenario each, meets no more of BigQuery.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bigquery.emulator import BigQuery
from tests.support.conformance.on_bigquery import OnBigQuery
from tests.support.conformance.project import SOURCES, Doors, Strategy
from tests.support.conformance.scenarios import SCENARIOS
from tests.support.conformance.truth import Truth, differences
from tests.support.project import Project

# Where a trouble is another one than on Postgres, it is so for both doors:
# - `late_hook_error` succeeds: dbt runs no hook outside of a transaction where there are none.
# - `indexes` do not exist; the same model asks for clusters, which do.
# Left out is `fail_fast in tests`, whose statement that takes long needs `pg_sleep`.
SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}
# What is compared with each change; the others each night.
ALWAYS = {"everything", "unit_fail", "test_configs"}
CHOSEN: list[tuple[str, Strategy]] = [
    ("sound", "run_then_test"),
    ("sound", "build"),
    ("sources", "run_then_test"),
    ("models", "run_then_test"),
    ("models", "build"),
    ("tests", "run_then_test"),
    ("tests", "build"),
    ("everything", "build"),
    ("unit_fail", "build"),
    ("test_configs", "run_then_test"),
    ("start_hook", "build"),
    ("fail_fast in models", "build"),
    ("warnings are errors", "build"),
]


@pytest.fixture(scope="module")
def doors(
    project: Project, bigquery: BigQuery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("conformance_on_bigquery") / "millrace"
    warehouse = OnBigQuery(bigquery)
    yield Doors(project, folder, warehouse)
    warehouse.close()


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        pytest.param(
            *chosen,
            id="-".join(chosen),
            marks=[] if chosen[0] in ALWAYS else [pytest.mark.nightly],
        )
        for chosen in CHOSEN
    ],
)
def test_both_doors_leave_the_same(doors: Doors, name: str, strategy: Strategy) -> None:
    for dbt, pipeline in doors.compared(SCENARIO[name], strategy):
        found = "\n".join(differences(dbt, pipeline))
        assert not found, f"{found}\n\n{dbt.said}\n\n{pipeline.said}"


MADE = """
create table {raw}.laid_out partition by timestamp_trunc(loaded_at, day) cluster by name
as (select * from {raw}.customers);
create view {raw}.seen as select name from {raw}.customers;
insert into {raw}.hook_log values ('a', 'b', 'c'), ('a', 'b', 'c')
"""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "insert into {raw}.hook_log values ('a', 'b', 'c')",
            ["hook_log, rows: only of dbt [], only of the pipeline [\"('a', 'b', 'c')\"]"],
        ),
        ("drop table {raw}.archive", ["archive: only of dbt"]),
        ("create table {raw}.more (id integer)", ["more: only of the pipeline"]),
        (
            "create or replace table {raw}.archive (loaded_at {datetime})",
            [
                "archive, columns: dbt (('loaded_at', 'TIMESTAMP NULLABLE'),), "
                "the pipeline (('loaded_at', 'DATETIME NULLABLE'),)",
            ],
        ),
        (
            "create or replace table {raw}.laid_out partition by timestamp_trunc(loaded_at, hour) "
            "as (select * from {raw}.customers)",
            [
                "laid_out, layout: dbt (\"partitions: TimePartitioning(field='loaded_at',"
                "type_='DAY')\", \"clusters: ['name']\"), the pipeline (\"partitions: "
                "TimePartitioning(field='loaded_at',type_='HOUR')\", 'clusters: None')",
            ],
        ),
        (
            "create or replace view {raw}.seen as select lower(name) as name from {raw}.customers",
            [
                "seen, definition: dbt SELECT name FROM conformance_raw.customers, "
                "the pipeline SELECT lower(name) AS name FROM conformance_raw.customers",
            ],
        ),
    ],
    ids=["row", "missing", "more", "type", "layout", "definition"],
)
def test_differing_relations_are_detected(doors: Doors, change: str, said: list[str]) -> None:
    """Without this, a comparison that sees nothing of BigQuery would pass as well."""
    truths = []
    for side in ("dbt", "pipeline"):
        doors.warehouse.clear(side)
        doors.warehouse.execute(side, SOURCES + MADE)
        truths.append(Truth(False, {}, doors.warehouse.relations(side)))
    assert len(truths[0].relations) == 7
    assert not differences(*truths)

    doors.warehouse.execute("pipeline", change)
    found = differences(truths[0], Truth(False, {}, doors.warehouse.relations("pipeline")))

    assert found == [f"relation conformance_raw.{line}" for line in said]
