"""Runs of the pipeline whose data tests run in batches, and what remains of each test."""

from __future__ import annotations

import json
import signal
import time
from itertools import pairwise
from typing import Any

import pytest

from prefect_flows.transform.test_batching.execution import _share
from tests.support.project import PATIENCE, Scratch, until

RUN = ("--no-prefect", "--skip", "docs")


def results(scratch: Scratch) -> dict[str, dict[str, Any]]:
    """Name of each test → its entry in `run_results.json`."""
    file = scratch.local / "state" / "targets" / "scratch" / "run_results.json"
    found = json.loads(file.read_text())["results"]
    return {
        each["unique_id"].split(".")[2]: each
        for each in found
        if each["unique_id"].startswith("test.")
    }


def tested(scratch: Scratch, *tests: Any) -> None:
    """Make the model `numbers` the only one, with tests of its column `n`: 1, 2, 3."""
    columns = [{"name": "n", "data_tests": list(tests)}]
    scratch.model("numbers", "{{ config(materialized='table') }} select generate_series(1, 3) as n")
    (scratch.folder / "dbt" / "models" / "doubled.sql").unlink(missing_ok=True)
    scratch.properties(models=[{"name": "numbers", "columns": columns}])


def singular(scratch: Scratch, name: str, sql: str) -> None:
    folder = scratch.folder / "dbt" / "tests"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.sql").write_text(sql)


@pytest.mark.parametrize("strategy", ["run_then_test", "build"])
def test_tests_of_a_model_share_a_statement(scratch: Scratch, strategy: str) -> None:
    tested(scratch, "not_null", "unique", {"accepted_values": {"arguments": {"values": ["1"]}}})

    scratch.run_pipeline(*RUN, "--strategy", strategy)

    found = results(scratch)
    (accepted,) = (name for name in found if name.startswith("accepted_values"))
    assert found[accepted]["status"] == "fail"
    assert found[accepted]["failures"] > 0
    assert found[accepted]["millrace"]["cause"] == "data"
    assert {result["status"] for name, result in found.items() if name != accepted} == {"pass"}
    for result in found.values():
        assert result["adapter_response"]["tests_in_statement"] == 3
        assert [each["name"] for each in result["timing"]] == ["compile", "execute"]
        assert result["compiled_code"].strip()
    steps = sorted(
        (each["started_at"], each["completed_at"])
        for result in found.values()
        for each in result["timing"]
        if each["name"] == "execute"
    )
    assert all(end <= start for (_, end), (start, _) in pairwise(steps))


def test_a_statement_that_fails_is_split_until_its_culprits_are_alone(scratch: Scratch) -> None:
    sums_nothing = {"not_null": {"name": "sums_nothing", "config": {"fail_calc": "sum(n)"}}}
    tested(scratch, "not_null", "unique", {"no_test": {"name": "errs"}}, sums_nothing)
    macros = scratch.folder / "dbt" / "macros"
    macros.mkdir(exist_ok=True)
    (macros / "no_test.sql").write_text(
        "{% test no_test(model, column_name) %} select no_column from {{ model }} {% endtest %}"
    )
    for number in range(6):
        singular(scratch, f"passes_{number}", "select 1 as n where false")
    singular(scratch, "divides", "select n from {{ ref('numbers') }} where 1 / (n - n) = 1")
    singular(scratch, "fails", "select n from {{ ref('numbers') }}")

    done = scratch.run_pipeline(*RUN)

    found = {name: result["status"] for name, result in results(scratch).items()}
    assert found.pop("errs") == found.pop("divides") == found.pop("sums_nothing") == "error"
    assert found.pop("fails") == "fail"
    assert set(found.values()) == {"pass"}
    assert len(found) == 8
    assert 'column "no_column" does not exist' in done.stderr
    assert "division by zero" in done.stderr
    assert results(scratch)["errs"]["millrace"]["cause"] == "code"


def test_the_shares_of_a_statement_add_up() -> None:
    response = {"_message": "SELECT", "bytes_processed": 10, "slot_ms": 2}

    shares = _share(response, 3)

    assert [share["bytes_processed"] for share in shares] == [4, 3, 3]
    assert [share["slot_ms"] for share in shares] == [1, 1, 0]
    assert {share["_message"] for share in shares} == {"SELECT"}


