"""What the templates of the pools become: for a real process worker, and as a Kubernetes job."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import patch

import kubernetes_validate
import pytest
import yaml

from tests.support.job_manifest import job_manifest
from tests.support.project import Project

IMAGE = "registry.example.com/millrace:abc1234"
SECRETS = {
    "prefect-api-auth-string": "made-up-user:made-up-password",
    "prefect-api-key": "made-up-key",
    "warehouse-postgres": json.dumps({"host": "warehouse", "password": "made-up-warehouse"}),
}
FLOW = """\
import os
from pathlib import Path
from prefect import flow

NAMES = ("PREFECT_API_KEY", "PGHOST", "PGPASSWORD", "WHOLE", "PYTHONUNBUFFERED")

@flow
def look():
    Path(__file__).with_name("seen.txt").write_text("\\n".join(os.environ[n] for n in NAMES))
"""


pytestmark = pytest.mark.operations


@pytest.fixture(scope="module")
def pools(other_project: Project) -> Project:
    """All three pools, and the blocks that their templates refer to."""
    for name, value in SECRETS.items():
        done = other_project.run("-m", "infrastructure.cli", "secret", name, text=value)
        assert done.returncode == 0, done.stderr
    done = other_project.run("-m", "infrastructure.cli", "pools", MILLRACE_IMAGE=IMAGE)
    assert done.returncode == 0, done.stderr
    return other_project


def deployed(project: Project, folder: Path, pool: str, *arguments: str) -> str:
    """A deployment of the flow above to a pool, by Prefect's own command; its run's id."""
    (folder / "look.py").write_text(FLOW)
    done = project.run(
        "-m", "prefect", "--no-prompt", "deploy", "look.py:look", "--name", f"in-{pool}",
        "--pool", pool, *arguments, cwd=folder,
        PREFECT_API_URL=project.api_url, PREFECT_API_AUTH_STRING=project.auth_string,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (deployment,) = project.asked("deployments", deployments={"name": {"any_": [f"in-{pool}"]}})
    created = project.http.post(f"/deployments/{deployment['id']}/create_flow_run", json={})
    return str(created.json()["id"])


def test_references_into_blocks_resolve_in_a_real_worker(pools: Project, tmp_path: Path) -> None:
    """Also into a member of a Secret that holds a dict, of which the whole is never asked for."""
    reference = "{{ prefect.blocks.secret.%s }}"
    file = tmp_path / "pools.yaml"
    env = {
        "PREFECT_API_KEY": reference % "prefect-api-key",
        "PGHOST": reference % "warehouse-postgres.host",
        "PGPASSWORD": reference % "warehouse-postgres.password",
        "WHOLE": "postgresql://" + reference % "warehouse-postgres.host" + "/db",
    }
    pool = {"kind": "process", "description": "Tried.", "env": env}
    document = {"version": 1, "env": {"PYTHONUNBUFFERED": "1"}, "pools": {"tried": pool}}
    file.write_text(yaml.safe_dump(document))
    done = pools.run("-m", "infrastructure.cli", "pools", "--file", str(file))
    assert done.returncode == 0, done.stderr
    run_id = deployed(pools, tmp_path, "tried")

    worker = pools.run("-m", "prefect", "worker", "start", "--pool", "tried", "--run-once")

    assert worker.returncode == 0, worker.stdout + worker.stderr
    (run,) = pools.asked("flow_runs", flow_runs={"id": {"any_": [run_id]}})
    assert run["state"]["type"] == "COMPLETED", run["state"]["message"]
    assert (tmp_path / "seen.txt").read_text().split("\n") == [
        "made-up-key", "warehouse", "made-up-warehouse", "postgresql://warehouse/db", "1",
    ]  # fmt: skip
    told = worker.stdout + worker.stderr + json.dumps(pools.asked("logs"))
    told += json.dumps(pools.asked("work_pools")) + json.dumps(pools.asked("flow_runs"))
    assert "made-up-key" not in told
    assert "made-up-warehouse" not in told


@pytest.fixture(scope="module")
def run_of_k3s(pools: Project, tmp_path_factory: pytest.TempPathFactory) -> str:
    return deployed(pools, tmp_path_factory.mktemp("flow"), "k3s-pool")


def test_the_job_that_the_kubernetes_worker_would_submit(pools: Project, run_of_k3s: str) -> None:
    # GIVEN the worker's own environment, which it hands to its jobs
    with patch.dict(os.environ):
        job = job_manifest(pools.api_url, pools.auth_string, run_of_k3s)
    # THEN it is a job for the pod standard `restricted`, and its pod asks for what the file says
    pod = job["spec"]["template"]["spec"]
    # Prefect's worker wants these two in the pod, where they belong to the job: a cluster drops
    # them with a warning (prefect-kubernetes 0.8.0 refuses a template without them).
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    (container,) = pod["containers"]
    assert job["metadata"]["namespace"] == "millrace"
    assert job["spec"]["ttlSecondsAfterFinished"] == 3600
    assert pod["serviceAccountName"] == "prefect-job"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["image"] == IMAGE
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert container["envFrom"] == [{"secretRef": {"name": "prefect-jobs-secrets"}}]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["PREFECT_API_URL"] == "http://prefect-server.millrace.svc.cluster.local:4200/api"
    assert env["PREFECT_API_KEY"] == "made-up-key"
    mounts = {each["name"] for each in container["volumeMounts"]}
    assert mounts == {each["name"] for each in pod["volumes"]}


def test_each_environment_has_a_kubernetes_secret_of_its_own(
    pools: Project, run_of_k3s: str
) -> None:
    job = job_manifest(
        pools.api_url, pools.auth_string, run_of_k3s, secretName="prefect-jobs-secrets-staging"
    )
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "prefect-jobs-secrets-staging"}}]


def test_a_strict_reader_would_see_a_field_that_does_not_exist(
    pools: Project, run_of_k3s: str
) -> None:
    job = job_manifest(pools.api_url, pools.auth_string, run_of_k3s)
    pod = job["spec"]["template"]["spec"]
    del pod["parallelism"], pod["completions"]
    pod["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFileSystem"):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
