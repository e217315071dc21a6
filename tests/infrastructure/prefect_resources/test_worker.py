"""What a worker imports; workers that take runs: `test_rollback` and `test_several_teams`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.project import REPOSITORY

SCRIPT = """
import asyncio, json, sys
from infrastructure.prefect_resources.worker import (
    get_worker_class, report_integrations_without_import,
)
worker = get_worker_class("pool", sys.argv[1])(work_pool_name="pool")
with report_integrations_without_import():
    metadata = asyncio.run(worker._worker_metadata())
names = [integration.name for integration in metadata.integrations]
print(json.dumps({"type": worker.type, "names": names, "modules": list(sys.modules)}))
"""


@pytest.mark.parametrize("kind", ["process", "docker"])
def test_a_worker_imports_the_package_of_its_type_and_names_all(kind: str) -> None:
    # Not forked: the fork server has imported all packages.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind], cwd=REPOSITORY, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    worker = json.loads(done.stdout.splitlines()[-1])
    assert worker["type"] == kind
    assert {"prefect-dbt", "prefect-docker", "prefect-gcp"} <= set(worker["names"])
    packages = {"prefect_dbt", "prefect_docker", "prefect_gcp"}
    assert packages & set(worker["modules"]) == ({"prefect_docker"} if kind == "docker" else set())
