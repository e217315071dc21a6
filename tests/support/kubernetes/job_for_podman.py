"""The job of a flow run as a pod that podman knows: `job_for_podman.py RUN_ID`.

Podman 4 knows no Job, whose pod is taken out of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.support.job_manifest import job_manifest
from tests.support.kubernetes.for_podman import claims_for_folders

NAME = "millrace-job"


def main(run_id: str) -> None:
    api = os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]
    job = job_manifest(*api, run_id)
    template = job["spec"]["template"]
    pod = template["spec"]
    # They belong to the job; a cluster drops them from the pod with a warning.
    del pod["parallelism"], pod["completions"]
    for container in pod["containers"]:
        container["imagePullPolicy"] = "Never"
    claims = claims_for_folders(pod, NAME)
    labels = template.get("metadata", {}).get("labels", {})
    kind = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, "labels": labels}}
    yaml.safe_dump_all([*claims, kind | {"spec": pod}], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
