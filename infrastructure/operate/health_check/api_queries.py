"""Query the Prefect API for the health check, without evaluating the results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from infrastructure.operate.health_check.facts import (
    ApiState,
    DeploymentState,
    Pool,
    Server,
    Target,
)
from prefect_flows.core.names import PIPELINE, concurrency_limit, run_tag
from prefect_flows.core.prefect_api import prefect_client, read_all, read_or_none

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse

# Number of successful runs whose duration counts as usual.
USUAL_RUNS = 10
# A run may have released its lease and be about to finish: look again after this time.
SECOND_LOOK_SECONDS = 5.0
ENDED_STATES = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]
UNFINISHED_STATES = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]


@contextmanager
def open_client(seconds: float) -> Iterator[SyncPrefectClient]:
    """Yield a client with a request timeout and without retries."""
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        temporary_settings,
    )

    patience = {PREFECT_API_REQUEST_TIMEOUT: seconds, PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(patience), prefect_client() as client:
        yield client


def read_server(client: SyncPrefectClient) -> Server:
    """Return the versions of server and client; the first request that is authenticated."""
    import prefect
    from prefect.client.base import ServerType

    return Server(
        url=str(client.api_url),
        version=client.api_version(),
        client_version=prefect.__version__,
        is_cloud=client.server_type == ServerType.CLOUD,
    )


def read_api_state(client: SyncPrefectClient, names: Sequence[str]) -> ApiState:
    """Query deployments, runs and work pools of the targets."""
    from prefect.client.schemas.filters import FlowFilter

    now = datetime.now(UTC)
    deployments = [
        d for d in read_all(client.read_deployments) if d.parameters.get("target") in names
    ]
    pipeline = FlowFilter.model_validate({"name": {"any_": [PIPELINE]}})
    flow_names = {str(flow.id): flow.name for flow in client.read_flows(flow_filter=pipeline)}
    for deployment in deployments:
        if str(deployment.flow_id) not in flow_names:
            flow_names[str(deployment.flow_id)] = client.read_flow(deployment.flow_id).name
    targets = [
        _target(client, name, [d for d in deployments if d.parameters["target"] == name],
                flow_names, now)
        for name in names
    ]  # fmt: skip
    pools = sorted({d.work_pool_name for d in deployments if d.work_pool_name is not None})
    return ApiState(now, targets, [_pool(client, name) for name in pools], flow_names)


def _pool(client: SyncPrefectClient, name: str) -> Pool:
    pool = read_or_none(client.read_work_pool, name)
    if pool is None:
        return Pool(name, None)
    return Pool(
        name,
        pool,
        read_all(client.read_workers_for_work_pool, work_pool_name=name),
        read_all(client.read_work_queues, work_pool_name=name),
    )


def _target(
    client: SyncPrefectClient,
    name: str,
    deployments: Sequence[DeploymentResponse],
    flow_names: dict[str, str],
    now: datetime,
) -> Target:
    deployed = []
    for deployment in deployments:
        by_deployment = {"deployment_id": {"any_": [str(deployment.id)]}}
        upcoming = _read_runs(
            client, by_deployment, ["SCHEDULED"], "EXPECTED_START_TIME_ASC", 1, after=now
        )
        last = _read_runs(client, by_deployment, ENDED_STATES, "END_TIME_DESC", 1)
        deployed.append(
            DeploymentState(
                deployment,
                flow_names[str(deployment.flow_id)],
                upcoming[0].expected_start_time if upcoming else None,
                last[0] if last else None,
            )
        )
    # Runs of the command line and of deployments have the tag of their target.
    by_tag = {"tags": {"all_": [run_tag(name)]}}
    ended = _read_runs(client, by_tag, ENDED_STATES, "END_TIME_DESC", 1, PIPELINE)
    ended += [d.last for d in deployed if d.is_pipeline and d.last is not None]
    holders = _count_lease_holders(client, name)
    unfinished = _read_unfinished(client, name, deployments, now)
    if holders == 0 and any(run.state_type == "RUNNING" for run in unfinished):
        time.sleep(SECOND_LOOK_SECONDS)
        holders = _count_lease_holders(client, name)
        unfinished = _read_unfinished(client, name, deployments, now)
    return Target(
        name,
        deployed,
        max(ended, key=_get_end_time, default=None),
        _read_runs(client, by_tag, ["COMPLETED"], "END_TIME_DESC", USUAL_RUNS, PIPELINE),
        unfinished,
        holders,
    )


def _read_unfinished(
    client: SyncPrefectClient,
    name: str,
    deployments: Sequence[DeploymentResponse],
    now: datetime,
) -> list[FlowRun]:
    ways: list[tuple[dict[str, Any], str | None]] = [
        ({"tags": {"all_": [run_tag(name)]}}, PIPELINE)
    ]
    if deployments:
        ways.append(({"deployment_id": {"any_": [str(d.id) for d in deployments]}}, None))
    found = {
        run.id: run
        for which, flow in ways
        for run in _read_runs(
            client, which, UNFINISHED_STATES, "EXPECTED_START_TIME_ASC", 200, flow, now
        )
    }
    return list(found.values())


def _get_end_time(run: FlowRun) -> datetime:
    return run.end_time or datetime.min.replace(tzinfo=UTC)


def _count_lease_holders(client: SyncPrefectClient, target: str) -> int | None:
    read = client.read_global_concurrency_limit_by_name
    limit = read_or_none(read, concurrency_limit(target))
    return None if limit is None else limit.active_slots


def _read_runs(
    client: SyncPrefectClient,
    which: dict[str, Any],
    states: list[str],
    sort: str,
    limit: int,
    flow: str | None = None,
    before: datetime | None = None,
    after: datetime | None = None,
) -> list[FlowRun]:
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    expected = {"before_": before, "after_": after}
    wanted = which | {"state": {"type": {"any_": states}}}
    if before or after:
        wanted |= {"expected_start_time": {k: v for k, v in expected.items() if v}}
    return client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [flow]}}) if flow else None,
        flow_run_filter=FlowRunFilter.model_validate(wanted),
        sort=FlowRunSort(sort),
        limit=limit,
    )
