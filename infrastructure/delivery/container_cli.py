"""`python -m infrastructure.delivery.container_cli`: commands that a delivery runs in a container.

The host has only a container engine. Commands that talk to Prefect run in a container of the
release, which has this package.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

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
from infrastructure.prefect_resources.reconcile.plan import Action, Step, apply, plan
from infrastructure.prefect_resources.rollback.verify import run_health_check
from prefect_flows.core.command_line import exits_with_expected_errors, finite
from prefect_flows.core.errors import ConfigurationError, PrefectUnreachable
from prefect_flows.core.names import notify_block
from prefect_flows.core.prefect_api import (
    api_changes,
    block_address,
    list_default_blocks,
    prefect_client,
)
from prefect_flows.core.settings import load_settings
from prefect_flows.notifications.messages import Notice
from prefect_flows.notifications.recipients import build_sender

POLL_SECONDS = 3.0

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command()
@exits_with_expected_errors
def faults(
    target: Annotated[str, typer.Argument(help="The target to look at.")],
    seconds: Annotated[
        float, typer.Option(min=0, callback=finite, help="How long to ask again.")
    ] = 0.0,
    known: Annotated[str, typer.Option(help="JSON list of faults that are not waited for.")] = "[]",
) -> None:
    """Print as JSON what the health check finds, asked until no more fails than what is known."""
    deadline = time.monotonic() + seconds
    expected = set(json.loads(known))
    while True:
        found = run_health_check(target)
        if set(found) <= expected or time.monotonic() > deadline:
            typer.echo(json.dumps(found))
            return
        time.sleep(POLL_SECONDS)


@app.command()
@exits_with_expected_errors
def deployed(target: Annotated[str, typer.Argument(help="The target.")]) -> None:
    """Print the version that a target's deployments are at; an empty line where there is none."""
    with prefect_client() as client:
        known = list_releases(client, target)
    typer.echo(known[0].version if known else "")


@app.command()
@exits_with_expected_errors
def notify(
    target: Annotated[str, typer.Argument(help="Target whose notify-<target> blocks are used.")],
    subject: Annotated[str, typer.Argument(help="One line.")],
) -> None:
    """Send standard input as a notification through the target's blocks; only print failures."""
    body = sys.stdin.read().strip()
    try:
        with prefect_client() as client:
            recipients = [
                block_address(document) for document in list_default_blocks(client, target)
            ]
    except PrefectUnreachable as error:
        typer.echo(f"Cannot read the notification blocks: {error.what}")
        return
    if not recipients:
        typer.echo(f"No notification sent: there is no block {notify_block(target)}")
    send = build_sender(recipients)
    notice = Notice(subject=subject, body=body, at=datetime.now(UTC))
    for receiver in recipients:
        unsent = send(receiver, notice)
        block = receiver.rpartition("/")[2]
        typer.echo(
            f"sent through {block}"
            if unsent is None
            else f"Sending through {block} failed: {unsent}"
        )


@app.command()
def head() -> None:
    """Print the Alembic revision to which this image migrates Prefect's database."""
    from importlib.util import find_spec

    from alembic.script import ScriptDirectory

    spec = find_spec("prefect.server.database")
    assert spec is not None  # noqa: S101 # a package of Prefect
    assert spec.submodule_search_locations is not None  # noqa: S101
    migrations = Path(spec.submodule_search_locations[0], "_migrations")
    scripts = ScriptDirectory(
        str(migrations), version_locations=[str(migrations / "versions" / "postgresql")]
    )
    typer.echo(scripts.get_current_head())


@app.command()
@exits_with_expected_errors
def back(
    target: Annotated[str, typer.Argument(help="The target.")],
    version: Annotated[str, typer.Argument(help="The version of its deployments to go back to.")],
) -> None:
    """Put a target's deployments back as that version left them; what came after it goes.

    It changes no workers and no pools. `millrace rollback` changes them too.
    """
    console = Console()
    load_settings()
    with prefect_client() as client:
        known = list_releases(client, target)
        chosen = next((r for r in known if r.version == version and r.why == DEPLOYED), None)
        if chosen is None:
            raise ConfigurationError(
                f"No release {version} of the target {target!r} is recorded.",
                where=f"the artifacts releases-{target} of the Prefect API",
                fix=f"in a checkout of it: uv run millrace deploy {target}",
            )
        deployments = chosen.deployments
        steps = plan(client, [DeploymentKind([target])], deployments, all_desired=deployments)
        current = known[0]
        current_names = {each.name for each in current.deployments}
        steps = [
            each
            for each in steps
            if each.action is not Action.ORPHANED or _is_named(each, current_names)
        ]
        console.print(plan_table.format_table(steps, prune=True))
        with api_changes(client):
            apply(client, steps, prune=True)
            if current.version != version:
                why = f"rolled back from {current.version}"
                record_release(client, Release(target, version, chosen.image, why, deployments))


def _is_named(step: Step, names: set[str]) -> bool:
    return step.name in names


if __name__ == "__main__":
    app()