def test_a_transient_failure_of_a_batch_is_retried(scratch: Scratch) -> None:
    """It breaks two statements: that of the batch, and that of the test alone."""
    scratch.query(
        "create sequence public.tries; create function public.breaks_twice() returns int as $$ "
        "begin if nextval('public.tries') < 3 then raise exception 'made up' "
        "using errcode = '40001'; end if; return 0; end $$ language plpgsql",
        scratch.database,
    )
    tested(scratch, "not_null", "unique")
    singular(scratch, "breaks", "select 1 as n where public.breaks_twice() = 1")

    done = scratch.run_pipeline(*RUN, MILLRACE_STAGES__DBT_TEST__RETRY_DELAY_SECONDS="0.1")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Attempt 2 runs 1 of 3 nodes." in done.stderr
    assert {result["status"] for result in results(scratch).values()} == {"pass"}


@pytest.mark.kills
def test_a_run_that_stops_within_a_batch_resumes_with_its_tests(scratch: Scratch) -> None:
    """Verdicts of other batches stay."""
    seconds = 600
    scratch.query(
        f"create table public.waits (seconds int); insert into public.waits values ({seconds})",
        scratch.database,
    )
    tested(scratch, "not_null", "unique")
    scratch.model("quick", "{{ config(materialized='table') }} select 1 as id")
    columns = [{"name": "id", "data_tests": ["not_null", "unique"]}]
    properties = scratch.folder / "dbt" / "models" / "quick.yml"
    properties.write_text(json.dumps({"models": [{"name": "quick", "columns": columns}]}))
    sleeping = "select n from {{ ref('numbers') }}, pg_sleep((select seconds from public.waits))"
    singular(scratch, "sleeps", f"{sleeping} where n < 0")

    process = scratch.start_pipeline(*RUN)
    try:
        until(lambda: _is_sleeping(scratch) and "quick" in _journal(scratch))
        stopped_at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()

    assert process.returncode == 130, output
    assert time.monotonic() - stopped_at < seconds
    assert not _is_sleeping(scratch)
    assert "Traceback" not in output
    statuses = {name: result["status"] for name, result in results(scratch).items()}
    assert statuses.pop("not_null_quick_id") == statuses.pop("unique_quick_id") == "pass"
    assert "pass" not in statuses.values(), statuses

    scratch.query("update public.waits set seconds = 0", scratch.database)
    again = scratch.run_pipeline(*RUN)

    assert again.returncode == 0, again.stdout + again.stderr
    assert "Resuming with 3 of 5 nodes." in again.stderr
    assert {result["status"] for result in results(scratch).values()} == {"pass"}


def _is_sleeping(scratch: Scratch) -> bool:
    ((count,),) = scratch.query(
        "select count(*) from pg_stat_activity where state = 'active'"
        " and query like '%pg_sleep%' and pid <> pg_backend_pid()"
        " and datname = current_database()",
        scratch.database,
    )
    return bool(count)


def _journal(scratch: Scratch) -> str:
    """Text of the journal of the last run; empty before it."""
    files = sorted(scratch.local.glob("state/runs/scratch/*/journal.jsonl"))
    return (
        "".join(line for line in files[-1].read_text().splitlines() if "test." in line)
        if files
        else ""
    )


def test_tests_that_must_run_alone_do(scratch: Scratch) -> None:
    tested(
        scratch,
        "not_null",
        "unique",
        {"not_null": {"name": "stored", "config": {"store_failures": True}}},
        {"not_null": {"name": "alone", "config": {"meta": {"run_alone": True}}}},
    )

    scratch.run_pipeline(*RUN)

    shared = {
        name for name, result in results(scratch).items()
        if "tests_in_statement" in result["adapter_response"]
    }  # fmt: skip
    assert shared == {"not_null_numbers_n", "unique_numbers_n"}


@pytest.mark.parametrize("way", ["setting", "macro"])
def test_batching_is_off(scratch: Scratch, way: str) -> None:
    """A project whose own macro makes the statement of a test is not batched."""
    tested(scratch, "not_null", "unique")
    settings = {}
    if way == "setting":
        settings["MILLRACE_BATCH_TESTS"] = "false"
    else:
        macros = scratch.folder / "dbt" / "macros"
        macros.mkdir(exist_ok=True)
        (macros / "get_test_sql.sql").write_text(
            "{% macro get_test_sql(main_sql, fail_calc, warn_if, error_if, limit) %}"
            "select 7 as failures, true as should_warn, true as should_error {% endmacro %}"
        )

    scratch.run_pipeline(*RUN, **settings)

    found = results(scratch).values()
    assert {result["failures"] for result in found} == {0 if way == "setting" else 7}
    assert not any("tests_in_statement" in result["adapter_response"] for result in found)
