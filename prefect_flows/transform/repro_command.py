"""The one command that does again what failed."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import PurePath

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
    if node.resource_type == "operation":
        command = {"freshness": "source freshness"}.get(command, command)
        selection = ""
    else:
        selection = f" --select {shlex.quote(selector_of(node))}"
    if node.failed_batch is not None:
        begin, end = (_moment(moment) for moment in node.failed_batch)
        selection += f" --event-time-start {begin} --event-time-end {end}"
    extra = f" {flags}" if flags else ""
    return f"cd dbt && uv run dbt {command} --target {shlex.quote(target)}{selection}{extra}"


def selector_of(node: NodeResult) -> str:
    """What selects a node in dbt, and nothing else.

    Its name alone selects a folder of that name as well, a model's other versions, and nodes of
    other packages. The whole name with package, folders and version still selects a folder beside
    the file that is called as the file, which the name of the file leaves out.
    """
    package = node.fqn[0]
    if node.resource_type == "source":
        return f"source:{package}.{'.'.join(node.fqn[-2:])}"
    if node.resource_type == "unit_test":
        return f"unit_test:{package}.{node.name}"
    file = PurePath(node.path)
    of_file = "" if file.suffix in (".yml", ".yaml") else f",file:{file.name}"
    return ".".join(node.fqn) + of_file


def _moment(moment: datetime) -> str:
    """A moment as dbt's command line takes it; most batches begin at midnight."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S").removesuffix("T00:00:00")
