"""Projects without mistakes pass, and what cannot be checked is listed with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from infrastructure.ci.check_models import check
from infrastructure.ci.check_models.check import check_project
from infrastructure.ci.check_models.findings import CheckResult, Warehouse
from infrastructure.ci.check_models.formats import format_text
from infrastructure.ci.check_models.lineage import format_lineage
from prefect_flows.core.errors import ConfigurationError, SelectionError
from prefect_flows.reporting.column_lineage import get_short_name
from tests.support.conformance.scenarios import EVERY
from tests.support.project import CONFORMANCE_DBT, NOT_IN_A_CLONE, REPOSITORY

HOOKS = "it is a hook"
UNIT_TESTS = "unit tests need rows: dbt test runs them"
EVERY_TROUBLE = {"troubles": [*EVERY, "test_configs"], "begin": "2026-11-01"}
# What the troubles of the conformance project are for the check; the others are errors of rows.
TROUBLES = {
    "compile_error", "contract_breach", "bad_snapshot", "errs", "failures_of_no_column",
    "singular_does_not_compile", "singular_semicolon", "singular_missing_column",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project and the conformance project, each below a folder; one `.local` for both."""
    folder = tmp_path_factory.mktemp("projects")
    for name, source in (("this", REPOSITORY / "dbt"), ("conformance", CONFORMANCE_DBT)):
        shutil.copytree(source, folder / name / "dbt", ignore=NOT_IN_A_CLONE)
    return folder


def check_this(folder: Path, warehouse: Warehouse) -> CheckResult:
    variables = {"disabled_sources": []}
    return check_project(folder / "this" / "dbt", folder / ".local", variables, (warehouse,))


@pytest.fixture(scope="module")
def this_on_bigquery(folder: Path) -> CheckResult:
    return check_this(folder, "bigquery")


def assert_passes(result: CheckResult, warehouse: str) -> None:
    assert format_text(result, REPOSITORY).splitlines()[-1].startswith("No errors")
    assert {each.reason for each in result.unchecked} <= {HOOKS, UNIT_TESTS}
    assert result.checked[warehouse] > 200


@pytest.mark.example
@pytest.mark.models
def test_this_project_passes_on_postgres(folder: Path) -> None:
    assert_passes(check_this(folder, "postgres"), "postgres")


@pytest.mark.example
@pytest.mark.bigquery
def test_this_project_passes_on_bigquery(this_on_bigquery: CheckResult) -> None:
    assert_passes(this_on_bigquery, "bigquery")


@pytest.mark.example
@pytest.mark.bigquery
def test_lineage(this_on_bigquery: CheckResult) -> None:
    lines = format_lineage(this_on_bigquery, "fct_flights.is_on_time").splitlines()
    assert lines[0] == "fct_flights.is_on_time"
    middle = lines.index("used by:")
    assert "          nyc__flights.flights.arr_delay (source)" in lines[:middle]
    assert "  agg_route_performance.on_time_rate" in lines[middle:]
    # Neither a column that only filters, nor one that is read beside it.
    assert not any("air_time" in line or "tail_number" in line for line in lines)


@pytest.mark.example
@pytest.mark.bigquery
def test_lineage_of_a_column_of_a_source(this_on_bigquery: CheckResult) -> None:
    text = format_lineage(this_on_bigquery, "nyc__flights.flights.tailnum")
    assert "stg_nyc__flights__flights.tail_number" in text
    assert "fct_flights.plane_key" in text


@pytest.mark.example
@pytest.mark.bigquery
def test_lineage_of_a_column_that_is_not_there(this_on_bigquery: CheckResult) -> None:
    with pytest.raises(SelectionError, match=r"no column 'is_ontime'.* Did you mean 'is_on_time'"):
        format_lineage(this_on_bigquery, "fct_flights.is_ontime")
    with pytest.raises(SelectionError, match=r"no model 'fct_flight'.* Did you mean"):
        format_lineage(this_on_bigquery, "fct_flight.is_on_time")


def test_lineage_needs_the_analyzer() -> None:
    with pytest.raises(ConfigurationError, match="needs Google's SQL analyzer"):
        format_lineage(CheckResult(), "fct_flights.is_on_time")


@pytest.mark.conformance
@pytest.mark.parametrize("warehouse", ["postgres", "bigquery"])
def test_the_conformance_project_passes(folder: Path, warehouse: Warehouse) -> None:
    sound = EVERY_TROUBLE | {"troubles": []}
    result = check_project(folder / "conformance/dbt", folder / ".local", sound, (warehouse,))
    assert result.findings == []
    assert {each.reason for each in result.unchecked} <= {HOOKS, UNIT_TESTS}


@pytest.mark.conformance
@pytest.mark.parametrize("warehouse", ["postgres", "bigquery"])
def test_the_troubles_of_the_conformance_project(folder: Path, warehouse: Warehouse) -> None:
    result = check_project(
        folder / "conformance/dbt", folder / ".local", EVERY_TROUBLE, (warehouse,)
    )
    found = {get_short_name(each.node) for each in result.findings}
    # A condition of a test that only this warehouse refuses.
    assert TROUBLES <= found <= TROUBLES | {"not_null_of_some", "fraction_of_failures"}, found
    reasons = {get_short_name(each.node): each.reason for each in result.unchecked}
    assert reasons["raw.missing"].startswith("YAML declares no data_type")
    assert reasons["bad_snapshot_behind"] == "bad_snapshot has an error"
    assert reasons["singular_asks"].startswith("its SQL depends on rows")


def test_a_missing_analyzer_leaves_the_other_warehouse(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "find_spec", lambda name: None if name == "zetasql" else object())
    monkeypatch.setattr(check, "_check", lambda *_: (CheckResult(checked={"postgres": 1}), set()))
    result = check_project(folder / "this" / "dbt", folder / ".local", {"missing": True})
    assert result.checked == {"postgres": 1}
    (unchecked,) = result.unchecked
    assert unchecked.warehouses == ("bigquery",)
    assert unchecked.reason.endswith("uv sync --inexact --extra check")


def test_nothing_is_checked_again_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[str] = []

    def note(*_: object) -> tuple[CheckResult, set[str]]:
        checks.append("")
        return CheckResult(checked={"postgres": len(checks)}), {"A_VARIABLE"}

    monkeypatch.setattr(check, "_check", note)
    dbt = tmp_path / "dbt"
    (dbt / "models").mkdir(parents=True)
    model = dbt / "models" / "a.sql"
    model.write_text("select 1 as id")

    def run(**variables: object) -> int:
        return check_project(dbt, tmp_path, variables, ("postgres",)).checked["postgres"]

    assert [run(), run()] == [1, 1]
    (dbt / "target").mkdir()
    (dbt / "target" / "manifest.json").write_text("{}")
    assert run() == 1
    model.write_text("select 2 as id")
    assert [run(), run()] == [2, 2]
    monkeypatch.setenv("A_VARIABLE", "set")
    assert [run(), run()] == [3, 3]
    assert [run(one=1), run(one=1)] == [4, 4]
    for number, damage in enumerate(("not JSON", "{}", '{"key": "", "variables": 1}'), 5):
        (tmp_path / "check" / "result.json").write_text(damage)
        assert run(one=1) == number
