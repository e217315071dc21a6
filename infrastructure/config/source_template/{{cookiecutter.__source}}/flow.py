"""The source as a flow of its own.

uv run millrace ingest {{ cookiecutter.__source }} --target dev
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from prefect import flow

from prefect_flows.core.command_line import exits_with_expected_errors
from prefect_flows.core.names import TargetName
from prefect_flows.source_flow import ingest_target, name_source_run


@flow(
    name="ingest-{{ cookiecutter.__dashed }}",
    flow_run_name=name_source_run,
    persist_result=False,
)
def {{ cookiecutter.__flow }}(
    target: TargetName = "dev",
{% if cookiecutter.__kind == "files" %}
    folder: str | None = None,
{% endif %}
    full_refresh: bool = False,
) -> dict[str, Any]:
    """Load {{ cookiecutter.__words }} into its raw schema.

    Args:
        target: Name of the target; its block `dbt-cli-profile-<target>` is made by setup.
{% if cookiecutter.__kind == "files" %}
        folder: Where the files lie, any URL of fsspec; default: from prefect.yaml.
{% endif %}
        full_refresh: Load everything, whatever was loaded before.

    Returns:
        A plain record: new rows per table, seconds, load ids.
    """
    return ingest_target(
        "{{ cookiecutter.__source }}",
        target,
{% if cookiecutter.__kind == "files" %}
        folder=folder,
{% endif %}
        full_refresh=full_refresh,
    )


@exits_with_expected_errors
def main(
    target: Annotated[str, typer.Option(help="Name of the target.")] = "dev",
{% if cookiecutter.__kind == "files" %}
    folder: Annotated[str | None, typer.Option(help="Default: from prefect.yaml.")] = None,
{% endif %}
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Load everything again.")
    ] = False,
) -> None:
    """Load {{ cookiecutter.__words }}."""
    {{ cookiecutter.__flow }}(target, {% if cookiecutter.__kind == "files" %}folder, {% endif %}full_refresh)


if __name__ == "__main__":
    typer.run(main)
