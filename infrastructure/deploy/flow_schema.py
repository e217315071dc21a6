"""`python -m infrastructure.deploy.flow_schema ENTRYPOINT`: what a flow's module says of it.

In a process of its own, so that whatever goes wrong in a source's module stays there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import typer

from prefect_flows.errors import ConfigurationError
from prefect_flows.settings import Settings

SECONDS = 120


@dataclass(frozen=True)
class FlowSchema:
    """A flow's name, description, and the JSON schema of its parameters."""

    name: str
    description: str | None
    parameters: dict[str, Any]


def schema_of(entrypoint: str, settings: Settings) -> FlowSchema:
    """Import the flow's module and look.

    Raises:
        ConfigurationError: the module does not import, or has no such flow.
    """
    command = [sys.executable, "-m", __name__, entrypoint]
    try:
        done = subprocess.run(
            command, cwd=settings.project_dir, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
        said = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
    except subprocess.TimeoutExpired:
        done, said = None, [f"it takes more than {SECONDS} s"]
    if done is None or done.returncode != 0:
        raise ConfigurationError(
            f"The flow cannot be loaded: {said[0]}.",
            where=entrypoint,
            mend=f"correct the module; uv run python -m {__name__} {entrypoint} shows more",
        )
    return FlowSchema(**json.loads(done.stdout.splitlines()[-1]))


def main(entrypoint: str) -> None:
    """Print the flow's schema as JSON."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    flow: Any = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    typer.echo(
        json.dumps(
            {
                "name": flow.name,
                "description": flow.description,
                "parameters": parameter_schema(flow).model_dump(mode="json", exclude_unset=True),
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
