"""The Job that the Kubernetes worker would submit for a flow run, made by its own classes."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings


def job_manifest(
    api_url: str, auth_string: str, run_id: str, **job_variables: Any
) -> dict[str, Any]:
    """The manifest, its references to blocks resolved."""
    # Its client has 900 modules, which every process of the tests would import to collect them.
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    async def made() -> dict[str, Any]:
        async with get_client() as client:
            run = await client.read_flow_run(UUID(run_id))
            deployment = await client.read_deployment(run.deployment_id)
            pool = await client.read_work_pool("k3s-pool")
            flow = await client.read_flow(run.flow_id)
            job = await KubernetesWorkerJobConfiguration.from_template_and_values(
                base_job_template=pool.base_job_template,
                values={**deployment.job_variables, **job_variables},
                client=client,
            )
            job.prepare_for_flow_run(run, deployment=deployment, flow=flow, work_pool=pool)
            return dict(job.job_manifest)

    with temporary_settings({PREFECT_API_URL: api_url, PREFECT_API_AUTH_STRING: auth_string}):
        return asyncio.run(made())
