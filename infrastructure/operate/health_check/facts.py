"""Results of the API queries, which `evaluate` and `evaluate_runs` read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect_flows.core.names import PIPELINE

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, Worker, WorkPool, WorkQueue
    from prefect.client.schemas.responses import DeploymentResponse


@dataclass(frozen=True)
class Server:
    """URL and versions of the API, and whether it is Prefect Cloud."""

    url: str
    version: str
    client_version: str
    is_cloud: bool


@dataclass(frozen=True)
class Pool:
    """A work pool that a deployment names; `pool` is None if it does not exist."""

    name: str
    pool: WorkPool | None
    workers: Sequence[Worker] = ()
    queues: Sequence[WorkQueue] = ()


@dataclass(frozen=True)
class DeploymentState:
    """A deployment of a target with its next scheduled run and its last finished run."""

    deployment: DeploymentResponse
    flow_name: str
    next_run: datetime | None
    last: FlowRun | None

    @property
    def is_pipeline(self) -> bool:
        """Whether it runs the pipeline, rather than one source."""
        return self.flow_name == PIPELINE

    @property
    def name(self) -> str:
        """Name as in Prefect's command line: `<flow>/<deployment>`."""
        return f"{self.flow_name}/{self.deployment.name}"


@dataclass(frozen=True)
class Target:
    """Deployments and runs of a target.

    Attributes:
        last: the last finished run of the pipeline, however it was started.
        succeeded: the last successful runs of the pipeline, newest first.
        unfinished: runs of the pipeline and its sources that are due and have not finished.
        holders: number of runs that hold the target's lease; None if the lease does not exist.
    """

    name: str
    deployments: Sequence[DeploymentState]
    last: FlowRun | None
    last_successes: Sequence[FlowRun]
    unfinished: Sequence[FlowRun]
    holders: int | None


@dataclass(frozen=True)
class ApiState:
    """All query results, and the time of the queries."""

    now: datetime
    targets: Sequence[Target]
    pools: Sequence[Pool]
    flow_names: Mapping[str, str]

    def age(self, moment: datetime) -> float:
        """Return the seconds since a moment."""
        return (self.now - moment.astimezone(UTC)).total_seconds()
