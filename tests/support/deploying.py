"""The targets, pools and blocks that deployments need, on the servers of a project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect_flows.ingest import source_registry
from tests.infrastructure.setup_profiles.test_contract import POSTGRES
from tests.support.project import Project

FIRST = {"MILLRACE_VERSION": "aaaaaaaaaaaa", "MILLRACE_IMAGE": "registry.example.com/m:aaaa"}
SECOND = {"MILLRACE_VERSION": "bbbbbbbbbbbb", "MILLRACE_IMAGE": "registry.example.com/m:bbbb"}
PASSWORD = "made-up-registry-password"
TARGETS = ("dev", "staging", "prod")


def of_target(target: str) -> set[str]:
    """The pipeline's deployment, and one for each source that there is."""
    return {
        f"dbt-{target}",
        *(source_registry.deployment_name(name, target) for name in source_registry.source_names()),
    }


ALL = {name for target in TARGETS for name in of_target(target)}


def deploy(project: Project, *arguments: str, **environment: str) -> Any:
    return project.run("-m", "infrastructure.cli", "deploy", *arguments, **(FIRST | environment))


def deployments(project: Project) -> dict[str, dict[str, Any]]:
    """Every deployment by name, as the API gives it."""
    return {deployment["name"]: deployment for deployment in project.asked("deployments")}


@contextmanager
def prepared_for_deployments(project: Project, folder: Path) -> Iterator[Project]:
    """Three targets with blocks, the pools, and what their templates refer to."""
    secrets = {
        "prefect-api-auth-string": ("secret", "u:p"),
        "warehouse-postgres": ("secret", '{"password": "made-up-1"}'),
        "millrace-registry": (
            "docker-registry-credentials",
            json.dumps({"username": "u", "password": PASSWORD, "registry_url": "r.example.com"}),
        ),
    }
    for name, (type_, value) in secrets.items():
        done = project.run("-m", "infrastructure.cli", "secret", name, "--type", type_, text=value)
        assert done.returncode == 0, done.stderr
    targets = {"dev": project.dev} | dict.fromkeys(("staging", "prod"), POSTGRES)
    outputs = folder / "outputs.json"
    outputs.write_text(json.dumps({"dbt_targets": {"sensitive": False, "value": targets}}))
    done = project.setup("--outputs", str(outputs), "--blocks-only")
    assert done.returncode == 0, done.stderr
    done = project.run(
        "-m", "infrastructure.cli", "pools", "--pool", "default-pool", "--pool", "docker-pool",
        **FIRST,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    yield project
    done = project.setup("--blocks-only", "--prune")
    assert done.returncode == 0, done.stderr
