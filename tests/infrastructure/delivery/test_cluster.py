"""Deliveries to Kubernetes: the real kubectl before a stand-in of its API, and a real Prefect.

What a cluster alone can do is stood in for: a port is forwarded to the Prefect server of this
machine, `exec` says what a pod would, and the worker's heartbeat is sent from here.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster_stand_in import Cluster, served
from tests.support.project import Project

KUBECTL = shutil.which("kubectl")
pytestmark = [
    pytest.mark.delivery,
    pytest.mark.skipif(
        KUBECTL is None,
        reason="SKIPPED: kubectl is not on this machine, so nothing is delivered by it",
    ),
]
WORKER_IMAGE = "prefecthq/prefect:3.9.1-python3.11-kubernetes"
SHIM = """\
#!{python}
import os, pathlib, signal, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
if "port-forward" in words:
    print("Forwarding from 127.0.0.1:{port} -> 4200", flush=True)
    signal.pause()
elif "exec" in words and "printenv" in words:
    print((here / "version").read_text())
elif "exec" in words:
    assert "pg_dump" in words[-3], words
    print("24K " + words[-1])
else:
    os.execv({kubectl!r}, ["kubectl", *words])
"""


def image(number: int) -> str:
    return f"ghcr.io/somebody/millrace@sha256:{number:064d}"


def path(kind: str, name: str) -> str:
    group = "/apis/apps/v1" if kind == "deployments" else "/apis/coordination.k8s.io/v1"
    return f"{group}/namespaces/millrace/{kind}/{name}"


@dataclass
class Stage:
    """A namespace, a Prefect server, and `deliver` between them."""

    project: Project
    cluster: Cluster
    bin: Path
    environment: dict[str, str]
    notices: list[str] = field(default_factory=list)

    def deliver(self, number: int, *options: str) -> subprocess.CompletedProcess[str]:
        version = f"v{number}"
        (self.bin / "version").write_text(version)
        return self.project.run(
            "-m", "infrastructure.cli", "deliver", "kubernetes", "--target", "dev",
            "--context", "trial", "--image", image(number), "--health-timeout", "15", *options,
            MILLRACE_VERSION=version, **self.environment,
        )  # fmt: skip

    def running(self) -> str:
        server = self.cluster.objects[path("deployments", "prefect-server")]
        return str(server["spec"]["template"]["spec"]["containers"][0]["image"])

    def deployments(self) -> dict[str, Any]:
        return {
            each["name"]: (each["version"], each["job_variables"].get("image"))
            for each in self.project.asked("deployments")
        }

    def pool(self) -> Any:
        return self.project.http.get("/work_pools/k3s-pool").json()

    @property
    def lease(self) -> dict[str, Any]:
        return self.cluster.objects[path("leases", "millrace-delivery")]


@pytest.fixture(scope="module")
def stage(other_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    project, folder = other_project, tmp_path_factory.mktemp("kubernetes")
    done = project.setup("--blocks-only", "--target", "dev")
    assert done.returncode == 0, done.stderr
    done = project.run("-m", "infrastructure.cli", "secret", "prefect-api-key", text="unused")
    assert done.returncode == 0, done.stderr
    shim = folder / "kubectl"
    shim.write_text(
        SHIM.format(python=sys.executable, port=project.server["port"], kubectl=KUBECTL)
    )
    shim.chmod(0o700)
    cluster = Cluster()
    encoded = {"auth-string": base64.b64encode(project.auth_string.encode()).decode()}
    cluster.write(
        "/api/v1/namespaces/millrace/secrets/prefect-api-auth",
        {"apiVersion": "v1", "kind": "Secret", "data": encoded,
         "metadata": {"name": "prefect-api-auth", "namespace": "millrace"}},
    )  # fmt: skip
    over = threading.Event()

    def beat() -> None:
        """As the worker's pod would; before the pool is there, the server says so."""
        while not over.wait(1):
            url = f"{project.api_url}/work_pools/k3s-pool/workers/heartbeat"
            project.http.post(url, json={"name": "k3s-pool"})

    beating = threading.Thread(target=beat)
    with served(cluster) as url:
        config = {
            "apiVersion": "v1", "kind": "Config", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "contexts": [{"name": "trial", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        (folder / "config").write_text(json.dumps(config))
        environment = {
            "KUBECONFIG": str(folder / "config"), "PATH": f"{folder}:{os.environ['PATH']}",
        }  # fmt: skip
        beating.start()
        yield Stage(project, cluster, folder, environment)
        over.set()
        beating.join()


def test_the_first_delivery_applies_the_manifests_and_sets_prefect_up(stage: Stage) -> None:
    done = stage.deliver(1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stage.running() == image(1)
    kinds = {each["kind"] for each in stage.cluster.objects.values()}
    assert {"StatefulSet", "NetworkPolicy", "PodDisruptionBudget", "ResourceQuota"} <= kinds
    assert stage.deployments()["dbt-dev"] == ("v1", image(1))
    # Nobody is told of dev, so that only what is of the server is there.
    assert "there is no block notify-dev" in done.stdout
    assert [each["name"] for each in stage.project.asked("automations")] == ["millrace: zombies"]
    template = stage.pool()["base_job_template"]
    assert template["variables"]["properties"]["image"]["default"] == image(1)
    assert stage.lease["spec"]["holderIdentity"] == ""
    (record,) = (stage.project.local / "deliveries").glob("*.json")
    assert json.loads(record.read_text())["result"] == "delivered"
    password = stage.project.auth_string.partition(":")[2]
    assert password not in done.stdout + done.stderr + record.read_text()


def test_a_release_whose_rollout_fails_is_undone_with_pool_and_deployments(stage: Stage) -> None:
    assert stage.deliver(2).returncode == 0
    deployments, pool = stage.deployments(), stage.pool()["base_job_template"]
    assert deployments["dbt-dev"] == ("v2", image(2))
    # GIVEN a worker that does not become ready, after the deployments have changed.
    base = stage.project.folder / "infrastructure/platforms/kubernetes/base/worker.yaml"
    text = base.read_text()
    base.write_text(text.replace(WORKER_IMAGE, "example.com/worker:broken"))
    stage.cluster.broken.add("example.com/worker:broken")
    done = stage.deliver(3)
    base.write_text(text)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "dev: rolled back: error: timed out waiting for the condition" in done.stdout
    assert stage.running() == image(2)
    worker = stage.cluster.objects[path("deployments", "prefect-worker")]
    assert worker["spec"]["template"]["spec"]["containers"][0]["image"] == WORKER_IMAGE
    assert stage.deployments() == deployments
    assert stage.pool()["base_job_template"] == pool
    assert "notice: No notification sent: there is no block notify-dev" in done.stdout


def test_another_commits_image_goes_back(stage: Stage) -> None:
    done = stage.project.run(
        "-m", "infrastructure.cli", "deliver", "kubernetes", "--target", "dev",
        "--context", "trial", "--image", image(4), "--health-timeout", "15",
        MILLRACE_VERSION="other",
        **stage.environment,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the image is of v3, and this folder of other" in done.stdout
    assert stage.running() == image(2)


def test_one_at_a_time_and_one_that_was_killed_is_taken_over(stage: Stage) -> None:
    lease = stage.lease
    lease["spec"] |= {"holderIdentity": "somebody", "renewTime": "2999-01-01T00:00:00.000000Z"}
    done = stage.deliver(5)
    assert done.returncode == 2
    assert "Another delivery is in progress: somebody." in done.stderr
    assert stage.running() == image(2)
    lease["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
    done = stage.deliver(5)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "somebody was killed; what worked before it: {'prefect-server': " in done.stdout
    assert stage.running() == image(5)


def test_what_is_refused_before_anything_is_asked(stage: Stage) -> None:
    done = stage.deliver(6, "--context", "elsewhere")
    assert done.returncode == 2
    assert "The context cannot be used: error: context elsewhere not found" in done.stderr
    for option in ("--kubeconfig=nowhere", "-h"):  # of kubectl, which then finds no fault
        done = stage.deliver(6, f"--context={option}")
        assert done.returncode == 2, done.stdout
        assert f"error: context {option} not found" in done.stderr
    done = stage.deliver(6, "--kustomization", "infrastructure/platforms/kubernetes/nowhere")
    assert done.returncode == 2
    assert (
        "fix:   name infrastructure/platforms/kubernetes/base, or an overlay of it" in done.stderr
    )
    assert stage.running() == image(5)
