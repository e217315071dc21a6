"""Hooks that are at work when the run is told to stop, or when their time is up."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.support.project import PATIENCE, Scratch, until

# It would write its row at its end.
SECONDS = 120
HOOK = f"insert into public.hooked select 1 from pg_sleep({SECONDS})"


def is_hook_running(scratch: Scratch, process: subprocess.Popen[str]) -> bool:
    ((count,),) = scratch.query(
        "select count(*) from pg_stat_activity where state = 'active' and query like '%hooked%'"
        " and pid <> pg_backend_pid()",
        scratch.database,
    )
    assert process.poll() is None, process.communicate()[0]
    return bool(count)


@pytest.mark.kills
def test_a_hook_is_cancelled_when_the_run_stops_and_when_its_time_is_up(scratch: Scratch) -> None:
    scratch.query("create table public.hooked (id int)", scratch.database)
    project_file = scratch.folder / "dbt" / "dbt_project.yml"
    text = project_file.read_text()
    project_file.write_text(f'{text}on-run-end: ["{HOOK}"]\n')
    process = scratch.start_pipeline("--no-prefect", "--skip", "docs")
    try:
        until(lambda: is_hook_running(scratch, process))
        told = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert time.monotonic() - told < SECONDS
    assert "RunCancelled: The run was cancelled by SIGTERM" in output
    assert "Traceback" not in output
    assert scratch.query("select * from public.hooked", scratch.database) == []

    project_file.write_text(f'{text}on-run-start: ["{HOOK}"]\n')
    began = time.monotonic()
    done = scratch.run_pipeline(
        "--no-prefect",
        "--skip",
        "docs",
        "--no-resume",
        MILLRACE_STAGES__DBT_RUN__TIMEOUT_SECONDS="3",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert time.monotonic() - began < SECONDS
    assert "StageTimedOut: dbt-run did not end within 3 s." in done.stderr
    assert "Traceback" not in done.stderr
    assert scratch.query("select * from public.hooked", scratch.database) == []
