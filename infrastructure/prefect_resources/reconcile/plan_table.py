"""Format a plan as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.table import Table

from infrastructure.prefect_resources.reconcile.plan import Action, Step

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Check = Annotated[
    bool, typer.Option("--check", help="Print the plan; exit code 1 when it changes anything.")
]


def format_table(steps: Iterable[Step], *, prune: bool) -> Table:
    """Build a table with one row per resource and its changed fields."""
    table = Table("action", "object", "changes", title="Plan", title_justify="left")
    for step in steps:
        action = "remove" if prune and step.action is Action.ORPHANED else str(step.action)
        changes = "\n".join(step.changes)
        if step.action is Action.ORPHANED and not prune:
            changes = "nothing asks for it; --prune removes it"
        table.add_row(action, step.name, changes)
    return table


def format_summary(what: str, steps: Sequence[Step], *, prune: bool) -> str:
    """Format the number of created, updated, unchanged, and orphaned or removed resources."""
    count = {action: sum(step.action is action for step in steps) for action in Action}
    parts = [
        f"{count[Action.CREATE]} created",
        f"{count[Action.UPDATE]} updated",
        f"{count[Action.UNCHANGED]} unchanged",
    ]
    if count[Action.ORPHANED]:
        parts.append(f"{count[Action.ORPHANED]} {'removed' if prune else 'orphaned'}")
    return f"{what}: {', '.join(parts)}."
