"""One run of a target at a time, and one that stops when it is told to."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.project import (
    PATIENCE,
    Project,
    Scratch,
    copy_of_the_project,
    stop_servers,
    until,
)

pytestmark = pytest.mark.kills

SLOW = "select pg_sleep(600)::text as id"
# Much less than the statement takes, and enough for a busy machine.
SECONDS_TO_STOP = 120
# The rest of a run, and the last pause between two requests of Prefect's client.
SECONDS_TO_END = 90


@contextmanager
def running(
    scratch: Scratch, *arguments: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """The pipeline, in the background, its output in `output`."""
    with (scratch.folder / "output").open("w") as output:
        process = scratch.start_pipeline(*arguments, output=output, **environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def output(scratch: Scratch) -> str:
    return (scratch.folder / "output").read_text()


def statements(scratch: Scratch) -> int:
    """How many of the slow statements the database is working on."""
    ((count,),) = scratch.query(
        "select count(*) from pg_stat_activity where state = 'active' and datname = 'scratch'"
        " and query like '%pg_sleep%' and pid <> pg_backend_pid()"
    )
    return int(count)


def wait_until(scratch: Scratch, process: subprocess.Popen[str], number: int = 1) -> None:
    def is_running() -> bool:
        assert process.poll() is None, output(scratch)
        return statements(scratch) == number

    until(is_running)


def slow(scratch: Scratch) -> None:
    scratch.model("slow", "{{ config(materialized='table') }}" + SLOW)


@pytest.mark.parametrize(
    ("how", "arguments"),
    [
        pytest.param("SIGTERM", [], id="SIGTERM"),
        pytest.param("SIGINT", ["--no-prefect"], id="SIGINT without Prefect"),
        pytest.param("CANCELLING", [], id="cancelled in Prefect"),
        pytest.param("SIGINT", [], id="SIGINT", marks=pytest.mark.nightly),
        pytest.param(
            "SIGTERM", ["--no-prefect"], id="SIGTERM without Prefect", marks=pytest.mark.nightly
        ),
    ],
)
def test_a_signal_cancels_the_statements_and_the_next_run_resumes(
    project: Project, scratch: Scratch, how: str, arguments: list[str]
) -> None:
    slow(scratch)

    with running(scratch, *arguments) as process:
        wait_until(scratch, process)
        told = time.monotonic()
        if how == "CANCELLING":
            project.set_state(project.last_run(scratch.target), how)
        else:
            process.send_signal(signal.Signals[how])
        code = process.wait(timeout=PATIENCE)
        took = time.monotonic() - told

    assert code == 130, output(scratch)
    assert took < SECONDS_TO_STOP
    assert statements(scratch) == 0
    assert "RunCancelled: The run was cancelled" in output(scratch)
    assert "Traceback" not in output(scratch)
    if not arguments:
        run = project.last_run(scratch.target)
        assert (run["state"]["type"], run["state"]["name"]) == ("CANCELLED", "Cancelled")
        task = project.task_runs(run)["dbt-run"]
        assert task["state_type"] == "CANCELLED"

    scratch.model("slow", "{{ config(materialized='table') }} select 1 as id")
    again = scratch.run_pipeline(*arguments, "--no-wait")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Resuming run" in again.stderr
    assert " nodes done, " in again.stderr


def test_a_second_run_waits_and_says_for_whom_or_fails_at_once(
    project: Project, scratch: Scratch
) -> None:
    slow(scratch)
    with running(scratch) as first:
        wait_until(scratch, first)
        run = project.last_run(scratch.target)

        # Prefect's lease is asked where the lock of the state folder is another one's.
        elsewhere = {"MILLRACE_STATE_URL": str(scratch.folder / "another-state")}
        for door, environment in (([], {}), (["--no-prefect"], {}), ([], elsewhere)):
            refused = scratch.run_pipeline("--no-wait", *door, **environment)
            assert refused.returncode == 2, refused.stdout + refused.stderr
            assert "TargetBusy: Target 'scratch' is locked by" in refused.stderr
            assert "start this one without --no-wait" in refused.stderr
            if not environment:
                assert run["id"] in refused.stderr
                assert f"process {first.pid}" in refused.stderr

        second = scratch.start_pipeline("--select", "numbers")
        assert second.stdout is not None
        said = next(line for line in second.stdout if "is locked; waiting for" in line)
        assert run["id"] in said
        first.send_signal(signal.SIGTERM)
        first.wait(timeout=PATIENCE)
        rest, _ = second.communicate(timeout=PATIENCE)
        assert second.returncode == 0, rest


@pytest.mark.nightly
def test_the_lease_of_a_killed_run_ends_by_itself(scratch: Scratch) -> None:
    slow(scratch)
    with running(scratch) as first:
        wait_until(scratch, first)
        first.send_signal(signal.SIGKILL)
        first.wait()
    scratch.model("slow", "{{ config(materialized='table') }} select 1 as id")
    began = time.monotonic()

    again = scratch.run_pipeline()

    assert again.returncode == 0, again.stdout + again.stderr
    assert "Resuming run" in again.stderr
    assert time.monotonic() - began < 150


@pytest.fixture
def own_server(tmp_path: Path, scratch: Scratch, prefect_database: Path) -> Iterator[Project]:
    """A Prefect server that may be stopped, with the block of the scratch target."""
    project = copy_of_the_project(tmp_path / "own" / "millrace", prefect_database)
    try:
        done = project.run("-m", "infrastructure.cli", "up")
        assert done.returncode == 0, done.stdout + done.stderr
        (scratch.folder / "prefect.toml").unlink()
        (scratch.folder / "prefect.toml").symlink_to(project.folder / "prefect.toml")
        done = scratch.setup("--outputs", str(scratch.folder / "outputs.json"))
        assert done.returncode == 0, done.stdout + done.stderr
        yield project
    finally:
        stop_servers(project)


@pytest.mark.nightly
def test_when_the_api_dies_dbt_finishes_and_the_run_says_what_it_could_not_report(
    scratch: Scratch, own_server: Project
) -> None:
    scratch.model("slow", "{{ config(materialized='table') }} select pg_sleep(8)::text as id")
    scratch.properties(
        models=[{"name": "slow", "columns": [{"name": "id", "data_tests": ["unique"]}]}]
    )
    with running(scratch, MILLRACE_UNREACHABLE_SECONDS="35") as process:
        wait_until(scratch, process)
        server = psutil.Process(own_server.server["pid"])
        for child in [*server.children(recursive=True), server]:
            child.kill()
        killed = time.monotonic()
        code = process.wait(timeout=PATIENCE)
        took = time.monotonic() - killed

    said = output(scratch)
    assert code == 1, said  # 2 would say that nothing was changed
    assert took < 35 + SECONDS_TO_END, said
    assert "Waiting for the Prefect API: " in said
    assert "PrefectUnreachable: The run is over, and its end could not be reported" in said
    assert "Could not report to Prefect: artifact scratch-report" in said
    assert "Results and report are in" in said
    assert "Target scratch is done in" in said
    assert scratch.relations() == {"numbers", "doubled", "slow"}
    state = scratch.folder / ".local" / "state" / "targets" / "scratch"
    assert "unique_slow_id" in (state / "run_results.json").read_text()
    assert "artifact scratch-report" in (state / "report.html").read_text()
