"""The pipeline leaves the same truth as the command line of dbt, whatever is in trouble."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.support.conformance.on_postgres import OnPostgres
from tests.support.conformance.project import Doors, Scenario, Strategy
from tests.support.conformance.scenarios import SCENARIOS
from tests.support.conformance.truth import Relation, Truth, differences
from tests.support.project import Project

pytestmark = pytest.mark.conformance

# They end as another scenario does, whose trouble is of the same kind, and their nodes are compared
# in the scenarios over the whole project: a model's error is "sql_error", a test's failure
# "test_fail", a failure before the models "bad_seed", and a hook's before the run "start_hook".
NIGHTLY = {
    "contract_breach", "model_hooks", "source_test_fail", "bad_snapshot",
    "start_hook before an exposure",
}  # fmt: skip


@pytest.fixture(scope="module")
def doors(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Doors:
    return Doors(project, tmp_path_factory.mktemp("conformance") / "millrace", OnPostgres(project))


@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [
        pytest.param(
            scenario,
            strategy,
            id=f"{scenario.name}-{strategy}",
            # The pipeline's usual strategy goes first; the other one each night.
            marks=[pytest.mark.nightly]
            if strategy != scenario.strategies[0] or scenario.name in NIGHTLY
            else [],
        )
        for scenario in SCENARIOS
        for strategy in scenario.strategies
    ],
)
def test_both_doors_leave_the_same(doors: Doors, scenario: Scenario, strategy: Strategy) -> None:
    for dbt, pipeline in doors.compared(scenario, strategy):
        found = "\n".join(differences(dbt, pipeline))
        assert not found, f"{found}\n\n{dbt.said}\n\n{pipeline.said}"


def test_the_comparison_can_fail(doors: Doors) -> None:
    """Two scenarios that differ are told apart, node by node and relation by relation."""
    quiet = Scenario("quiet", select=("orders",), unselected=("freshness",))
    loud = Scenario("loud", ("test_fail",), select=("orders",), unselected=("freshness",))
    left, right = [_truth(doors, scenario) for scenario in (quiet, loud)]

    found = differences(left, right)

    assert found[0] == "exit: dbt passed, the pipeline failed"
    assert found[1].startswith("counts: dbt {'success': 7, ")
    nodes = [line.split(".")[2] for line in found if line.startswith("node ")]
    assert nodes == ["fails", "fails_and_keeps_a_view"]
    assert "has no result, the pipeline fail (2)" in found[2]
    relations = [line for line in found if line.startswith("relation conformance_failures.")]
    assert relations == [
        "relation conformance_failures.fails: only of the pipeline",
        "relation conformance_failures.fails_and_keeps_a_view: only of the pipeline",
    ]
    assert not differences(left, left)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": Counter({(1,): 1})}, "rows: only of dbt ['(1,)'], only of the pipeline []"),
        ({"kind": "view"}, "kind: dbt table, the pipeline view"),
        ({"columns": (("id", "bigint"),)}, "columns: dbt (('id', 'integer'),), the pipeline"),
    ],
)
def test_a_relation_that_differs_is_named(change: dict[str, Any], said: str) -> None:
    table = Relation("table", (("id", "integer"),), Counter({(1,): 2}))
    left = Truth(False, {}, {"marts.a": table})
    right = Truth(False, {}, {"marts.a": replace(table, **change)})
    (line,) = differences(left, right)
    assert line.startswith(f"relation marts.a, {said}")


def _truth(doors: Doors, scenario: Scenario) -> Truth:
    doors.prepare(scenario)
    return doors.by_command_line(scenario, "build")
