"""The commands `millrace check models` and `millrace check lineage`, without their check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infrastructure import cli
from infrastructure.ci.check_models import command
from infrastructure.ci.check_models.findings import CheckResult, Finding, Place

FINDING = Finding(Place("dbt/models/a.sql", 2, 5), "sql", "wrong", "", "model.p.a", ("postgres",))
LINEAGE = {"model.p.fct_flights": {"is_on_time": [("source.p.nyc.flights", "arr_delay")]}}


class Checks:
    """The calls of the check, and what it answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, Any], list[str], bool]] = []
        self.answer = CheckResult(checked={"postgres": 1}, lineage=LINEAGE)

    def __call__(
        self,
        dbt_dir: Path,
        local_dir: Path,
        vars: dict[str, Any],
        warehouses: Any = ("postgres", "bigquery"),
        *,
        use_cache: bool,
    ) -> CheckResult:
        self.calls.append((vars, list(warehouses), use_cache))
        return self.answer


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    checks = Checks()
    monkeypatch.setattr(command, "check_project", checks)
    return checks


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, ["check", *arguments])
    return result.exit_code, result.output


def test_everything_is_checked_by_default(checks: Checks, monkeypatch: pytest.MonkeyPatch) -> None:
    for warehouses in (["postgres", "bigquery"], ["bigquery"]):
        monkeypatch.setenv("MILLRACE_CHECK_WAREHOUSES", json.dumps(warehouses))
        assert run("models") == (0, "No errors; checked: 1 nodes for postgres.\n")
        assert checks.calls.pop() == ({"disabled_sources": []}, warehouses, True)


def test_options(checks: Checks) -> None:
    variables = '{"disabled_sources": ["sql__database"]}'
    assert run("models", "--warehouse", "postgres", "--no-cache", "--vars", variables)[0] == 0
    assert checks.calls == [({"disabled_sources": ["sql__database"]}, ["postgres"], False)]


def test_variables_that_are_no_object(checks: Checks) -> None:
    code, output = run("models", "--vars", "[]")
    assert code == 2
    assert "Not variables as JSON: it is not an object." in output
    assert checks.calls == []


def test_errors_end_with_exit_code_1_in_each_format(checks: Checks) -> None:
    checks.answer = CheckResult([FINDING])
    code, output = run("models")
    assert code == 1
    assert output.startswith("dbt/models/a.sql:2:5: error: wrong [sql, postgres]\n")
    code, output = run("models", "--format", "json")
    assert (code, json.loads(output)["findings"][0]["message"]) == (1, "wrong")
    code, output = run("models", "--format", "sarif")
    assert (code, json.loads(output)["version"]) == (1, "2.1.0")


def test_lineage(checks: Checks) -> None:
    assert run("lineage", "fct_flights.is_on_time") == (
        0,
        "fct_flights.is_on_time\n"
        "comes from:\n"
        "  nyc.flights.arr_delay (source)\n"
        "used by:\n"
        "  no other column\n",
    )
