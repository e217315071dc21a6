"""A server that restarts in the middle of a run, and the target that the run holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prefect_flows.core.names import concurrency_limit
from tests.support.project import Project, until

pytestmark = pytest.mark.kills

HOLD = """
import sys, time
from prefect.concurrency.sync import concurrency
from prefect_flows.core.names import concurrency_limit
with concurrency(concurrency_limit("dev"), occupy=1, strict=True, timeout_seconds=100):
    print("held", flush=True)
    sys.stdin.readline()
"""


def slots(project: Project) -> int:
    url = f"{project.api_url}/v2/concurrency_limits/{concurrency_limit('dev')}"
    return int(project.http.get(url).json()["active_slots"])


@pytest.mark.nightly
def test_a_restart_gives_back_what_a_run_held(own_project: Project, tmp_path: Path) -> None:
    """GIVEN a run that holds its target while the server restarts, and ends afterwards."""
    project = own_project
    done = project.setup("--blocks-only", "--target", "dev")
    assert done.returncode == 0, done.stderr
    script = tmp_path / "hold.py"
    script.write_text(HOLD)
    with subprocess.Popen(
        [sys.executable, str(script)], cwd=project.folder, env=project.variables(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdin is not None
        assert run.stdout.readline() == "held\n"
        assert slots(project) == 1
        port = project.server["port"]
        for command in (["down"], ["up", "--port", str(port)]):
            done = project.run("-m", "infrastructure.cli", *command)
            assert done.returncode == 0, done.stderr
        assert slots(project) == 1
        run.stdin.write("\n")
        run.stdin.flush()
    until(lambda: not slots(project))
