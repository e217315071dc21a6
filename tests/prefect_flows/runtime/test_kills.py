"""Killed anywhere, a run starts again where it stopped."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.project import Scratch

pytestmark = pytest.mark.kills

# Outside the node's transaction, so that it stays when the node is rolled back.
LOGGED = (
    "{{ config(pre_hook={'sql': \"insert into public.executions values ('\" ~ this.name ~ \"')\","
    " 'transaction': false}) }}"
)


@pytest.fixture
def chained(scratch: Scratch) -> Scratch:
    """Ten nodes of every kind that keeps something in the warehouse, each after the other."""
    dbt = scratch.folder / "dbt"
    for model in (dbt / "models").glob("*"):
        model.unlink()
    (dbt / "seeds").mkdir()
    (dbt / "seeds" / "numbers.csv").write_text("id\n1\n2\n3\n")
    (dbt / "snapshots").mkdir()
    (dbt / "snapshots" / "numbers_snapshot.sql").write_text(
        "{% snapshot numbers_snapshot %}{{ config(target_schema='scratch', unique_key='id',"
        " strategy='check', check_cols=['id']) }}" + LOGGED + "select * from {{ ref('numbers') }}"
        "{% endsnapshot %}"
    )
    scratch.model("one", LOGGED + "select id from {{ ref('numbers_snapshot') }}")
    scratch.model(
        "two", LOGGED + "{{ config(materialized='table') }}select * from {{ ref('one') }}"
    )
    scratch.model(
        "three",
        LOGGED + "{{ config(materialized='incremental') }}select id from {{ ref('two') }}"
        "{% if is_incremental() %} where id > (select max(id) from {{ this }}){% endif %}",
    )
    scratch.model(
        "four", LOGGED + "{{ config(materialized='table') }}select * from {{ ref('three') }}"
    )
    scratch.properties(
        models=[
            {"name": name, "columns": [{"name": "id", "data_tests": ["unique", "not_null"]}]}
            for name in ("two", "four")
        ]
    )
    scratch.query("create table public.executions (node text)", scratch.database)
    return scratch


def generated(scratch: Scratch, tables: int) -> None:
    """A project of as many tables and twice as many tests."""
    for model in (scratch.folder / "dbt" / "models").glob("*"):
        model.unlink()
    for number in range(tables):
        parent = f"from {{{{ ref('m{number - 10}') }}}}" if number >= 10 else ""
        sql = f"select {number} as id {parent}"
        scratch.model(f"m{number}", LOGGED + "{{ config(materialized='table') }}" + sql)
    scratch.properties(
        models=[
            {
                "name": f"m{number}",
                "columns": [{"name": "id", "data_tests": ["unique", "not_null"]}],
            }
            for number in range(tables)
        ]
    )
    scratch.query("create table public.executions (node text)", scratch.database)


@contextmanager
def started(scratch: Scratch, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The pipeline in some folder, with the state store of the scratch project; no Prefect."""
    process = scratch.start_pipeline(
        *("--skip", "docs", "--no-prefect"),
        *arguments,
        folder=folder,
        MILLRACE_PROJECT_DIR=str(folder),
        PYTHONPATH=str(folder),
        MILLRACE_STATE_URL=str(scratch.folder / "state"),
        MILLRACE_VERBOSE="true",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def nodes(process: subprocess.Popen[str], seen: list[str]) -> Iterator[str]:
    """The lines of finished nodes, as they come; all lines go into `seen`."""
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(line)
        if " of " in line and line.rstrip().endswith(" s"):
            yield line


def another_machine(scratch: Scratch, folder: Path) -> Path:
    """A clone beside the project: what git holds, and nothing that a run left behind."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        scratch.folder, folder, symlinks=True, ignore=shutil.ignore_patterns(".local", "state")
    )
    return folder


def journaled(scratch: Scratch) -> set[str]:
    """Names of the nodes that the journal of the last run says are done."""
    run = max((scratch.folder / "state" / "runs" / scratch.target).iterdir())
    names = set()
    for line in (run / "journal.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "node" in entry and entry["result"]["status"] in ("success", "pass"):
            names.add(entry["result"]["name"])
    return names


def executions(scratch: Scratch) -> Counter[str]:
    return Counter(name for (name,) in scratch.query("table public.executions", scratch.database))


def contents(scratch: Scratch) -> dict[str, list[tuple[object, ...]]]:
    return {
        name: sorted(scratch.query(f"select id from scratch.{name}", scratch.database))
        for name in scratch.relations()
    }


@pytest.mark.nightly
@pytest.mark.parametrize("strategy", ["run_then_test", "build"])
def test_killed_at_each_node_it_goes_on_with_the_next_one_elsewhere(
    chained: Scratch, tmp_path: Path, strategy: str
) -> None:
    total = 10
    with started(chained, chained.folder, "--strategy", strategy) as process:
        seen: list[str] = []
        assert len(list(nodes(process, seen))) == total, "".join(seen)
    expected = contents(chained)
    assert executions(chained) == dict.fromkeys(
        ("numbers_snapshot", "one", "two", "three", "four"), 1
    )

    # The order of a build differs only in where its tests are.
    for kills_after in range(1, total) if strategy == "run_then_test" else (2, 5, 8):
        chained.query("drop schema scratch cascade; truncate public.executions", chained.database)
        shutil.rmtree(chained.folder / "state")
        with started(chained, chained.folder, "--strategy", strategy) as process:
            seen = []
            finished = nodes(process, seen)
            for _ in range(kills_after):
                next(finished)
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = journaled(chained)
        assert len(done) >= kills_after, "a node was shown as done and is not in the journal"
        before = executions(chained)

        elsewhere = another_machine(chained, tmp_path / "elsewhere")
        with started(chained, elsewhere, "--strategy", strategy) as process:
            seen = []
            again = list(nodes(process, seen))
            assert process.wait() == 0, "".join(seen)

        assert f"{len(done)} nodes done, 0 changed" in "".join(seen)
        assert len(again) == total - len(done)
        after = executions(chained)
        assert {name: after[name] for name in done} == {name: before[name] for name in done}
        assert contents(chained) == expected


@pytest.mark.nightly
def test_killed_at_twenty_random_moments_nothing_is_lost_and_nothing_done_twice(
    scratch: Scratch, tmp_path: Path
) -> None:
    generated(scratch, tables=100)
    dice = random.Random(20)
    expected = {f"m{number}": [(number,)] for number in range(100)}
    kills, passes, elsewhere = 0, 0, scratch.folder
    safe: dict[str, int] = {}
    while kills < 20:
        with started(scratch, elsewhere) as process:
            seen: list[str] = []
            finished = nodes(process, seen)
            if next(finished, None) is not None:
                deadline = time.monotonic() + dice.uniform(0, 0.6)
                for _ in finished:
                    if time.monotonic() > deadline:
                        break
            ended = process.poll() is not None or not any(
                "Attempt" in s or " of " in s for s in seen
            )
            if not ended:
                process.send_signal(signal.SIGKILL)
            code = process.wait()
        counted = executions(scratch)
        assert {name: counted[name] for name in safe} == safe, "a finished node ran again"
        if code == -signal.SIGKILL:
            kills += 1
            safe = {name: counted[name] for name in journaled(scratch) if name in counted}
            elsewhere = another_machine(scratch, tmp_path / f"elsewhere-{kills % 2}")
            continue
        assert code == 0, "".join(seen)
        passes += 1
        assert contents(scratch) == expected
        scratch.query("drop schema scratch cascade; truncate public.executions", scratch.database)
        safe = {}
    with started(scratch, elsewhere) as process:
        seen = []
        list(nodes(process, seen))
        assert process.wait() == 0, "".join(seen)
    counted = executions(scratch)
    assert {name: counted[name] for name in safe} == safe
    assert contents(scratch) == expected
    results = json.loads(
        (scratch.folder / "state" / "targets" / "scratch" / "run_results.json").read_text()
    )["results"]
    assert len(results) == 300
    assert {result["status"] for result in results} == {"success", "pass"}


@pytest.mark.nightly
def test_a_half_written_line_is_left_out_and_changed_code_runs_again(chained: Scratch) -> None:
    with started(chained, chained.folder) as process:
        seen: list[str] = []
        finished = nodes(process, seen)
        for _ in range(6):  # seed, snapshot, and the four models
            next(finished)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run = max((chained.folder / "state" / "runs" / "scratch").iterdir())
    journal = (run / "journal.jsonl").read_bytes()
    lines = [line for line in journal.splitlines(keepends=True) if b'"node"' in line]
    four = next(line for line in lines if b'"name": "four"' in line)
    (run / "journal.jsonl").write_bytes(journal.replace(four, four[: len(four) // 2]))
    chained.model(
        "two",
        LOGGED + "{{ config(materialized='table') }}select id from {{ ref('one') }} where id > 1",
    )

    with started(chained, chained.folder) as process:
        seen = []
        names = [re.split(r" +", line.partition(" of ")[2])[3] for line in nodes(process, seen)]
        assert process.wait() == 0, "".join(seen)

    assert "3 nodes done, 2 changed and" in "".join(seen)
    assert names[:3] == ["two", "three", "four"]
    assert set(executions(chained).items()) == {
        ("numbers_snapshot", 1), ("one", 1), ("two", 2), ("three", 2), ("four", 2)
    }  # fmt: skip


@pytest.mark.nightly
def test_fresh_starts_over_and_other_parameters_are_another_run(chained: Scratch) -> None:
    def killed() -> None:
        with started(chained, chained.folder) as process:
            finished = nodes(process, [])
            for _ in range(3):
                next(finished)
            process.send_signal(signal.SIGKILL)
            process.wait()

    for arguments in (["--no-resume"], ["--full-refresh"]):
        killed()
        with started(chained, chained.folder, *arguments) as process:
            seen: list[str] = []
            assert len(list(nodes(process, seen))) == 10, "".join(seen)
            assert process.wait() == 0
        assert "Resuming run" not in "".join(seen)


def test_killed_between_the_last_node_and_the_hooks_the_hooks_run(scratch: Scratch) -> None:
    scratch.query("create table public.executions (node text)", scratch.database)
    project_file = scratch.folder / "dbt" / "dbt_project.yml"
    text = project_file.read_text()
    project_file.write_text(text + 'on-run-end: ["select pg_sleep(60)"]\n')
    with started(scratch, scratch.folder) as process:
        finished = nodes(process, [])
        assert len([next(finished), next(finished)]) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    project_file.write_text(
        text + "on-run-end: [\"insert into public.executions values ('hook')\"]\n"
    )

    with started(scratch, scratch.folder) as process:
        seen: list[str] = []
        assert list(nodes(process, seen)) == []
        assert process.wait() == 0, "".join(seen)

    assert "2 nodes done, 0 changed and" in "".join(seen)
    assert executions(scratch) == {"hook": 1}
