"""The one command that does again what failed."""

from __future__ import annotations

import shlex
from datetime import datetime

from prefect_flows.transform.results import NodeResult

# dbt's command for a type of node, where the stage that ran it has none of its own.
COMMANDS = {
    "model": "run",
    "seed": "seed",
    "snapshot": "snapshot",
    "source": "source freshness",
    "test": "test",
    "unit_test": "test",
    "function": "build",
}


def command_for(node: NodeResult, target: str, flags: str = "") -> str:
    """The one command that runs a node alone; a hook runs with every selection.

    Args:
        flags: what else the command needs to show the same, for example `--vars …`.
    """
    command = COMMANDS.get(node.resource_type) or node.stage.removeprefix("dbt-")
    selection = f" --select {shlex.quote(node.name)}"
    if node.resource_type == "operation":
        command = {"freshness": "source freshness"}.get(command, command)
        selection = ""
    elif node.resource_type == "source":
        selection = f" --select {shlex.quote('source:' + '.'.join(node.fqn[-2:]))}"
    if node.failed_batch is not None:
        begin, end = (_moment(moment) for moment in node.failed_batch)
        selection += f" --event-time-start {begin} --event-time-end {end}"
    extra = f" {flags}" if flags else ""
    return f"cd dbt && uv run dbt {command} --target {shlex.quote(target)}{selection}{extra}"


def _moment(moment: datetime) -> str:
    """A moment as dbt's command line takes it; most batches begin at midnight."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S").removesuffix("T00:00:00")
