"""Build a kustomization, and replace its image with the one of the release."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prefect_flows.core.errors import ConfigurationError

SERVER, WORKER = "prefect-server", "prefect-worker"
# Shown by `kubectl rollout history`.
CAUSE = "kubernetes.io/change-cause"


@dataclass(frozen=True)
class Manifests:
    """Objects to apply, and their namespace."""

    namespace: str
    objects: list[dict[str, Any]]


def build(kustomization: Path, image: str, cause: str) -> Manifests:
    """Build a kustomization with an image.

    Raises:
        ConfigurationError: it cannot be built, or has no Deployment of the server.
    """
    done = subprocess.run(
        ["kubectl", "kustomize", "--", str(kustomization)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    servers = [
        each
        for each in objects
        if each["kind"] == "Deployment" and each["metadata"]["name"] == SERVER
    ]
    if done.returncode or not servers:
        raise ConfigurationError(
            done.stderr.strip() or f"It has no Deployment {SERVER}.",
            where=str(kustomization),
            fix="name infrastructure/platforms/kubernetes/base, or an overlay of it, with "
            "--kustomization",
        )
    image_name = _name(servers[0]["spec"]["template"]["spec"]["containers"][0]["image"])
    for each in objects:
        if each["kind"] not in ("Deployment", "StatefulSet"):
            continue
        each["metadata"].setdefault("annotations", {})[CAUSE] = cause
        for container in each["spec"]["template"]["spec"]["containers"]:
            if _name(container["image"]) == image_name:
                container["image"] = image
    return Manifests(servers[0]["metadata"]["namespace"], objects)


def _name(image: str) -> str:
    """Return an image's name without tag and digest."""
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
