"""What a person would do with the server under systemd: a pool, a deployment, runs and their ends.

trial.py prepare             a process pool and a deployment of the flow beside this file
trial.py start SECONDS SAID  a flow run; prints its id
trial.py state ID            prints the run's state
trial.py ended ID            waits for the run's end; prints its state
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.flows import Flow
from prefect.workers.process import ProcessWorker

POOL = "default-pool"


def prepare(client: SyncPrefectClient) -> None:
    template = ProcessWorker.get_default_base_job_template()
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
    here = str(Path(__file__).parent)
    found = Flow.from_source(here, "slow.py:slow")
    found.deploy("trial", work_pool_name=POOL, print_next_steps=False)  # type: ignore[union-attr]


def state_of(client: SyncPrefectClient, run: str) -> State:
    state = client.read_flow_run(UUID(run)).state
    assert state is not None
    return state


def main(verb: str, *arguments: str) -> str:
    with get_client(sync_client=True) as client:
        if verb == "prepare":
            prepare(client)
            return "prepared"
        if verb == "start":
            parameters = {"seconds": int(arguments[0]), "said": arguments[1]}
            run = run_deployment("slow/trial", parameters=parameters, timeout=0)
            return str(run.id)  # type: ignore[union-attr]
        until = time.monotonic() + (600 if verb == "ended" else 0)
        while not (state := state_of(client, arguments[0])).is_final() and time.monotonic() < until:
            time.sleep(1)
        return f"{state.name}: {state.message}"


if __name__ == "__main__":
    sys.stdout.write(main(*sys.argv[1:]) + "\n")
