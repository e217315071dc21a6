"""Read and write deployments through Prefect's API."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infrastructure.prefect_resources.deployments.flow_schema import FlowSchema
from infrastructure.prefect_resources.deployments.prefect_yaml import Deployment, Schedule
from infrastructure.prefect_resources.reconcile.resources import Actual, Desired
from infrastructure.prefect_resources.work_pools.block_references import is_reference
from prefect_flows.core.names import run_tag
from prefect_flows.core.prefect_api import read_all, read_or_none

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

DEPLOYMENT = "deployment"
# Tag of our deployments, by which orphans are found.
TAG = "millrace"
SLASH = "/"


def build_desired(
    deployment: Deployment,
    flow: FlowSchema,
    *,
    version: str,
    pool: str | None,
    image: str | None,
    variables: Collection[str],
) -> Desired:
    """Build the desired state of a deployment.

    Args:
        deployment: the deployment in its file.
        flow: name, description and parameters of its flow.
        version: version of the code.
        pool: work pool that replaces the file's.
        image: the project's image, for work pools whose runs are containers.
        variables: job variables of the work pool; others in the file are dropped, since they
            belong to the file's own pool.
    """
    work_pool = deployment.work_pool
    given = work_pool.job_variables.model_dump(mode="json", exclude_unset=True)
    job_variables = {key: value for key, value in given.items() if key in variables}
    if "image" in variables and (own := deployment.image(image)) is not None:
        job_variables["image"] = own
    limit = deployment.concurrency_limit
    return Desired(
        DEPLOYMENT,
        f"{flow.name}{SLASH}{deployment.name}",
        {
            "version": version,
            "entrypoint": deployment.entrypoint,
            "description": deployment.description or flow.description,
            "parameters": dict(deployment.parameters),
            "tags": sorted({TAG, run_tag(deployment.target), *deployment.tags}),
            "schedules": [_schedule(schedule) for schedule in deployment.schedules],
            "concurrency_limit": limit.limit,
            "collision_strategy": limit.collision_strategy,
            "work_pool_name": pool or work_pool.name,
            "work_queue_name": work_pool.work_queue_name or deployment.target,
            "job_variables": job_variables,
            "enforce_parameter_schema": deployment.enforce_parameter_schema,
            "parameter_openapi_schema": _fix_target(flow.parameters, deployment.target),
        },
    )


def _fix_target(schema: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Return the schema of a flow's parameters with the deployment's target as the only choice.

    A run of another target would go to this one's work queue, and hold neither its tag nor limit.
    """
    properties = dict(schema["properties"])
    properties["target"] = {**properties["target"], "enum": [target], "default": target}
    return {**schema, "properties": properties}


class DeploymentKind:
    """Deployments, named `<flow>/<deployment>`.

    Whether a deployment is paused, and its schedule active, belongs to the operator and is never
    changed.

    Args:
        targets: targets whose deployments may be orphaned; all if empty.
        others: targets of other projects, whose deployments are never orphaned.
    """

    name = DEPLOYMENT

    def __init__(self, targets: Iterable[str], others: Iterable[str] = ()) -> None:
        self._targets = frozenset(targets)
        self._others = frozenset(others)

    def find(self, client: SyncPrefectClient, name: str) -> Actual | None:
        """Return the deployment with this name."""
        found = read_or_none(client.read_deployment_by_name, name)
        return None if found is None else Actual(found.id, name, _data(found))

    def list_owned(self, client: SyncPrefectClient) -> Iterable[Actual]:
        """Return every deployment of the targets that has our tag."""
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

        pattern = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        found = read_all(client.read_deployments, deployment_filter=pattern)
        flows = {each.flow_id: client.read_flow(each.flow_id).name for each in found}
        return [
            Actual(each.id, f"{flows[each.flow_id]}{SLASH}{each.name}", _data(each))
            for each in found
            for target in [each.parameters.get("target")]
            if target not in self._others and (not self._targets or target in self._targets)
        ]

    def write(
        self,
        client: SyncPrefectClient,
        desired: Desired,
        stored_id: UUID | None,
        ids: Mapping[str, UUID],  # noqa: ARG002
    ) -> UUID:
        """Create or update the deployment."""
        from prefect.client.schemas.actions import (
            DeploymentScheduleCreate,
            DeploymentScheduleUpdate,
            DeploymentUpdate,
        )
        from prefect.client.schemas.objects import ConcurrencyOptions

        fields = dict(desired.data) | {"pull_steps": []}
        schedules = fields.pop("schedules")
        fields["concurrency_options"] = ConcurrencyOptions(
            collision_strategy=fields.pop("collision_strategy")
        )
        flow, name = desired.name.split(SLASH, maxsplit=1)
        if stored_id is None:
            return client.create_deployment(
                client.create_flow_from_name(flow),
                name,
                schedules=[DeploymentScheduleCreate(**each) for each in schedules],
                **fields,
            )
        before = client.read_deployment(stored_id).schedules
        for schedule in before:
            # An update keeps schedules with a slug, which only Prefect's command line sets.
            if schedule.slug is not None:
                client.delete_deployment_schedule(stored_id, schedule.id)
        active = {_text(each.schedule): each.active for each in before}
        client.update_deployment(
            stored_id,
            DeploymentUpdate(
                schedules=[
                    DeploymentScheduleUpdate(
                        active=active.get(_text(create.schedule), True), **each
                    )
                    for each in schedules
                    for create in [DeploymentScheduleCreate(**each)]
                ],
                **fields,
            ),
        )
        return stored_id

    def remove(self, client: SyncPrefectClient, stored_id: UUID, name: str) -> None:  # noqa: ARG002
        """Delete the deployment; its runs stay."""
        client.delete_deployment(stored_id)

    def is_printable(self, path: tuple[str, ...], value: Any) -> bool:
        """Return False for job variables that were added by hand: they may be secret."""
        if path[0] != "job_variables":
            return path[0] != "parameter_openapi_schema"
        return path == ("job_variables", "image") or (
            isinstance(value, str) and is_reference(value)
        )


def _schedule(schedule: Schedule) -> dict[str, Any]:
    given = schedule.model_dump(exclude_none=True)
    return {"schedule": given}


def _data(found: DeploymentResponse) -> dict[str, Any]:
    limit = found.global_concurrency_limit
    options = found.concurrency_options
    return {
        "version": found.version,
        "entrypoint": found.entrypoint,
        "description": found.description,
        "parameters": found.parameters,
        "tags": sorted(found.tags),
        "schedules": [
            {"schedule": _given(schedule.schedule.model_dump(mode="json"))}
            for schedule in found.schedules
        ],
        "concurrency_limit": limit.limit if limit is not None else None,
        "collision_strategy": options.collision_strategy.value if options is not None else None,
        "work_pool_name": found.work_pool_name,
        "work_queue_name": found.work_queue_name,
        "job_variables": found.job_variables,
        "enforce_parameter_schema": found.enforce_parameter_schema,
        "parameter_openapi_schema": found.parameter_openapi_schema,
    }


def _given(schedule: dict[str, Any]) -> dict[str, Any]:
    """Return a stored schedule with only the fields that a file can set."""
    kept = ("cron", "interval", "rrule", "timezone")
    return {key: schedule[key] for key in kept if schedule.get(key) is not None}


def _text(schedule: Any) -> str:
    return str(_given(schedule.model_dump(mode="json")))
