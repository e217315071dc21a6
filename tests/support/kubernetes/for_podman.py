"""The manifests that `podman kube play` knows, from all of them: `for_podman.py MILLRACE POSTGRES`.

Reads what `kubectl kustomize` built and writes server and database with local images and made-up
secrets. Podman 4 knows no StatefulSet, which becomes a Deployment with its claim, and no Service,
whose name becomes loopback.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

import yaml

SECRETS = {
    "prefect-database": {"password": "made-up"},
    "prefect-api-auth": {"auth-string": "millrace:made-up"},
}


def claim_named(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return kind | {"metadata": {"name": name}, "spec": spec}


def claims_for_folders(pod: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Claims in place of a pod's empty folders.

    Podman has no fsGroup; a claim's volume is given to whom the image gave the folder.
    """
    claims = []
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            claimed = f"{name}-{volume['name']}"
            del volume["emptyDir"]
            volume["persistentVolumeClaim"] = {"claimName": claimed}
            claims.append(claim_named(claimed))
        elif "persistentVolumeClaim" in volume:
            claims.append(claim_named(volume["persistentVolumeClaim"]["claimName"]))
    return claims


def deployment(manifest: dict[str, Any], image: str) -> list[dict[str, Any]]:
    """A Deployment of one pod on loopback, after the claims that it mounts."""
    spec, name = manifest["spec"], manifest["metadata"]["name"]
    pod = spec["template"]["spec"]
    container = pod["containers"][0] | {"image": image, "imagePullPolicy": "Never"}
    # Ports are mapped where there is a network to map from, and its HTTP probes call curl inside.
    for key in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
        container.pop(key, None)
    for mount in container["volumeMounts"]:
        # Podman 4.3 follows the image's link /var/run on the machine's own files.
        mount["mountPath"] = mount["mountPath"].replace("/var/run/", "/run/")
    for variable in container["env"]:
        if variable.get("value") == "prefect-database":
            variable["value"] = "127.0.0.1"
    pod["containers"] = [container]
    for volume in pod["volumes"]:
        if "secret" in volume:
            # Podman 4.3 ends in a panic where it is not said.
            volume["secret"]["optional"] = False
    claims = claims_for_folders(pod, name)
    for claim in spec.pop("volumeClaimTemplates", []):
        volume = claim["metadata"]["name"]
        claimed = f"{name}-{volume}"
        claims.append(claim_named(claimed))
        pod["volumes"].append({"name": volume, "persistentVolumeClaim": {"claimName": claimed}})
    for key in ("serviceName", "strategy"):
        spec.pop(key, None)
    return [*claims, manifest | {"kind": "Deployment"}]


def main(millrace: str, postgres: str) -> None:
    images = {"prefect-server": millrace, "prefect-database": postgres}
    given: list[dict[str, Any]] = [
        {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in keys.items()},
        }
        for name, keys in SECRETS.items()
    ]  # fmt: skip
    workloads = {"Deployment", "StatefulSet"}
    for manifest in yaml.safe_load_all(sys.stdin):
        image = images.get(manifest["metadata"]["name"])
        if manifest["kind"] in workloads and image:
            given += deployment(manifest, image)
    yaml.safe_dump_all(given, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
