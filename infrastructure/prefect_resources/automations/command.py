"""`millrace automations`: create Prefect automations from `automations.yaml`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from infrastructure.prefect_resources.automations.automation_resources import AutomationKind
from infrastructure.prefect_resources.automations.automations_file import (
    AUTOMATIONS_FILE,
    read_automations,
)
from infrastructure.prefect_resources.automations.desired_automations import COMMAND, get_desired
from infrastructure.prefect_resources.config_files import find_config_file
from infrastructure.prefect_resources.deployments import preflight
from infrastructure.prefect_resources.reconcile import plan_table
from infrastructure.prefect_resources.reconcile.plan import apply, has_changes, plan
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.errors import BlockMissing, ConfigurationError, did_you_mean
from prefect_flows.core.names import SETUP_COMMAND, notify_block
from prefect_flows.core.prefect_api import api_changes, prefect_client
from prefect_flows.core.projects import load_projects
from prefect_flows.core.settings import load_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

app = typer.Typer(add_completion=False)


@app.command()
@exits_with_expected_errors
def setup_automations(
    target: Annotated[
        list[str] | None, typer.Option(help="Only this target; repeatable. All by default.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The file of automations; see config_dir for the default.")
    ] = None,
    dry_run: plan_table.DryRun = False,
    check: plan_table.Check = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove orphaned automations.")] = False,
) -> None:
    """Create or update the automations that find late, stuck, missing and killed runs."""
    console = Console()
    file = file or find_config_file(load_settings(), AUTOMATIONS_FILE)
    asked_for = read_automations(file)
    with prefect_client() as client:
        made = preflight.load_existing_resources(client).targets
        _refuse_unknown(client, target or [], sorted(made))
        others = _other_projects_targets(client, made, target or [])
        existing = sorted(set(made) - others)
        asked = get_desired(client, asked_for, target or existing)
        steps = plan(
            client,
            [AutomationKind(target or [], others)],
            asked.automations,
            all_desired=asked.automations,
        )
        shown = plan_table.format_table(steps, prune=prune)
        for name in asked.skipped:
            shown.add_row("left out", f"target {name}", f"there is no block {notify_block(name)}")
        console.print(shown)
        if not dry_run and not check:
            with api_changes(client):
                apply(client, steps, prune=prune)
            console.print(plan_table.format_summary("Automations", steps, prune=prune))
    for name in asked.skipped:
        again = f"{COMMAND} --target {name}"
        console.print(
            f"Target {name}: no notification blocks, so no automations. Name receivers in "
            f"Terraform's dbt_target_notices, apply it, then: {SETUP_COMMAND}; {again}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for name in sorted(set(asked_for.targets) - set(existing)):
        console.print(
            f"Target {name}: {file.name} has times for it, and setup has not made it.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if check and has_changes(steps):
        raise typer.Exit(EXIT_FAILED)


def _other_projects_targets(
    client: SyncPrefectClient, made: Mapping[str, str | None], names: Sequence[str]
) -> set[str]:
    """Return the targets of other projects; raise an error if one of them is named."""
    projects = load_projects(load_settings())
    others = {name for name, mark in made.items() if projects.belongs_to_another(mark)}
    if named := sorted(others & set(names)):
        raise ConfigurationError(
            f"Another project ({made[named[0]]}) made the target {named[0]!r}.",
            where=f"the Prefect API at {client.api_url}",
            fix=f"name another --target, or take it over: {SETUP_COMMAND} --target {named[0]} "
            "--take-over",
        )
    return others


def _refuse_unknown(
    client: SyncPrefectClient, names: Sequence[str], existing: Sequence[str]
) -> None:
    unknown = [name for name in names if name not in existing]
    if unknown:
        known = f"targets that exist: {', '.join(existing)}" if existing else "no target exists yet"
        raise BlockMissing(
            f"Setup has not been run for the target {', '.join(map(repr, unknown))} ({known})."
            f"{did_you_mean(unknown[0], existing)}",
            where=f"the Prefect API at {client.api_url}",
            fix=f"{SETUP_COMMAND} --target {unknown[0]}, or name another --target",
        )
