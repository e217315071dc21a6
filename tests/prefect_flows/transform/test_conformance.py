"""The pipeline leaves the same truth as the command line of dbt, whatever is in trouble."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from conformance import Doors, Scenario, Strategy
from conformance_truth import Relation, Truth, differences
from conftest import Project

OF_MODELS = (
    "bad_batch", "compile_error", "contract_breach", "model_hooks", "sql_error", "tolerated_error",
)  # fmt: skip
OF_TESTS = (
    "source_test_fail", "test_error", "test_fail", "threshold_fail", "unit_error", "unit_fail",
)  # fmt: skip
OF_SOURCES = ("source_missing", "stale")
# A failing hook before the run leaves nothing else to see, and has its own scenario.
EVERY = (*OF_MODELS, *OF_TESTS, *OF_SOURCES, "bad_seed", "bad_snapshot", "end_hook")

RUN_THEN_TEST: tuple[Strategy, ...] = ("run_then_test",)
BUILD: tuple[Strategy, ...] = ("build",)
SERIAL: Any = {"flags": {"fail_fast": True}, "target": "conformance-serial"}
NO_SOURCE = ("freshness",)
ONLY_MODELS = ("freshness", "seed", "snapshot")
ONLY_TESTS = (*ONLY_MODELS, "run")

SCENARIOS = [
    # Everything of a kind at once, over the whole project.
    Scenario("sound", again=("freshness", "test")),
    Scenario("sources", OF_SOURCES),
    Scenario("models", OF_MODELS, skip=NO_SOURCE),
    Scenario("tests", OF_TESTS, skip=NO_SOURCE),
    Scenario("everything", EVERY, skip=NO_SOURCE),
    # One trouble alone, which alone decides how the run ends. The strategies are shared out
    # among them, for time; both meet each trouble in the scenarios above.
    Scenario("stale", ("stale",), ("source:raw.archive+",), strategies=RUN_THEN_TEST),
    Scenario("source_missing", ("source_missing",), ("source:raw.missing+",), strategies=BUILD),
    Scenario(
        "bad_seed", ("bad_seed",), ("bad_colours+",), unselected=NO_SOURCE, strategies=RUN_THEN_TEST
    ),
    Scenario(
        "bad_snapshot",
        ("bad_snapshot",),
        ("bad_snapshot+",),
        unselected=("freshness", "seed"),
        strategies=RUN_THEN_TEST,
    ),
    Scenario(
        "sql_error",
        ("sql_error",),
        ("orders", "tag:sql_error"),
        skip=NO_SOURCE,
        unselected=ONLY_MODELS,
        strategies=BUILD,
    ),
    Scenario(
        "contract_breach",
        ("contract_breach",),
        ("tag:contract_breach",),
        unselected=ONLY_MODELS,
        strategies=BUILD,
    ),
    Scenario(
        "model_hooks",
        ("model_hooks",),
        ("tag:model_hooks",),
        unselected=ONLY_MODELS,
        strategies=RUN_THEN_TEST,
    ),
    Scenario("compile_error", ("compile_error",), ("tag:compile_error",), unselected=ONLY_MODELS),
    Scenario(
        "tolerated_error",
        ("tolerated_error",),
        ("tag:tolerated_error",),
        unselected=ONLY_MODELS,
        strategies=BUILD,
    ),
    Scenario(
        "bad_batch",
        ("bad_batch",),
        ("tag:bad_batch",),
        unselected=ONLY_MODELS,
        strategies=RUN_THEN_TEST,
    ),
    Scenario(
        "test_fail",
        ("test_fail",),
        ("orders", "fails"),
        unselected=ONLY_MODELS,
        strategies=RUN_THEN_TEST,
    ),
    Scenario(
        "threshold_fail", ("threshold_fail",), ("orders",), unselected=ONLY_MODELS, strategies=BUILD
    ),
    Scenario(
        "test_error",
        ("test_error",),
        ("needs_nothing",),
        unselected=ONLY_TESTS,
        strategies=RUN_THEN_TEST,
    ),
    Scenario(
        "source_test_fail",
        ("source_test_fail",),
        ("source_customers_at_most",),
        unselected=ONLY_TESTS,
        strategies=BUILD,
    ),
    Scenario(
        "unit_fail", ("unit_fail",), ("+customer_versions",), skip=NO_SOURCE, strategies=BUILD
    ),
    Scenario("start_hook", ("start_hook",), ("orders",), unselected=ONLY_MODELS),
    Scenario(
        "start_hook before an exposure",
        ("start_hook",),
        ("orders", "board"),
        unselected=ONLY_MODELS,
        strategies=BUILD,
    ),
    Scenario("end_hook", ("end_hook",), ("orders",), unselected=ONLY_MODELS, strategies=BUILD),
    Scenario(
        "fail_fast in models",
        OF_MODELS,
        ("path:models/troubles",),
        unselected=ONLY_MODELS,
        **SERIAL,
    ),
    Scenario(
        "fail_fast in tests",
        (*OF_TESTS, "slow_test"),
        ("orders",),
        unselected=ONLY_MODELS,
        strategies=BUILD,
        **SERIAL,
    ),
    Scenario(
        "warnings are errors",
        (),
        ("orders",),
        unselected=ONLY_MODELS,
        flags={"warn_error_options": {"error": ["LogTestResult"]}},
        strategies=BUILD,
    ),
]


@pytest.fixture(scope="module")
def doors(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Doors:
    return Doors(project, tmp_path_factory.mktemp("conformance") / "millrace")


@pytest.mark.parametrize(
    ("scenario", "strategy"),
    [
        pytest.param(scenario, strategy, id=f"{scenario.name}-{strategy}")
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
