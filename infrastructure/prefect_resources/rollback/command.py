"""`millrace rollback TARGET`: go back to the previous version, restart the worker, check health."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from infrastructure.prefect_resources.deployments.deployment_resources import DeploymentKind
from infrastructure.prefect_resources.deployments.releases import (
    DEPLOYED,
    Release,
    list_releases,
    record_release,
)
from infrastructure.prefect_resources.reconcile import plan_table
from infrastructure.prefect_resources.reconcile.plan import Action, apply, plan
from infrastructure.prefect_resources.rollback.drain import pause_pools, wait_until_idle
from infrastructure.prefect_resources.rollback.verify import read_heartbeats, verify
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors, finite
from prefect_flows.core.errors import ConfigurationError, ServerError
from prefect_flows.core.prefect_api import api_changes, prefect_client
from prefect_flows.core.settings import load_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

# Type of work pools whose runs are child processes of the worker, and use its code.
PROCESS = "process"

app = typer.Typer(add_completion=False)


@app.command()
@exits_with_expected_errors
def rollback(
    target: Annotated[str, typer.Argument(help="The target to take back.")],
    to: Annotated[
        str | None, typer.Option(help="Version to go to. The one before the current by default.")
    ] = None,
    restart: Annotated[
        str | None,
        typer.Option(
            help="Command that starts the worker in the version, which it finds in "
            "MILLRACE_VERSION and MILLRACE_IMAGE."
        ),
    ] = None,
    drain_timeout: Annotated[
        float,
        typer.Option(
            min=0,
            callback=finite,
            help="Seconds to wait for runs in the worker's processes.",
        ),
    ] = 3600.0,
    verify_timeout: Annotated[
        float,
        typer.Option(min=0, callback=finite, help="Seconds until the health check has to pass."),
    ] = 180.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
) -> None:
    """Point a target's deployments back at an earlier version, restart its worker, and check."""
    console = Console()
    load_settings()
    with prefect_client() as client:
        current, chosen = _choose(list_releases(client, target), target, to)
        console.print(
            f"{target}: {current.version} → {chosen.version}, "
            f"deployed at {chosen.deployed_at:%Y-%m-%d %H:%M} UTC",
            highlight=False,
        )
        desired = chosen.deployments
        steps = plan(client, [DeploymentKind([target])], desired, all_desired=desired)
        added = [step.name for step in steps if step.action is Action.ORPHANED]
        steps = [step for step in steps if step.action is not Action.ORPHANED]
        console.print(plan_table.format_table(steps, prune=False))
        if added:
            console.print(f"Younger than that, left as they are: {', '.join(added)}")
        pools = _process_pools(client, chosen)
        if pools and restart is None:
            raise _restart_required_error(target, pools)
        if dry_run:
            return
        with pause_pools(client, pools):
            wait_until_idle(client, pools, drain_timeout, console)
            with api_changes(client):
                apply(client, steps, prune=False)
                _restart(restart, chosen, console)
        watched = pools if restart is not None else []
        before = read_heartbeats(client, watched)
        why = f"rolled back from {current.version}"
        record_release(client, Release(target, chosen.version, chosen.image, why, desired))
        faults = verify(client, target, before, verify_timeout)
    if faults:
        console.print("The deployments are back, and the health check fails:")
        for fault in faults:
            console.print(f"  {fault}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)
    console.print(f"{target} is at {chosen.version}, and the health check passes.", highlight=False)


def _choose(known: Sequence[Release], target: str, to: str | None) -> tuple[Release, Release]:
    """Return the current release, and the one to go back to.

    Raises:
        ConfigurationError: there is none.
    """
    where = f"the artifacts releases-{target} of the Prefect API"
    if not known:
        raise ConfigurationError(
            f"No release of the target {target!r} is recorded.",
            where=where,
            fix=f"deploy one first: uv run millrace deploy {target}",
        )
    current = known[0]
    # Each deployed version once, the latest first. Rollbacks are not in the list, so a second
    # rollback goes back one more version, and never forward.
    deployed: dict[str, Release] = {}
    for each in known:
        if each.why == DEPLOYED:
            deployed.setdefault(each.version, each)
    versions = list(deployed)
    younger = versions.index(current.version) + 1 if current.version in deployed else 0
    before = versions[younger:] if to is None else [to]
    for version in before:
        if version in deployed and version != current.version:
            return current, deployed[version]
    raise ConfigurationError(
        f"There is no release of the target {target!r} to go back to"
        + (f" in version {to}" if to is not None else "")
        + f"; it is at {current.version}, recorded are {', '.join(versions)}.",
        where=where,
        fix="name another one of them with --to; or check the version out and deploy it: "
        f"uv run millrace deploy {target}",
    )


def _process_pools(client: SyncPrefectClient, release: Release) -> list[str]:
    names = {str(each.data["work_pool_name"]) for each in release.deployments}
    return sorted(name for name in names if client.read_work_pool(name).type == PROCESS)


def _restart_required_error(target: str, pools: Sequence[str]) -> ConfigurationError:
    command = f"uv run millrace rollback {target} --restart"
    return ConfigurationError(
        "Its runs are processes of a worker and use the worker's code: the deployments alone do "
        "not bring the version back.",
        where=f"work pool {', '.join(pools)}",
        fix="say how its worker is started in the version: "
        f'{command} "docker compose up --detach --no-deps --wait worker"; '
        "for systemd: documentation/systemd.md",
    )


def _restart(command: str | None, release: Release, console: Console) -> None:
    """Run the command with the version in its environment.

    Raises:
        ServerError: the command cannot be run, or fails.
    """
    if command is None:
        return
    console.print(f"$ {command}", markup=False, highlight=False, soft_wrap=True)
    environment = os.environ | {"MILLRACE_VERSION": release.version}
    if release.image is not None:
        environment["MILLRACE_IMAGE"] = release.image
    try:
        code = subprocess.run(shlex.split(command), env=environment, check=False).returncode
        reason = f"it exits with {code}"
    except OSError as error:
        code, reason = 1, str(error)
    if code != 0:
        raise ServerError(
            f"The worker was not restarted: {reason}.",
            where=f"--restart {shlex.quote(command)}; the deployments are at {release.version}, "
            "the work pool takes runs again",
            fix=f"see why, and run the command with MILLRACE_VERSION={release.version}",
        )
