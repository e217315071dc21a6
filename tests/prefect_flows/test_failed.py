"""`--failed`: what failed or was skipped in the last run is run, and nothing else."""

from __future__ import annotations

import json

from tests.support.project import Scratch


def test_it_runs_what_failed_and_what_was_skipped_because_of_it(scratch: Scratch) -> None:
    scratch.query("create sequence built", scratch.database)
    scratch.model(
        "numbers",
        "{{ config(materialized='table', post_hook=\"select nextval('built')\") }} select 1 as id",
    )
    table = "{{ config(materialized='table') }} "
    scratch.model("faulty", table + "select 1 / 0 as id from {{ ref('numbers') }}")
    scratch.model("behind", "select id from {{ ref('faulty') }}")
    rerun = "uv run millrace run --target scratch --failed --no-prefect"

    done = scratch.run_pipeline("--no-prefect", "--skip", "docs")

    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1] == f"  rerun: {rerun}"
    assert "First cause (code), model faulty" in done.stderr

    done = scratch.pipeline(*rerun.split()[4:], "--exclude", "behind")
    assert done.returncode == 2
    assert "uses the parameters of the last run, which differ in exclude." in done.stderr

    scratch.model("faulty", table + "select id from {{ ref('numbers') }}")
    done = scratch.pipeline(*rerun.split()[4:])

    assert done.returncode == 0, done.stdout + done.stderr
    assert "which failed: 2 nodes done, 0 changed and" in done.stderr
    assert "Resuming with 2 of 4 nodes." in done.stderr
    assert {"numbers", "doubled", "faulty", "behind"} <= scratch.relations()
    assert scratch.query("select last_value from built", scratch.database) == [(1,)]
    state = scratch.local / "state" / "targets" / "scratch"
    history = json.loads((state / "history.json").read_text())
    assert [run["outcome"] for run in history["runs"]] == ["failed", "passed"]
    assert history["last_good"]["run_id"] == history["runs"][1]["run_id"], "both are a whole run"

    done = scratch.pipeline(*rerun.split()[4:])

    assert done.returncode == 2
    assert "ConfigurationError: Target 'scratch' has no run that failed" in done.stderr
    assert done.stderr.endswith("uv run millrace run --target scratch\n")
