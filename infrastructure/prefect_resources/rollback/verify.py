"""Whether a target works after a rollback: its worker has reported, and the health check passes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# How a run ended before, or that one lost its lease while the server was away, says nothing about
# what runs after it.
NOT_ASKED = ("last run", "running")
HEALTHY, UNHEALTHY = 0, 1
CHECK_SECONDS = 30.0
POLL_SECONDS = 3.0


def heartbeats(client: SyncPrefectClient, pools: Iterable[str]) -> dict[str, datetime | None]:
    """When any worker of each pool has last reported; none for a pool without one."""
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
    """Ask until nothing fails, or the time is up; what fails then, a line each.

    Args:
        before: the last report of each pool's workers at the restart. A worker that ended just then
            is taken for alive for a minute and a half; one that came up reports again.
    """
    deadline = time.monotonic() + seconds
    while True:
        faults = [
            f"worker {name}: none has reported since the restart; see its log, and start it"
            for name, last in heartbeats(client, before).items()
            if last == before[name]
        ] or list(health(target).values())
        if not faults or time.monotonic() > deadline:
            return faults
        time.sleep(POLL_SECONDS)


def health(target: str) -> dict[str, str]:
    """What the health check of a target finds failing: check and subject → a line of why."""
    done = subprocess.run(
        [sys.executable, "-m", "infrastructure.cli", "health", "--json",
         "--timeout", str(CHECK_SECONDS), "--", target],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (HEALTHY, UNHEALTHY):
        return {"health check": done.stderr.strip()}
    found = {}
    for check in json.loads(done.stdout)["checks"]:
        if check["status"] == "failed" and check["name"] not in NOT_ASKED:
            what = f"{check['name']} {check['subject']}".strip()
            fix = f"; {check['fix']}" if check.get("fix") else ""
            found[what] = f"{what}: {check['seen']}{fix}"
    return found
