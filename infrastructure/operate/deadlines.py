"""`millrace deadlines`: check deadlines without a run, and notify the owners of missed ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError, did_you_mean
from prefect_flows.core.names import SETUP_COMMAND
from prefect_flows.core.notification_preferences import load_preferences
from prefect_flows.core.prefect_api import (
    block_address,
    list_notification_blocks,
    list_targets,
    prefect_client,
)
from prefect_flows.core.settings import load_settings
from prefect_flows.notifications.missed_deadlines import notify_missed_deadlines
from prefect_flows.state.configured_store import configured_store
from prefect_flows.state.deadlines import load_deadlines

app = typer.Typer(add_completion=False)


@app.command()
@exits_with_expected_errors
def deadlines(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Targets to check; all that setup made by default.")
    ] = None,
) -> None:
    """Check the deadlines of models and exposures, and notify the owners of missed ones.

    Exit code 0: none is missed; 1: one is; 2: they cannot be checked.
    """
    settings, console = load_settings(), Console()
    table = Table("target", "node", "deadline", "complete (UTC)", "owner", "status")
    is_missed = False
    with prefect_client() as client:
        store = configured_store(settings, client)
        existing = list_targets(client)
        for target in targets or existing:
            if target not in existing:
                raise ConfigurationError(
                    f"Target {target!r} has no profile block.{did_you_mean(target, existing)}",
                    where=f"the Prefect API at {client.api_url}",
                    fix=f"{SETUP_COMMAND} --target {target}",
                )
            states = load_deadlines(store, target)
            missed = notify_missed_deadlines(
                store,
                target,
                states,
                load_preferences(client, target),
                [block_address(block) for block in list_notification_blocks(client, target)],
                now := datetime.now(UTC),
                settings.notify_seconds,
                lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
            )
            is_missed |= bool(missed)
            for state in states.values():
                last = state.complete_at
                table.add_row(
                    target,
                    state.name,
                    state.deadline,
                    "never" if last is None else f"{last:%Y-%m-%d %H:%M}",
                    state.owner or "",
                    "met" if state.find_missed(now) is None else "missed",
                )
    console.print(table if table.row_count else "No model and no exposure has a deadline.")
    if is_missed:
        raise typer.Exit(EXIT_FAILED)
