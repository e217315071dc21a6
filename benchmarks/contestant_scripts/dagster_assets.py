"""The dbt project as Dagster assets. Its manifest is made before, as at a deployment."""

# No `from __future__ import annotations`: Dagster reads the type of `context` itself.
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DbtCliResource, DbtProject, dbt_assets

project = DbtProject(
    project_dir=os.environ["DBT_PROJECT_DIR"],
    profiles_dir=os.environ["DBT_PROFILES_DIR"],
    target_path=Path(os.environ["DBT_TARGET_PATH"]),
)


@dbt_assets(manifest=project.manifest_path)
def built(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Iterator[Any]:
    """Build everything."""
    yield from dbt.cli(["build"], context=context).stream()


definitions = dg.Definitions(assets=[built], resources={"dbt": DbtCliResource(project)})
