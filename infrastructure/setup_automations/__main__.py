"""`python -m infrastructure.setup_automations`: `automations.yaml` becomes Prefect automations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from infrastructure.deploy import checks
from infrastructure.planning import table
from infrastructure.planning.objects import Wanted
from infrastructure.planning.plan import apply, differs, plan
from infrastructure.setup_automations.automations_file import (
    AUTOMATIONS_FILE,
    AutomationsFile,
    read_automations,
)
from infrastructure.setup_automations.findings import PIPELINE, of_target, zombies
from infrastructure.setup_automations.kinds import AutomationKind, desired
from infrastructure.setup_automations.receivers import receivers
from prefect_flows.command_line import exits_with_expected_errors
from prefect_flows.errors import BlockMissing
from prefect_flows.targets import SETUP_COMMAND, notify_block, prefect_client, run_tag

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

DRIFT = 1
COMMAND = "uv run python -m infrastructure.setup_automations"

app = typer.Typer(add_completion=False)


@dataclass
class Asked:
    """What should be there.

    Attributes:
        left_out: the targets for which nobody is told.
    """

    wanted: list[Wanted] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@app.command()
@exits_with_expected_errors
def setup_automations(
    target: Annotated[
        list[str] | None, typer.Option(help="Only this target; repeatable. All by default.")
    ] = None,
    file: Annotated[Path, typer.Option(help="The file of automations.")] = AUTOMATIONS_FILE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Print the plan; exit code 1 when it changes anything.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove orphaned automations.")] = False,
) -> None:
    """Create or update the automations that find late, stuck, missing and killed runs."""
    console = Console()
    asked_for = read_automations(file)
    with prefect_client() as client:
        existing = sorted(checks.ground(client).targets)
        _refuse_unknown(client, target or [], existing)
        asked = asked_of(client, asked_for, target or existing)
        steps = plan(client, [AutomationKind(target or [])], asked.wanted, keep=asked.wanted)
        shown = table.table(steps, prune=prune)
        for name in asked.left_out:
            shown.add_row("left out", f"target {name}", f"there is no block {notify_block(name)}")
        console.print(shown)
        if not dry_run and not check:
            apply(client, steps, prune=prune)
            console.print(table.summary("Automations", steps, prune=prune))
    for name in asked.left_out:
        again = f"{COMMAND} --target {name}"
        console.print(
            f"Target {name}: nobody would be told, so nothing is looked for. Set "
            f"dbt_target_notices in Terraform, apply it, then: {SETUP_COMMAND}; {again}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for name in sorted(set(asked_for.targets) - set(existing)):
        console.print(
            f"Target {name}: {file.name} has times for it, and setup has not made it.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if check and differs(steps):
        raise typer.Exit(DRIFT)


def asked_of(client: SyncPrefectClient, file: AutomationsFile, targets: Sequence[str]) -> Asked:
    """The automations of these targets and of the server."""
    asked = Asked()
    for name in targets:
        told = receivers(client, name)
        if not told:
            asked.left_out.append(name)
            continue
        scheduled = file.asks_for_missing(name) or _is_scheduled(client, name)
        found = of_target(name, file.times(name), scheduled=scheduled)
        asked.wanted += [desired(name, finding, told) for finding in found]
    if file.server.zombies is not None:
        asked.wanted.append(desired(None, zombies(file.server.zombies), told={}))
    return asked


def _is_scheduled(client: SyncPrefectClient, target: str) -> bool:
    """Whether a deployment of the pipeline has a schedule, also one that somebody has paused."""
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter

    found = client.read_deployments(
        flow_filter=FlowFilter.model_validate({"name": {"any_": [PIPELINE]}}),
        deployment_filter=DeploymentFilter.model_validate({"tags": {"all_": [run_tag(target)]}}),
    )
    return any(deployment.schedules for deployment in found)


def _refuse_unknown(
    client: SyncPrefectClient, names: Sequence[str], existing: Sequence[str]
) -> None:
    unknown = [name for name in names if name not in existing]
    if unknown:
        known = f"targets that exist: {', '.join(existing)}" if existing else "no target exists yet"
        raise BlockMissing(
            f"Setup has not been run for the target {', '.join(map(repr, unknown))} ({known}).",
            where=f"the Prefect API at {client.api_url}",
            mend=f"{SETUP_COMMAND} --target {unknown[0]}, or name another --target",
        )


if __name__ == "__main__":
    app()
