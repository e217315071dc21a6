"""Check that the automations exist as `automations.yaml` defines them, and are not paused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from infrastructure.operate.health_check.check_result import Check, Status
from infrastructure.prefect_resources.automations.automation_resources import AutomationKind
from infrastructure.prefect_resources.automations.automations_file import (
    AUTOMATIONS_FILE,
    read_automations,
)
from infrastructure.prefect_resources.automations.desired_automations import COMMAND, get_desired
from infrastructure.prefect_resources.config_files import find_config_file
from infrastructure.prefect_resources.reconcile.plan import Action, plan
from prefect_flows.core.settings import load_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

CHECK = "automations"


def evaluate_automations(client: SyncPrefectClient, targets: Sequence[str]) -> Iterator[Check]:
    """Yield one check for each target that has recipients; skip other targets."""
    file = read_automations(find_config_file(load_settings(), AUTOMATIONS_FILE))
    for target in targets:
        asked = get_desired(client, file, [target])
        if asked.skipped:
            continue
        kind = AutomationKind([target])
        steps = plan(client, [kind], asked.automations, all_desired=asked.automations)
        changed = [f"{s.action} {s.name}" for s in steps if s.action is not Action.UNCHANGED]
        paused = sorted({each.name for each in asked.automations} & kind.paused(client))
        if changed:
            seen = f"differs from the file: {'; '.join(changed)}"
            yield Check(CHECK, target, Status.WARNING, seen, f"{COMMAND} --target {target}")
        elif paused:
            seen = f"paused: {', '.join(paused)}"
            fix = f"uv run prefect automation resume '{paused[0]}'"
            yield Check(CHECK, target, Status.WARNING, seen, fix)
        else:
            yield Check(CHECK, target, Status.OK, f"{len(steps)} match the file")
