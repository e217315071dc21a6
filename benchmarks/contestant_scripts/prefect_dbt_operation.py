"""`dbt build` as a process of its own inside a Prefect task, by `DbtCoreOperation`."""

from __future__ import annotations

import os
from pathlib import Path

from prefect import flow, task
from prefect_dbt.cli.commands import DbtCoreOperation


@task
def dbt_build() -> None:
    """Build everything; the operation logs dbt's lines to the run."""
    DbtCoreOperation(
        commands=["dbt build"],
        project_dir=Path(os.environ["DBT_PROJECT_DIR"]),
        profiles_dir=Path(os.environ["DBT_PROFILES_DIR"]),
        working_dir=Path(os.environ["DBT_PROJECT_DIR"]),
    ).run()


@flow(name="prefect-dbt-operation")
def build() -> None:
    """One task."""
    dbt_build()


if __name__ == "__main__":
    build()
