"""`python -m infrastructure.setup_automations`: `automations.yaml` becomes Prefect automations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from infrastructure.deploy import checks
from infrastructure.planning import table
from infrastructure.planning.plan import apply, differs, plan
from infrastructure.setup_automations.asked import COMMAND, asked_of
from infrastructure.setup_automations.automations_file import AUTOMATIONS_FILE, read_automations
from infrastructure.setup_automations.kinds import AutomationKind
from prefect_flows.command_line import exits_with_expected_errors
from prefect_flows.errors import BlockMissing, did_you_mean
from prefect_flows.targets import SETUP_COMMAND, notify_block, prefect_client

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

DRIFT = 1

app = typer.Typer(add_completion=False)


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
            f"Target {name}: nobody would be told, so nothing is looked for. Name receivers in "
            f"Terraform's dbt_target_notices, apply it, then: {SETUP_COMMAND}; {again}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for name in sorted(set(asked_for.targets) - set(existing)):
        console.print(
            f"Target {name}: {file.name} has times for it, and setup has not made it.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if check and differs(steps):
        raise typer.Exit(DRIFT)


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
            mend=f"{SETUP_COMMAND} --target {unknown[0]}, or name another --target",
        )


if __name__ == "__main__":
    app()
