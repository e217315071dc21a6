"""In which order a run takes nodes that are made of one another, and what its hooks see of them."""

from __future__ import annotations

import json

import pytest

from tests.support.project import Scratch

HOOK = """
insert into public.seen values (
    '{{ flags.WHICH }}',
    '{{ results | map(attribute="node.name") | sort | join(" ") }}',
    '{{ schemas | sort | join(" ") }}',
    '{{ selected_resources | length }}'
)
"""


@pytest.mark.conformance
def test_a_snapshot_follows_its_model_and_hooks_of_a_resumed_run_see_all_of_it(
    scratch: Scratch,
) -> None:
    # GIVEN a snapshot of a model with a model behind it, and a source that a seed fills
    dbt = scratch.folder / "dbt"
    for folder in ("seeds", "snapshots"):
        (dbt / folder).mkdir()
    (dbt / "seeds" / "delivered.csv").write_text("id,loaded_at\n1,2026-01-01 00:00:00\n")
    (dbt / "snapshots" / "history.sql").write_text(
        "{% snapshot history %}{{ config(target_schema='scratch', unique_key='name',"
        " strategy='check', check_cols=['id']) }}"
        "select 'one' as name, id from {{ ref('numbers') }}{% endsnapshot %}"
    )
    scratch.model("numbers", "{{ config(materialized='table') }} select 1 as id")
    scratch.model("behind", "select id from {{ ref('history') }} where dbt_valid_to is null")
    scratch.model("apart", "{{ config(schema='apart') }} select 1 as id")
    limit = {"error_after": {"count": 10_000, "period": "day"}}
    config = {"loaded_at_field": "loaded_at", "freshness": limit}
    source = {
        "name": "raw",
        "schema": "scratch",
        "config": config,
        "tables": [{"name": "delivered"}],
    }
    scratch.properties(sources=[source])
    with (dbt / "dbt_project.yml").open("a") as project_file:
        project_file.write(f"on-run-end: [{json.dumps(HOOK)}]\n")
    seen = "create table public.seen (command text, results text, schemas text, selected text)"
    scratch.query(seen, scratch.database)

    # WHEN it runs for the first time
    first = scratch.run_pipeline("--no-prefect", "--skip", "docs")

    # THEN nothing is looked for before it is there
    assert first.returncode == 0, first.stdout + first.stderr
    assert (
        "The freshness of source.scratch.raw.delivered is not checked: its table is missing, and "
        "seed.scratch.delivered makes it in this run." in first.stderr
    )
    assert scratch.query("select id from scratch.behind", scratch.database) == [(1,)]
    every = "apart behind doubled history numbers"
    seen_by_hooks = "select command, results, schemas, selected from public.seen"
    assert scratch.query(seen_by_hooks, scratch.database) == [
        ("seed", "delivered", "scratch", "1"),
        ("build", every, "scratch scratch_apart", "5"),
    ]

    # WHEN it was killed before its hooks, and the model is another one now
    (run,) = (scratch.local / "state" / "runs" / scratch.target).iterdir()
    header = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(header | {"ended": None, "ended_at": None}))
    journal = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    left = [line for line in journal if json.loads(line).get("stage") != "dbt-run"]
    (run / "journal.jsonl").write_text("".join(left))
    scratch.query("truncate public.seen", scratch.database)
    scratch.model("numbers", "{{ config(materialized='table') }} select 2 as id")
    resumed = scratch.run_pipeline("--no-prefect", "--skip", "docs")

    # THEN the snapshot has what the model is now, and the hooks see the node that was done too
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "2 nodes done, 4 changed and" in resumed.stderr
    assert scratch.query("select id from scratch.behind", scratch.database) == [(2,)]
    assert scratch.query(seen_by_hooks, scratch.database) == [
        ("freshness", "delivered", "", "1"),
        ("build", every, "scratch scratch_apart", "5"),
    ]
