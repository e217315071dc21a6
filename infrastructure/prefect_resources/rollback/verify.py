"""Verify a rollback: the worker has sent a heartbeat, and the health check passes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from prefect_flows.core.command_line import EXIT_FAILED

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Ignored checks: a run that failed before, or lost its lease while the server was away, does not
# affect later runs.
IGNORED_CHECKS = ("last run", "running")
CHECK_SECONDS = 30.0
POLL_SECONDS = 3.0


def read_heartbeats(client: SyncPrefectClient, pools: Iterable[str]) -> dict[str, datetime | None]:
    """Return the latest worker heartbeat of each work pool; None if there is none."""
    return {
        name: max(
            (
                worker.last_heartbeat_time
                for worker in client.read_workers_for_work_pool(name)
                if worker.last_heartbeat_time is not None
            ),
            default=None,
        )
        for name in pools
    }


def verify(
    client: SyncPrefectClient,
    target: str,
    before: Mapping[str, datetime | None],
    seconds: float,
) -> list[str]:
    """Check until nothing fails or the time is over; return the remaining faults.

    Args:
        client: client of the Prefect API.
        target: the target.
        before: latest heartbeat of each work pool before the restart. A worker that has just
            exited counts as online for another 90 seconds; a restarted one sends a new heartbeat.
        seconds: how long to check.
    """
    deadline = time.monotonic() + seconds
    while True:
        faults = [
            f"worker {name}: none has reported since the restart; see its log, and start it"
            for name, last in read_heartbeats(client, before).items()
            if last == before[name]
        ] or list(run_health_check(target).values())
        if not faults or time.monotonic() > deadline:
            return faults
        time.sleep(POLL_SECONDS)


def run_health_check(target: str) -> dict[str, str]:
    """Run the health check of a target; return failed checks → one line with the reason."""
    done = subprocess.run(
        [sys.executable, "-m", "infrastructure.cli", "health", "--json",
         "--timeout", str(CHECK_SECONDS), "--", target],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, EXIT_FAILED):
        return {"health check": done.stderr.strip()}
    found = {}
    for check in json.loads(done.stdout)["checks"]:
        if check["status"] == "failed" and check["name"] not in IGNORED_CHECKS:
            what = f"{check['name']} {check['subject']}".strip()
            fix = f"; {check['fix']}" if check.get("fix") else ""
            found[what] = f"{what}: {check['message']}{fix}"
    return found
