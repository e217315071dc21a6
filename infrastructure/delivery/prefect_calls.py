"""Run the project's commands against a cluster's Prefect API, through a forwarded port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from infrastructure.delivery.on_host.errors import StepFailed
from prefect_flows.core.project_folder import find_project_dir

CONTAINER_CLI = "infrastructure.delivery.container_cli"
CLI = "infrastructure.cli"


@dataclass(frozen=True)
class ClusterRequest:
    """A delivery to a cluster.

    Attributes:
        version: the commit that is checked out, which the image must be built from.
        outputs: Terraform's outputs as text; None to skip the check of the blocks.
    """

    target: str
    image: str
    version: str
    pool: str
    outputs: str | None
    health_seconds: int


class PrefectCommands:
    """Commands against the Prefect API; credentials are passed only in their environment."""

    def __init__(self, url: str, auth_string: str, request: ClusterRequest) -> None:
        from prefect.client.base import PrefectHttpxSyncClient

        self._request = request
        user, _, password = auth_string.partition(":")
        # Prefect's own client, because it handles the CSRF tokens.
        self._http = PrefectHttpxSyncClient(
            base_url=url, auth=(user, password), enable_csrf_support=True,
            raise_on_all_errors=False,
        )  # fmt: skip
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
        } | {
            "PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": auth_string,
            "MILLRACE_IMAGE": request.image, "MILLRACE_VERSION": request.version,
        }  # fmt: skip

    def run(self, module: str, *arguments: str, text: str | None = None) -> str:
        """Run a command of the project, and return its output.

        Raises:
            StepFailed: the command fails.
        """
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], env=self._environment,
            cwd=find_project_dir(), input=text, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            program = "millrace" if module == CLI else module
            raise StepFailed(f"{program} {arguments[0]}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def find_faults(self, seconds: float, known: Iterable[str]) -> dict[str, str]:
        """Return the faults that the health check of the target finds, by check and subject."""
        output = self.run(
            CONTAINER_CLI, "faults", self._request.target, "--seconds", f"{seconds:.0f}",
            "--known", json.dumps(list(known)),
        )  # fmt: skip
        return dict(json.loads(output.strip().splitlines()[-1]))

    def read_pool(self) -> dict[str, Any] | None:
        """Return the work pool, or None if it does not exist."""
        answer = self._http.get(f"/work_pools/{self._request.pool}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.is_error:
            raise StepFailed(f"work pool {self._request.pool}: {answer.status_code}")
        return dict(answer.json())

    def restore_pool(self, before: dict[str, Any]) -> None:
        """Restore job template and description of the work pool."""
        body = {key: before[key] for key in ("base_job_template", "description")}
        answer = self._http.patch(f"/work_pools/{self._request.pool}", json=body)
        if answer.is_error:
            raise StepFailed(f"work pool {self._request.pool}: {answer.status_code} {answer.text}")
