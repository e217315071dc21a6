"""Print the parameter schemas of flows: `python -m …deployments.flow_schema ENTRYPOINT …`.

This runs in a separate process, which isolates errors in a source's module. One process loads all
flows, since each would import Prefect and dlt again. It ends at the first flow that cannot be
loaded, and another process continues with the rest.
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

# Timeout per flow.
LOAD_TIMEOUT_SECONDS = 120
# Prefix of output lines that contain a schema.
SCHEMA_PREFIX = "schema: "


@dataclass(frozen=True)
class FlowSchema:
    """Name, description and parameter schema of a flow."""

    name: str
    description: str | None
    parameters: dict[str, Any]


def load_schemas(
    entrypoints: Iterable[str], settings: Settings
) -> dict[str, FlowSchema | ConfigurationError]:
    """Load flows and return their parameter schemas.

    Returns:
        Entrypoint → schema, or the error if the module cannot be imported or has no such flow.
    """
    remaining = sorted(set(entrypoints))
    found: dict[str, FlowSchema | ConfigurationError] = {}
    while remaining:
        schemas, error_text = _load_in_subprocess(remaining, settings)
        found |= dict(zip(remaining, schemas, strict=False))
        remaining = remaining[len(schemas) :]
        if remaining:
            broken = remaining.pop(0)
            found[broken] = ConfigurationError(
                f"The flow cannot be loaded: {error_text}.",
                where=broken,
                fix="correct the module; "
                f"{shlex.join(['uv', 'run', 'python', '-m', __name__, '--', broken])} shows more",
            )
    return found


def _load_in_subprocess(entrypoints: list[str], settings: Settings) -> tuple[list[FlowSchema], str]:
    """Return the schemas up to the first flow that cannot be loaded, and its error."""
    command = [sys.executable, "-m", __name__, "--", *entrypoints]
    try:
        done = subprocess.run(
            command, cwd=settings.project_dir, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=LOAD_TIMEOUT_SECONDS * len(entrypoints),
        )  # fmt: skip
        output = done.stdout
        error_text = (done.stderr.strip().splitlines()[-1:] or ["it says nothing"])[0]
    except subprocess.TimeoutExpired as error:
        # The exception contains bytes even with `text=True`.
        output = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        error_text = f"it takes more than {LOAD_TIMEOUT_SECONDS * len(entrypoints)} s"
    lines = [
        line.removeprefix(SCHEMA_PREFIX)
        for line in output.splitlines()
        if line.startswith(SCHEMA_PREFIX)
    ]
    return [FlowSchema(**json.loads(line)) for line in lines], error_text


def main(
    entrypoints: Annotated[list[str], typer.Argument(help="Entrypoints of flows.")],
) -> None:
    """Print each flow's schema as a line of JSON, as soon as it is loaded."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    for entrypoint in entrypoints:
        flow: Any = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
        parameters = parameter_schema(flow).model_dump(mode="json", exclude_unset=True)
        schema = {
            "name": flow.name,
            "description": flow.description,
            # The API then rejects an unknown parameter, instead of the run crashing in the worker.
            "parameters": parameters | {"additionalProperties": False},
        }
        # The module may print when imported. Flush, since the caller may time out at the next flow.
        sys.stdout.write(f"\n{SCHEMA_PREFIX}{json.dumps(schema)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
