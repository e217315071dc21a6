"""Prints the parameter schemas of flows: `python -m …deployments.flow_schema ENTRYPOINT …`.

In a process of its own, so that whatever goes wrong in a source's module stays there. One process
for all, since each would import Prefect and dlt again: that of a flow which cannot be loaded ends
there, and another one goes on with the rest.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings

# For each flow.
SECONDS = 120
# Begins a line that is a schema.
MARK = "schema: "


@dataclass(frozen=True)
class FlowSchema:
    """A flow's name, description, and the JSON schema of its parameters."""

    name: str
    description: str | None
    parameters: dict[str, Any]


def schemas_of(
    entrypoints: Iterable[str], settings: Settings
) -> dict[str, FlowSchema | ConfigurationError]:
    """Import the flows' modules and look.

    Returns:
        Entrypoint → its schema; or the error of a module that does not import, or has no such flow.
    """
    left = sorted(set(entrypoints))
    found: dict[str, FlowSchema | ConfigurationError] = {}
    while left:
        told, said = _told_of(left, settings)
        found |= dict(zip(left, told, strict=False))
        left = left[len(told) :]
        if left:
            broken = left.pop(0)
            found[broken] = ConfigurationError(
                f"The flow cannot be loaded: {said}.",
                where=broken,
                fix="correct the module; "
                f"{shlex.join(['uv', 'run', 'python', '-m', __name__, '--', broken])} shows more",
            )
    return found


def _told_of(entrypoints: list[str], settings: Settings) -> tuple[list[FlowSchema], str]:
    """The schemas up to the first flow that cannot be loaded, and why it cannot."""
    command = [sys.executable, "-m", __name__, "--", *entrypoints]
    try:
        done = subprocess.run(
            command, cwd=settings.project_dir, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=SECONDS * len(entrypoints),
        )  # fmt: skip
        output = done.stdout
        said = (done.stderr.strip().splitlines()[-1:] or ["it says nothing"])[0]
    except subprocess.TimeoutExpired as error:
        # As bytes, whatever was asked for.
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        said = f"it takes more than {SECONDS * len(entrypoints)} s"
    lines = [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]
    return [FlowSchema(**json.loads(line)) for line in lines], said


def main(
    entrypoints: Annotated[list[str], typer.Argument(help="Entrypoints of flows.")],
) -> None:
    """Print each flow's schema as a line of JSON, as it is loaded."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    for entrypoint in entrypoints:
        flow: Any = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
        parameters = parameter_schema(flow).model_dump(mode="json", exclude_unset=True)
        schema = {
            "name": flow.name,
            "description": flow.description,
            # A run with another parameter is refused by the API; it would crash in the worker.
            "parameters": parameters | {"additionalProperties": False},
        }
        # A module may print at its import; flushed, for whoever waits no longer.
        sys.stdout.write(f"\n{MARK}{json.dumps(schema)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
