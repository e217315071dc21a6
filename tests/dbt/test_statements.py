"""What the project's statements say of who asks, to whom looks into the warehouse."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.project import Project

pytestmark = pytest.mark.models


def test_a_statement_names_its_target_its_node_and_its_run(project: Project) -> None:
    done = project.dbt(
        *("show", "--quiet", "--output", "json", "--inline", "select current_query() as asked"),
        DBT_ENV_CUSTOM_ENV_MILLRACE_RUN_ID="made-up-run",
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(done.stdout)["show"]
    comment = re.match(r"/\* (\{.*?\}) \*/", row["asked"])
    assert comment is not None, row
    assert json.loads(comment[1]) == {
        "app": "millrace",
        "target": "dev",
        "run": "made-up-run",
        "node": "sql_operation.millrace.inline_query",
    }
