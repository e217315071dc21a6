"""The dbt project as an Airflow DAG of Cosmos: a task for each table, and one for its tests.

The manifest is made before, as at a deployment: it is the fastest of Cosmos' ways to read a
project. Everything else is its default.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from cosmos import DbtDag, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import ExecutionMode, InvocationMode, LoadMode

PROJECT = Path(os.environ["DBT_PROJECT_DIR"])

dag = DbtDag(
    dag_id="cosmos",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    project_config=ProjectConfig(
        dbt_project_path=PROJECT,
        manifest_path=Path(os.environ["BENCH_MANIFEST"]),
        install_dbt_deps=False,
    ),
    profile_config=ProfileConfig(
        profile_name="millrace",
        target_name="bench",
        profiles_yml_filepath=Path(os.environ["DBT_PROFILES_DIR"], "profiles.yml"),
    ),
    execution_config=ExecutionConfig(
        execution_mode=ExecutionMode.LOCAL, invocation_mode=InvocationMode.DBT_RUNNER
    ),
    render_config=RenderConfig(load_method=LoadMode.DBT_MANIFEST),
)
