"""What a run leaves in the state store, and what the next one spares by it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.project import Scratch


def kept(scratch: Scratch) -> Path:
    return scratch.local / "state" / "targets" / scratch.target


def results(scratch: Scratch) -> dict[str, dict[str, Any]]:
    document = json.loads((kept(scratch) / "run_results.json").read_text())
    return {result["unique_id"].rpartition(".")[2]: result for result in document["results"]}


@pytest.mark.conformance
def test_only_what_changed_since_the_last_good_run_and_what_depends_on_it(scratch: Scratch) -> None:
    scratch.model("apart", "select {{ var('apart', 1) }} as id")
    # dbt's own hash of a seed of more than 1 MiB is its path.
    (scratch.folder / "dbt" / "seeds").mkdir()
    seed = scratch.folder / "dbt" / "seeds" / "large.csv"
    seed.write_text("id,note\n" + "".join(f"{n},{'x' * 110_000}\n" for n in range(10)))
    first = scratch.run_pipeline("--changed")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "No run of the target was good yet: everything counts as changed." in first.stderr
    assert set(results(scratch)) == {"numbers", "doubled", "apart", "large"}

    unchanged = scratch.run_pipeline("--changed")
    assert unchanged.returncode == 0, unchanged.stdout + unchanged.stderr
    assert "Nothing changed since the last good run of the target." in unchanged.stderr
    assert results(scratch) == {}

    scratch.model("numbers", "{{ config(materialized='table') }} select 7 as id")
    seed.write_text(seed.read_text().replace("9,", "12,"))
    with (scratch.folder / "dbt" / "dbt_project.yml").open("a") as project_file:
        project_file.write("vars: {apart: 3}\n")
    changed = scratch.run_pipeline("--changed")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert set(results(scratch)) == {"numbers", "doubled", "apart", "large"}
    found = scratch.query(
        "select d.id, a.id, (select max(id) from scratch.large)"
        " from scratch.doubled as d, scratch.apart as a",
        scratch.database,
    )
    assert found == [(14, 3, 12)]

    # A run that failed, or left something out, is not what the next one is compared with.
    scratch.model("numbers", "select no_such_column as id")
    assert scratch.run_pipeline("--changed").returncode == 1
    scratch.model("numbers", "{{ config(materialized='table') }} select 8 as id")
    partial = scratch.run_pipeline("--changed", "--select", "numbers apart no_such_model")
    assert partial.returncode == 0, partial.stdout + partial.stderr
    assert partial.stdout.count("nothing matches") == 1, "what did not change is no fault"
    assert "nothing matches no_such_model " in partial.stdout
    assert set(results(scratch)) == {"numbers"}
    again = scratch.run_pipeline("--changed")
    assert again.returncode == 0, again.stdout + again.stderr
    assert set(results(scratch)) == {"numbers", "doubled"}


@pytest.mark.conformance
def test_what_stays_in_the_store_and_what_a_fresh_machine_takes_from_it(scratch: Scratch) -> None:
    scratch.properties(
        models=[{"name": "numbers", "columns": [{"name": "id", "data_tests": ["unique"]}]}]
    )
    first = scratch.run_pipeline()
    assert first.returncode == 0, first.stdout + first.stderr
    assert {file.name for file in kept(scratch).iterdir()} == {
        "manifest.json", "hashes.json", "run_results.json", "timings.json", "catalog.json",
        "docs.html", "report.html", "history.json", "node_states.json", "variables.json",
    }  # fmt: skip
    (run,) = (scratch.local / "state" / "runs" / scratch.target).iterdir()
    assert {file.name for file in run.iterdir()} == {
        "run.json", "journal.jsonl", "run_results.json", "dbt.log", "report.html", "summary.json",
        "openlineage.ndjson",
    }  # fmt: skip
    header = json.loads((run / "run.json").read_text())
    assert header["ended"] == "passed"
    manifest = json.loads((kept(scratch) / "manifest.json").read_text())
    assert manifest["metadata"]["env"] == {"MILLRACE_RUN_ID": header["id"]}
    assert "select 1 as id" in manifest["nodes"]["model.scratch.numbers"]["compiled_code"]
    one = results(scratch)["numbers"]
    assert one["millrace"] == {
        "stage": "dbt-run", "attempts": 1, "cause": None, "resumed": False
    }  # fmt: skip
    assert "select 1 as id" in one["compiled_code"]

    # A parsed project that somebody put into the store is code of theirs: it is not taken.
    parsed = scratch.local / "dbt" / scratch.target / "partial_parse.msgpack"
    code = parsed.read_bytes()
    assert b"select 2 as id" in code
    changed = code.replace(b"select 2 as id", b"select 7 as id")
    (kept(scratch) / "partial_parse.msgpack").write_bytes(changed)
    shutil.rmtree(scratch.local / "dbt")
    again = scratch.run_pipeline("--strategy", "build")
    assert again.returncode == 0, again.stdout + again.stderr
    assert scratch.query("select id from scratch.numbers", scratch.database) == [(1,), (2,)]
    assert "dbt-build" in again.stdout
    assert {r["millrace"]["stage"] for r in results(scratch).values()} == {"dbt-build"}
    timings = json.loads((kept(scratch) / "timings.json").read_text())
    assert len(timings) == 2
    assert set(timings[0]) == set(timings[1])


def test_a_report_that_cannot_be_kept_hides_neither_the_run_nor_its_error(scratch: Scratch) -> None:
    # A folder where the report should be.
    (scratch.local / "state" / "targets" / scratch.target / "report.html").mkdir(parents=True)

    passed = scratch.run_pipeline()
    assert passed.returncode == 1, passed.stdout + passed.stderr
    assert "StateStoreError: The state store cannot be written: IsADirectoryError" in passed.stderr
    scratch.model("numbers", "select no_such_column as id")
    failed = scratch.run_pipeline()
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "StageFailed: dbt-run: 1 of 2 nodes failed" in failed.stderr
    assert "The state store cannot be written: IsADirectoryError" in failed.stderr

    runs = sorted((scratch.local / "state" / "runs" / scratch.target).iterdir())
    ended = [json.loads((run / "run.json").read_text())["ended"] for run in runs]
    assert ended == ["passed", "failed"]


@pytest.mark.conformance
def test_a_build_stops_what_is_downstream_of_a_failed_test_and_skips_as_asked(
    scratch: Scratch,
) -> None:
    values = {"accepted_values": {"arguments": {"values": [1]}}}
    scratch.properties(
        models=[{"name": "numbers", "columns": [{"name": "id", "data_tests": [values]}]}]
    )

    failed = scratch.run_pipeline("--strategy", "build")

    assert failed.returncode == 1
    assert "StageFailed: dbt-build: 1 of 3 nodes failed, 1 skipped." in failed.stderr
    assert "First cause (data), test accepted_values_numbers_id__1" in failed.stderr
    assert scratch.relations() == {"numbers"}
    without = scratch.run_pipeline("--strategy", "build", "--skip", "test")
    assert without.returncode == 0, without.stdout + without.stderr
    assert scratch.relations() == {"numbers", "doubled"}
    assert set(results(scratch)) == {"numbers", "doubled"}
