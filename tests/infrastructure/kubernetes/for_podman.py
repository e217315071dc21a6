"""The manifests that `podman kube play` knows, from all of them: `for_podman.py MILLRACE POSTGRES`.

Reads what `kubectl kustomize` built and writes server and database with local images and made-up
secrets. Podman 4 knows no StatefulSet, which becomes a Deployment with its claim, and no Service,
whose name becomes one of loopback.
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


def deployment(manifest: dict[str, Any], image: str) -> list[dict[str, Any]]:
    """A Deployment of one pod on loopback, after the claims that it mounts."""
    spec, name = manifest["spec"], manifest["metadata"]["name"]
    pod = spec["template"]["spec"]
    pod["hostAliases"] = [{"ip": "127.0.0.1", "hostnames": ["prefect-database"]}]
    pod["containers"][0] |= {"image": image, "imagePullPolicy": "Never"}
    for volume in pod["volumes"]:
        if "secret" in volume:
            # Podman 4.3 ends in a panic where it is not said.
            volume["secret"]["optional"] = False
    claims = []
    for claim in spec.pop("volumeClaimTemplates", []):
        volume = claim["metadata"]["name"]
        claimed = f"{name}-{volume}"
        claims.append(
            claim | {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
            | {"metadata": {"name": claimed}}
        )  # fmt: skip
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
