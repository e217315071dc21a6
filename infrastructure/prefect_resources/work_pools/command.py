"""`millrace pools`: create work pools and queues from `pools.yaml`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from infrastructure.prefect_resources.config_files import find_config_file
from infrastructure.prefect_resources.reconcile import plan_table
from infrastructure.prefect_resources.reconcile.plan import Step, apply, has_changes, plan
from infrastructure.prefect_resources.work_pools.block_references import (
    find_missing_blocks,
    find_references,
)
from infrastructure.prefect_resources.work_pools.pools_file import POOLS_FILE, read_pools
from infrastructure.prefect_resources.work_pools.work_pool_resources import (
    POOL,
    build_desired,
    kinds,
    read_owner,
)
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.errors import BlockMissing, ConfigurationError
from prefect_flows.core.prefect_api import api_changes, prefect_client
from prefect_flows.core.projects import Projects, load_projects
from prefect_flows.core.settings import load_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

app = typer.Typer(add_completion=False)


@app.command()
@exits_with_expected_errors
def setup_work_pools(
    pool: Annotated[
        list[str] | None, typer.Option(help="Only this pool; repeatable. All by default.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The file of the pools; see config_dir for the default.")
    ] = None,
    dry_run: plan_table.DryRun = False,
    check: plan_table.Check = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove orphaned queues.")] = False,
) -> None:
    """Create or update the work pools of pools.yaml, their job templates and queues."""
    console = Console()
    settings = load_settings()
    file = file or find_config_file(settings, POOLS_FILE)
    pools = read_pools(settings, file, pool)
    with prefect_client() as client:
        desired = build_desired(pools, _find_owners(client, pools, load_projects(settings)))
        steps = plan(client, kinds(pools), desired, all_desired=desired)
        console.print(plan_table.format_table(steps, prune=prune))
        _refuse_other_kinds(steps)
        faults = find_missing_blocks(client, find_references([dict(each.data) for each in desired]))
        if faults:
            listed = "\n".join(f"  - {fault}" for fault in faults)
            raise BlockMissing(
                f"The templates refer to {len(faults)} block(s) that a worker would not find:\n"
                f"{listed}",
                where=str(file),
                fix="make them as said above, take the references out of the file, or leave the "
                "pool out with --pool; nothing was changed",
            )
        if not dry_run and not check:
            with api_changes(client):
                apply(client, steps, prune=prune)
            console.print(plan_table.format_summary("Work pools and queues", steps, prune=prune))
    if check and has_changes(steps):
        raise typer.Exit(EXIT_FAILED)


def _find_owners(
    client: SyncPrefectClient, pools: Iterable[str], projects: Projects
) -> dict[str, str]:
    """Return the project of each pool: the one that made it, or else this clone's.

    Raises:
        ConfigurationError: another project made one of them.
    """
    owners = {}
    for name in pools:
        owner = read_owner(client, name)
        if projects.belongs_to_another(owner):
            raise ConfigurationError(
                f"Another project ({owner}) made the work pool {name!r}. Its runs would get this "
                "project's settings.",
                where=f"work pool {name} at {client.api_url}",
                fix=f"give yours another name in {POOLS_FILE} and prefect.yaml "
                "(documentation/several_teams.md); to use that pool as it is, deploy and leave "
                "`pools` out; if this clone belongs to that project: "
                f"MILLRACE_PROJECT={owner} in .env",
            )
        if owner or projects.ids:
            owners[name] = owner or projects.ids[0]
    return owners


def _refuse_other_kinds(steps: list[Step]) -> None:
    for step in steps:
        if step.kind.name == POOL and any(change.startswith("type: ") for change in step.changes):
            raise ConfigurationError(
                f"The work pool {step.name!r} is of another type, which Prefect cannot change.",
                where=f"the Prefect API: {next(c for c in step.changes if c.startswith('type: '))}",
                fix=f"give the pool another name in {POOLS_FILE}, or remove the old one: "
                f"uv run prefect work-pool delete {step.name}",
            )
