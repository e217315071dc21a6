"""What must be there before a deployment is written: block, pool, queue, image, references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infrastructure.deploy.files import Deployment
from infrastructure.setup_work_pools.references import missing, references
from prefect_flows import targets

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


@dataclass(frozen=True)
class Pool:
    """A work pool of the API: whether its runs have an image, and the names of its queues."""

    has_image: bool
    queues: frozenset[str]


@dataclass(frozen=True)
class Ground:
    """What the Prefect API has that deployments need."""

    targets: frozenset[str]
    pools: Mapping[str, Pool] = field(default_factory=dict)


def ground(client: SyncPrefectClient) -> Ground:
    """Ask the API for it."""
    from prefect.exceptions import ObjectNotFound

    prefix = targets.profile_block("")
    try:
        blocks = client.read_block_documents_by_type(targets.PROFILE_TYPE)
    except ObjectNotFound:  # setup has never been run
        blocks = []
    names = [str(block.name) for block in blocks]
    return Ground(
        frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix)),
        {
            pool.name: Pool(
                "image" in pool.base_job_template.get("variables", {}).get("properties", {}),
                frozenset(queue.name for queue in client.read_work_queues(pool.name)),
            )
            for pool in client.read_work_pools()
        },
    )


def faults(
    client: SyncPrefectClient,
    there: Ground,
    deployment: Deployment,
    *,
    pool: str | None,
    image: str | None,
) -> Iterable[str]:
    """One line each, with the command that mends it."""
    target, work_pool = deployment.target, deployment.work_pool
    if target not in there.targets:
        yield (
            f"the target {target!r} has no block {targets.profile_block(target)}; "
            f"{targets.SETUP_COMMAND} --target {target}"
        )
    name = pool or work_pool.name
    queue = work_pool.work_queue_name or target
    found = there.pools.get(name)
    command = f"uv run python -m infrastructure.setup_work_pools --pool {name}"
    if found is None:
        yield f"there is no work pool {name!r}; {command}"
    elif queue not in found.queues:
        yield f"the work pool {name!r} has no queue {queue!r}; add it to pools.yaml, then {command}"
    if found is not None and found.has_image and image is None:
        given = work_pool.job_variables.model_dump().get("image")
        if given is None:
            yield (
                f"runs in {name!r} need an image; name it with --image or MILLRACE_IMAGE "
                "(uv run python -m infrastructure.build_image makes it)"
            )
    yield from missing(client, references(work_pool.job_variables.model_dump()))
