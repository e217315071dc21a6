"""What the Prefect API was asked for, as the judges get it."""

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
    """The API: its versions, and whether it is a server of one's own or Prefect Cloud."""

    url: str
    version: str
    client_version: str
    is_cloud: bool


@dataclass(frozen=True)
class Pool:
    """A work pool that a deployment names; `pool` is none when there is no such pool."""

    name: str
    pool: WorkPool | None
    workers: Sequence[Worker] = ()
    queues: Sequence[WorkQueue] = ()


@dataclass(frozen=True)
class Deployed:
    """A deployment of a target, its next run that is scheduled, and its last that ended."""

    deployment: DeploymentResponse
    flow_name: str
    next_run: datetime | None
    last: FlowRun | None

    @property
    def is_pipeline(self) -> bool:
        """Whether it runs the pipeline, and not one source alone."""
        return self.flow_name == PIPELINE

    @property
    def name(self) -> str:
        """As the command line names it."""
        return f"{self.flow_name}/{self.deployment.name}"


@dataclass(frozen=True)
class Target:
    """A target's deployments and runs.

    Attributes:
        last: the last run of the pipeline that ended, from whatever door.
        succeeded: the last successful runs of the pipeline, the newest first.
        unfinished: runs of the pipeline and of its sources that should have begun and have not
            ended.
        holders: how many runs hold the target's lease; none when the lease does not exist.
    """

    name: str
    deployed: Sequence[Deployed]
    last: FlowRun | None
    succeeded: Sequence[FlowRun]
    unfinished: Sequence[FlowRun]
    holders: int | None


@dataclass(frozen=True)
class Facts:
    """All of it, and when it was asked."""

    now: datetime
    targets: Sequence[Target]
    pools: Sequence[Pool]
    flow_names: Mapping[str, str]

    def age(self, moment: datetime) -> float:
        """Seconds since then."""
        return (self.now - moment.astimezone(UTC)).total_seconds()
