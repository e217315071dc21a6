"""Read and write work pools and their queues through Prefect's API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infrastructure.prefect_resources.reconcile.resources import Actual, Desired, ResourceType
from infrastructure.prefect_resources.work_pools.block_references import is_reference
from infrastructure.prefect_resources.work_pools.job_templates import ENV, build_template
from infrastructure.prefect_resources.work_pools.pools_file import Pool
from prefect_flows.core.prefect_api import read_or_none

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "work-pool"
QUEUE = "work-queue"
TEMPLATE = "base_job_template"
# Separates a pool's name from its queue's; neither may contain it.
SLASH = "/"
# In the description of a pool, before the id of the project that made it.
OWNER_TEXT = " Made by project "
# Prefect creates it with each work pool.
DEFAULT_QUEUE = "default"


def build_desired(pools: Mapping[str, Pool], owners: Mapping[str, str]) -> list[Desired]:
    """Return the desired state of every work pool, each followed by its queues by priority.

    Args:
        pools: the pools of the file.
        owners: name of a pool → id of its project, which its description names.
    """
    desired = []
    for name, pool in pools.items():
        desired.append(
            Desired(
                POOL,
                name,
                {
                    "type": pool.kind,
                    "description": pool.description
                    + (f"{OWNER_TEXT}{owners[name]}." if name in owners else ""),
                    "concurrency_limit": pool.concurrency_limit,
                    TEMPLATE: build_template(name, pool),
                },
            )
        )
        by_priority = sorted(pool.queues.items(), key=lambda each: each[1].priority)
        desired += [
            Desired(
                QUEUE,
                f"{name}{SLASH}{queue_name}",
                {"priority": queue.priority, "concurrency_limit": queue.concurrency_limit},
            )
            for queue_name, queue in by_priority
        ]
    return desired


def read_owner(client: SyncPrefectClient, name: str) -> str | None:
    """Return the project that made a work pool; None if there is none, or it does not say."""
    pool = read_or_none(client.read_work_pool, name)
    found = (pool.description or "" if pool is not None else "").partition(OWNER_TEXT)[2]
    return found.removesuffix(".") or None


class PoolKind:
    """Work pools. Their paused state belongs to the operator and is never changed."""

    name = POOL

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """Return the work pool with this name."""
        pool = read_or_none(client.read_work_pool, name)
        if pool is None:
            return None
        return Actual(
            pool.id,
            pool.name,
            {
                "type": pool.type,
                "description": pool.description,
                "concurrency_limit": pool.concurrency_limit,
                TEMPLATE: pool.base_job_template,
            },
        )

    def list_owned(self, client: SyncPrefectClient) -> Iterable[Actual]:  # noqa: ARG002
        """Return no pool: one that the file does not name may be another project's."""
        return []

    def write(
        self,
        client: SyncPrefectClient,
        desired: Desired,
        stored_id: UUID | None,
        ids: Mapping[str, UUID],  # noqa: ARG002
    ) -> UUID:
        """Create or update the work pool, except its type, which the command checks before."""
        from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate

        changeable = {key: value for key, value in desired.data.items() if key != "type"}
        if stored_id is not None:
            client.update_work_pool(desired.name, WorkPoolUpdate(**changeable))
            return stored_id
        return client.create_work_pool(WorkPoolCreate(name=desired.name, **desired.data)).id

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:  # noqa: ARG002
        """Delete the work pool."""
        client.delete_work_pool(name)

    def is_printable(self, path: tuple[str, ...], value: Any) -> bool:
        """Return False for possible secrets, since a template may have been edited by hand."""
        if isinstance(value, Mapping):
            return False
        if ENV in path:
            return isinstance(value, str) and is_reference(value)
        return path[0] != TEMPLATE or path[-1] in {"default", "description", "title", "type"}


class QueueKind:
    """The queues of work pools, named `<pool>/<queue>`."""

    name = QUEUE

    def __init__(self, pools: Iterable[str]) -> None:
        self._pools = list(pools)

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """Return the queue with this name."""
        return next(
            (each for each in self._read_queues(client, _get_pool_name(name)) if each.name == name),
            None,
        )

    def list_owned(self, client: SyncPrefectClient) -> Iterable[Actual]:
        """Return every queue of our pools except Prefect's default queue."""
        return [
            queue
            for pool in self._pools
            for queue in self._read_queues(client, pool)
            if queue.name != f"{pool}{SLASH}{DEFAULT_QUEUE}"
        ]

    def write(
        self,
        client: SyncPrefectClient,
        desired: Desired,
        stored_id: UUID | None,
        ids: Mapping[str, UUID],  # noqa: ARG002
    ) -> UUID:
        """Create or update the queue."""
        if stored_id is not None:
            client.update_work_queue(stored_id, **desired.data)
            return stored_id
        pool, name = desired.name.split(SLASH)
        return client.create_work_queue(name, work_pool_name=pool, **desired.data).id

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:  # noqa: ARG002
        """Delete the queue."""
        client.delete_work_queue_by_id(stored_id)

    def is_printable(self, path: tuple[str, ...], value: Any) -> bool:  # noqa: ARG002
        """Return True: a queue has no secret."""
        return True

    def _read_queues(self, client: SyncPrefectClient, pool: str) -> list[Actual]:
        found = read_or_none(client.read_work_queues, work_pool_name=pool) or []
        return [
            Actual(
                queue.id,
                f"{pool}{SLASH}{queue.name}",
                {"priority": queue.priority, "concurrency_limit": queue.concurrency_limit},
            )
            for queue in found
        ]


def kinds(pools: Iterable[str]) -> tuple[ResourceType, ...]:
    """Return the resource types: queues before the work pools that they belong to."""
    return QueueKind(pools), PoolKind()


def _get_pool_name(queue: str) -> str:
    return queue.split(SLASH, maxsplit=1)[0]
