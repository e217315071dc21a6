"""Determine the desired automations from the file, notification blocks and schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from infrastructure.prefect_resources.automations.automation_resources import build_desired
from infrastructure.prefect_resources.automations.automations_file import AutomationsFile
from infrastructure.prefect_resources.automations.triggers import (
    build_target_findings,
    build_zombie_finding,
)
from infrastructure.prefect_resources.reconcile.resources import Desired
from prefect_flows.core.names import PIPELINE, run_tag
from prefect_flows.core.prefect_api import block_address, list_default_blocks

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

COMMAND = "uv run millrace automations"


@dataclass
class DesiredAutomations:
    """Desired automations.

    Attributes:
        automations: the automations.
        skipped: targets without automations, because they have no notification block.
    """

    automations: list[Desired] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def get_desired(
    client: SyncPrefectClient, file: AutomationsFile, targets: Sequence[str]
) -> DesiredAutomations:
    """Return the desired automations of these targets and of the server."""
    desired = DesiredAutomations()
    for name in targets:
        blocks = {
            block_address(block): UUID(block["id"]) for block in list_default_blocks(client, name)
        }
        if not blocks:
            desired.skipped.append(name)
            continue
        scheduled = file.overrides_missing(name) or _is_scheduled(client, name)
        found = build_target_findings(name, file.get_times(name), scheduled=scheduled)
        desired.automations += [build_desired(name, finding, blocks) for finding in found]
    if file.server.zombies is not None:
        desired.automations.append(
            build_desired(None, build_zombie_finding(file.server.zombies), blocks={})
        )
    return desired


def _is_scheduled(client: SyncPrefectClient, target: str) -> bool:
    """Return whether a deployment of the pipeline has a schedule, active or not."""
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter

    found = client.read_deployments(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [PIPELINE]}}),
        deployment_filter=DeploymentFilter.model_validate({"tags": {"all_": [run_tag(target)]}}),
    )
    return any(deployment.schedules for deployment in found)
