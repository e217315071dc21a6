"""Check that what a deployment needs exists: block, work pool, queue, image, references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infrastructure.prefect_resources.deployments.prefect_yaml import Deployment
from infrastructure.prefect_resources.ownership import read_owners
from infrastructure.prefect_resources.work_pools.block_references import (
    find_missing_blocks,
    find_references,
)
from prefect_flows.core import names
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.projects import Projects

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@dataclass(frozen=True)
class Pool:
    """A work pool in the API: names of its job variables and queues."""

    variables: frozenset[str]
    queues: frozenset[str]

    @property
    def has_image(self) -> bool:
        """Whether its runs are containers."""
        return "image" in self.variables


@dataclass(frozen=True)
class ExistingResources:
    """Targets and work pools that exist in the API.

    Attributes:
        targets: target → project that owns it; None if its block does not say.
    """

    targets: Mapping[str, str | None]
    pools: Mapping[str, Pool] = field(default_factory=dict)


def load_existing_resources(client: SyncPrefectClient) -> ExistingResources:
    """Read targets and work pools from the API."""
    return ExistingResources(
        read_owners(client),
        {
            pool.name: Pool(
                frozenset(pool.base_job_template.get("variables", {}).get("properties", {})),
                frozenset(queue.name for queue in client.read_work_queues(pool.name)),
            )
            for pool in client.read_work_pools()
        },
    )


def find_faults(
    client: SyncPrefectClient,
    available: ExistingResources,
    deployment: Deployment,
    *,
    projects: Projects,
    pool: str | None,
    image: str | None,
) -> Iterable[str]:
    """Yield one line for each problem of a deployment, with the command that fixes it."""
    target, work_pool = deployment.target, deployment.work_pool
    if projects.belongs_to_another(available.targets.get(target)):
        yield (
            f"another project ({available.targets[target]}) made the target {target!r}; give yours "
            f"another name, or take it over: {names.SETUP_COMMAND} --target {target} --take-over"
        )
    if target not in available.targets:
        yield (
            f"the target {target!r} has no block {names.profile_block(target)}; "
            f"{names.SETUP_COMMAND} --target {target}"
        )
    name = pool or work_pool.name
    queue = work_pool.work_queue_name or target
    found = available.pools.get(name)
    command = f"uv run millrace pools --pool {name}"
    if found is None:
        yield f"there is no work pool {name!r}; {command}"
    elif queue not in found.queues:
        yield f"the work pool {name!r} has no queue {queue!r}; add it to pools.yaml, then {command}"
    job_variables = work_pool.job_variables.model_dump(exclude_unset=True)
    if found is not None:
        unknown = sorted(set(job_variables) - found.variables)
        if unknown and pool is None:
            yield (
                f"runs in {name!r} have no job variable {', '.join(unknown)}; take it out of the "
                f"file, or name a pool that has it"
            )
        job_variables = {
            key: value for key, value in job_variables.items() if key in found.variables
        }
    if found is not None and found.has_image:
        yield from _image_faults(deployment, name, image)
    yield from find_missing_blocks(client, find_references(job_variables))


def _image_faults(deployment: Deployment, pool: str, image: str | None) -> Iterable[str]:
    try:
        found = deployment.image(image)
    except ConfigurationError as error:
        yield str(error)
        return
    if found is None:
        yield (
            f"runs in {pool!r} need an image; name it with --image or MILLRACE_IMAGE "
            "(uv run millrace image makes it)"
        )
