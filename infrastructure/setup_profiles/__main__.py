"""`millrace setup`: create Prefect blocks and `dbt/profiles.yml` from Terraform's outputs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from infrastructure.prefect_resources import ownership
from infrastructure.prefect_resources.ownership import Ownership
from infrastructure.prefect_resources.reconcile import plan_table
from infrastructure.prefect_resources.reconcile.plan import Action, apply, has_changes, plan
from infrastructure.prefect_resources.reconcile.resources import Desired
from infrastructure.setup_profiles import profiles_yml
from infrastructure.setup_profiles.block_resources import KINDS
from infrastructure.setup_profiles.contract import Contract
from infrastructure.setup_profiles.desired import build_profile, desired_blocks, filter_targets
from infrastructure.setup_profiles.terraform import read_contract
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError, WarehouseUnreachable, did_you_mean
from prefect_flows.core.prefect_api import api_changes, prefect_client
from prefect_flows.core.profiles import Profile, read_profile_name
from prefect_flows.core.project_folder import shorten_path
from prefect_flows.core.projects import load_projects
from prefect_flows.core.settings import Settings, load_settings
from prefect_flows.core.temporary_folders import private_folder

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger("millrace")

app = typer.Typer(add_completion=False)


@app.command()
@exits_with_expected_errors
def setup_profiles(
    outputs: Annotated[
        str | None, typer.Option(help="File of `terraform output -json`; - is standard input.")
    ] = None,
    terraform_dir: Annotated[
        Path | None,
        typer.Option(help="Root module whose outputs to read (terraform output)."),
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Only this target; repeatable. All by default.")
    ] = None,
    dry_run: plan_table.DryRun = False,
    check: plan_table.Check = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove orphaned blocks.")] = False,
    test_connection: Annotated[
        bool, typer.Option("--test-connection", help="Connect to each target with dbt debug.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Replace targets that another project made.")
    ] = False,
    blocks_only: Annotated[
        bool, typer.Option("--blocks-only", help="Leave profiles.yml alone.")
    ] = False,
    profiles_only: Annotated[
        bool, typer.Option("--profiles-only", help="Write profiles.yml; no Prefect API needed.")
    ] = False,
) -> None:
    """Create or update one dbt-cli-profile-<target> block per target, and profiles.yml."""
    console = Console()
    _refuse_exclusive_options({"--outputs": outputs, "--terraform-dir": terraform_dir})
    _refuse_exclusive_options({"--blocks-only": blocks_only, "--profiles-only": profiles_only})
    settings = load_settings()
    contract = read_contract(settings, outputs, terraform_dir)
    names = _select_targets(contract, target)
    every_block = desired_blocks(contract, read_profile_name(settings.dbt_dir))
    chosen = filter_targets(every_block, names)
    profiles = [build_profile(every_block, name) for name in names]
    # Before any change, since a file that setup did not write is an error.
    text = (
        None
        if blocks_only
        else profiles_yml.render(settings.profiles_file, profiles, has_all_targets=target is None)
    )

    only_look = dry_run or check
    drift = False
    if not profiles_only:
        keep = every_block if target is None else None
        with prefect_client() as client:
            projects = load_projects(settings)
            owned = ownership.claim(client, projects, chosen, profiles, take_over=take_over)
            if not only_look:
                ownership.save_projects(projects, owned.projects)
            drift |= _setup_blocks(console, client, owned, keep, prune=prune, only_look=only_look)
    if text is not None:
        drift |= _setup_file(console, settings, text, only_look=only_look)
    if check and drift:
        raise typer.Exit(EXIT_FAILED)
    if test_connection:
        _test_connections(console, settings, profiles)


def _refuse_exclusive_options(options: dict[str, object]) -> None:
    if all(options.values()):
        raise ConfigurationError(
            f"{' and '.join(options)} exclude each other.",
            where="the command line",
            fix="give one of them",
        )


def _select_targets(contract: Contract, target: list[str] | None) -> list[str]:
    unknown = [name for name in target or [] if name not in contract.targets]
    if unknown:
        raise ConfigurationError(
            f"Terraform's outputs have no target {', '.join(map(repr, unknown))}; "
            f"they have {', '.join(contract.targets)}.{did_you_mean(unknown[0], contract.targets)}",
            where="--target",
            fix="name one of them, or add the target to Terraform and apply it",
        )
    return [name for name in contract.targets if not target or name in target]


def _setup_blocks(
    console: Console,
    client: SyncPrefectClient,
    owned: Ownership,
    all_desired: list[Desired] | None,
    *,
    prune: bool,
    only_look: bool,
) -> bool:
    """Plan, print and apply; return whether something differs."""
    steps = plan(client, KINDS, owned.blocks, all_desired=all_desired)
    steps = ownership.without_others(steps, owned.others)
    console.print(plan_table.format_table(steps, prune=prune))
    if not only_look:
        with api_changes(client):
            apply(client, steps, prune=prune)
        console.print(plan_table.format_summary("Blocks", steps, prune=prune))
    return has_changes(steps)


def _setup_file(console: Console, settings: Settings, text: str, *, only_look: bool) -> bool:
    """Write profiles.yml if it differs; return whether it differs."""
    file = settings.profiles_file
    differs = not file.exists() or file.read_text(errors="replace") != text
    action = Action.UNCHANGED
    if differs:
        action = Action.UPDATE if file.exists() else Action.CREATE
    if differs and not only_look:
        profiles_yml.write(file, text)
    console.print(f"{shorten_path(file, settings.project_dir)}: {action}")
    return differs


def _test_connections(console: Console, settings: Settings, profiles: list[Profile]) -> None:
    from prefect_flows.transform.session import DbtSession

    failures = []
    for profile in profiles:
        with (
            private_folder("debug") as folder,
            DbtSession(settings.dbt_dir, profile, folder, {}) as session,
        ):
            try:
                session.check_connection(settings.unreachable_seconds, log)
                console.print(f"{profile.target}: connected")
            except WarehouseUnreachable as error:
                failures.append(error)
                console.print(f"{profile.target}: {error}", markup=False, soft_wrap=True)
    if failures:
        raise typer.Exit(WarehouseUnreachable.exit_code)


if __name__ == "__main__":
    app()
