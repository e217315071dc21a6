"""What is put in trouble, and compared: the scenarios of every warehouse."""

from __future__ import annotations

from typing import Any

from tests.support.conformance.project import Scenario, Strategy

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
    Scenario("test_configs", ("test_configs",), ("tag:test_configs",), unselected=ONLY_MODELS),
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
