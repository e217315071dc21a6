"""The dbt command that reproduces the failure of a node."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath

from prefect_flows.core.settings import load_settings
from prefect_flows.transform.results import NodeResult

# Resource type → dbt command.
COMMANDS = {
    "model": "run",
    "seed": "seed",
    "snapshot": "snapshot",
    "source": "source freshness",
    "test": "test",
    "unit_test": "test",
    "function": "build",
}


def build_command(
    node: NodeResult,
    target: str,
    flags: str = "",
    *,
    publishes: bool = False,
    model_flags: Sequence[str] = (),
) -> str:
    """Return the command that runs only this node; for a hook, the command of its stage.

    On a target that publishes, dbt alone sees the published rows, not those that failed: the
    pipeline runs what failed again.

    Args:
        node: the result of the node.
        target: name of the target.
        flags: further flags that the failure depends on, for example `--vars …`.
        publishes: whether the target publishes.
        model_flags: further flags of models, for example `--empty`; tests do not take them.
    """
    if node.resource_type == "model":
        flags = " ".join([*map(shlex.quote, model_flags), *([flags] if flags else [])])
    if publishes and node.resource_type != "source":
        return f"uv run millrace run --target {shlex.quote(target)} --failed"
    command = COMMANDS.get(node.resource_type) or node.stage.removeprefix("dbt-")
    if node.resource_type == "operation":
        command = {"freshness": "source freshness"}.get(command, command)
        selection = ""
    else:
        selection = f" --select {shlex.quote(build_selector(node))}"
    if node.failed_batch is not None:
        begin, end = (_format_time(time) for time in node.failed_batch)
        selection += f" --event-time-start {begin} --event-time-end {end}"
    return format_dbt_command(command, target) + selection + (f" {flags}" if flags else "")


def format_dbt_command(command: str, target: str) -> str:
    """Return the shell command that runs a dbt command for a target, from the project's folder."""
    enter = load_settings().enter_dbt_dir
    return f"{enter}uv run dbt {command} --target {shlex.quote(target)}"


def build_selector(node: NodeResult) -> str:
    """Return a dbt selector that matches this node and nothing else.

    The name alone also matches a folder of that name, other versions of a model, and nodes of other
    packages. The fqn (package, folders, name, version) also matches a folder that is named like the
    file, so `file:` is added.
    """
    package = node.fqn[0]
    if node.resource_type == "source":
        return f"source:{package}.{'.'.join(node.fqn[-2:])}"
    if node.resource_type == "unit_test":
        return f"unit_test:{package}.{node.name}"
    file = PurePath(node.path)
    file_selector = "" if file.suffix in (".yml", ".yaml") else f",file:{file.name}"
    return ".".join(node.fqn) + file_selector


def _format_time(time: datetime) -> str:
    """Format a time for dbt's command line; midnight without its time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S").removesuffix("T00:00:00")
