"""A stand-in of Kubernetes' API for the real kubectl: objects, and what becomes of a Deployment.

Knows what a delivery asks for: discovery, get, list, watch, create, replace, server-side apply, the
JSON patch of `rollout undo`, ReplicaSets with revisions. A pod of an image that `broken` names
never becomes ready. Logs in nobody, admits everything, runs nothing.
"""

from __future__ import annotations

import copy
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

REVISION = "deployment.kubernetes.io/revision"
# Group and version → kind → plural, and whether it lies in a namespace.
KINDS: dict[str, dict[str, tuple[str, bool]]] = {
    "v1": {
        "Namespace": ("namespaces", False), "Service": ("services", True),
        "ServiceAccount": ("serviceaccounts", True), "Secret": ("secrets", True),
        "ConfigMap": ("configmaps", True), "LimitRange": ("limitranges", True),
        "ResourceQuota": ("resourcequotas", True),
        "PersistentVolumeClaim": ("persistentvolumeclaims", True),
    },
    "apps/v1": {
        "Deployment": ("deployments", True), "StatefulSet": ("statefulsets", True),
        "ReplicaSet": ("replicasets", True),
    },
    "networking.k8s.io/v1": {"NetworkPolicy": ("networkpolicies", True)},
    "policy/v1": {"PodDisruptionBudget": ("poddisruptionbudgets", True)},
    "rbac.authorization.k8s.io/v1": {
        "Role": ("roles", True), "RoleBinding": ("rolebindings", True),
    },
    "coordination.k8s.io/v1": {"Lease": ("leases", True)},
}  # fmt: skip
Object = dict[str, Any]


class Refused(Exception):
    """An answer that is a Status of Kubernetes."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


class Cluster:
    """Objects by their path, and the controller of Deployments."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.broken: set[str] = set()
        self.lock = threading.RLock()
        self._version = 0

    def write(self, path: str, given: Object, *, create: bool = False) -> Object:
        """Store an object, as a create or a replacement of it."""
        with self.lock:
            found = self.objects.get(path)
            name = path.rpartition("/")[2]
            if create and found is not None:
                raise Refused(409, "AlreadyExists", f'"{name}" already exists')
            claimed = given["metadata"].get("resourceVersion")
            if found and claimed and claimed != found["metadata"]["resourceVersion"]:
                raise Refused(409, "Conflict", f'"{name}" has been modified')
            stored = copy.deepcopy(given)
            self._version += 1
            old = found["metadata"] if found else {"uid": f"uid-{self._version}", "generation": 0}
            changed = not found or found.get("spec") != stored.get("spec")
            stored["metadata"] |= {
                "resourceVersion": str(self._version), "uid": old["uid"],
                "creationTimestamp": old.get("creationTimestamp", "2026-01-01T00:00:00Z"),
                "generation": old["generation"] + changed,
            }  # fmt: skip
            self.objects[path] = stored
            if stored["kind"] == "Deployment":
                self._control(path, stored)
            return stored

    def _control(self, path: str, deployment: Object) -> None:
        """What the controllers make of a Deployment: its ReplicaSet, its revision, its status."""
        base = path.rpartition("/deployments/")[0] + "/replicasets"
        spec, metadata = deployment["spec"], deployment["metadata"]
        sets = [
            each
            for key, each in self.objects.items()
            if key.startswith(f"{base}/{metadata['name']}-")
        ]
        newest = max((int(each["metadata"]["annotations"][REVISION]) for each in sets), default=0)
        same = next((each for each in sets if each["spec"]["template"] == spec["template"]), None)
        if same is None or int(same["metadata"]["annotations"][REVISION]) != newest:
            newest += 1
        notes = metadata.setdefault("annotations", {})
        notes[REVISION] = str(newest)
        name = same["metadata"]["name"] if same else f"{metadata['name']}-{newest}"
        self.objects[f"{base}/{name}"] = {
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": metadata["namespace"], "uid": f"uid-{name}",
                "labels": spec["template"]["metadata"]["labels"], "annotations": dict(notes),
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment",
                                     "name": metadata["name"], "uid": metadata["uid"],
                                     "controller": True}],
            },
            "spec": {"replicas": 1, "selector": spec["selector"], "template": spec["template"]},
        }  # fmt: skip
        images = {each["image"] for each in spec["template"]["spec"]["containers"]}
        ready = int(not images & self.broken)
        deployment["status"] = {
            "observedGeneration": metadata["generation"], "replicas": 1, "updatedReplicas": 1,
            "readyReplicas": ready, "availableReplicas": ready, "unavailableReplicas": 1 - ready,
            "conditions": [],
        }  # fmt: skip

    def patch(self, path: str, kind: str, body: bytes) -> Object:
        """A server-side apply, or the JSON patch of an undo."""
        with self.lock:
            if kind == "application/apply-patch+yaml":
                given = yaml.safe_load(body)
                notes = self.objects.get(path, given)["metadata"].get("annotations", {})
                given["metadata"]["annotations"] = notes | given["metadata"].get("annotations", {})
                return self.write(path, given)
            if kind != "application/json-patch+json":
                raise Refused(415, "UnsupportedMediaType", kind)
            found = copy.deepcopy(self.objects[path])
            for change in json.loads(body):
                keys = change["path"].strip("/").split("/")
                inner = found
                for key in keys[:-1]:
                    inner = inner[key]
                inner[keys[-1]] = change["value"]
            return self.write(path, found)


class Handler(http.server.BaseHTTPRequestHandler):
    """Kubernetes' paths."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def _answer(self, document: Object, code: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _do(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.command == "GET":
                self._get(url.path.rstrip("/"), query)
            elif self.command == "POST":
                given = yaml.safe_load(body)
                path = f"{url.path}/{given['metadata']['name']}"
                self._answer(self.cluster.write(path, given, create=True), 201)
            elif self.command == "PUT":
                self._answer(self.cluster.write(url.path, yaml.safe_load(body)))
            else:
                self._answer(self.cluster.patch(url.path, self.headers["Content-Type"], body))
        except Refused as error:
            status = {
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {},
                "code": error.code, "reason": error.reason, "message": error.message,
            }  # fmt: skip
            self._answer(status, error.code)

    do_GET = do_POST = do_PUT = do_PATCH = _do  # noqa: N815 # as http.server calls them

    def _get(self, path: str, query: dict[str, str]) -> None:
        if path == "/openapi/v2":
            # An empty schema, in protobuf: older clients then validate nothing.
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if (found := discovery(path)) is not None:
            self._answer(found)
            return
        kind = next(
            (kind for version, kinds in KINDS.items() for kind, (plural, _) in kinds.items()
             if path.endswith(f"/{plural}")), None,
        )  # fmt: skip
        with self.cluster.lock:
            one = self.cluster.objects.get(path)
            several = [each for key, each in self.cluster.objects.items()
                       if key.rpartition("/")[0] == path and selected(each, query)]  # fmt: skip
        if one is not None:
            self._answer(one)
        elif kind is None:
            raise Refused(404, "NotFound", f"{path} not found")
        elif "watch" in query:
            self._watch(several)
        else:
            version = "v1" if path.startswith("/api/") else "/".join(path.split("/")[2:4])
            self._answer({"kind": f"{kind}List", "apiVersion": version, "items": several,
                          "metadata": {"resourceVersion": "1"}})  # fmt: skip

    def _watch(self, several: list[Object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        for each in several:
            self.wfile.write(json.dumps({"type": "ADDED", "object": each}).encode() + b"\n")
        self.wfile.flush()
        # Nothing changes by itself here.
        time.sleep(2)
        self.close_connection = True


def selected(each: Object, query: dict[str, str]) -> bool:
    """Whether an object is one of those that a list or a watch asks for."""
    name = query.get("fieldSelector", "").removeprefix("metadata.name=")
    wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)
    labels = each["metadata"].get("labels", {})
    return name in ("", each["metadata"]["name"]) and wanted.items() <= labels.items()


def discovery(path: str) -> Object | None:  # noqa: PLR0911 # one for each document
    """What the API says of itself."""
    groups = [version for version in KINDS if "/" in version]
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        listed = [
            {"name": each.split("/")[0], "versions": [version], "preferredVersion": version}
            for each in groups
            for version in [{"groupVersion": each, "version": each.split("/")[1]}]
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    prefixes = {each: f"/api/{each}" if each == "v1" else f"/apis/{each}" for each in KINDS}
    if path == "/openapi/v3":
        return {
            "paths": {
                prefix.strip("/"): {"serverRelativeURL": f"/openapi/v3{prefix}"}
                for prefix in prefixes.values()
            }
        }
    for version, kinds in KINDS.items():
        prefix = prefixes[version]
        if path == f"/openapi/v3{prefix}":
            return {"openapi": "3.0.0", "info": {"title": "stand-in", "version": "1"},
                    "paths": dict(patches(version, kinds))}  # fmt: skip
        if path == prefix:
            verbs = ["create", "get", "list", "patch", "update", "watch"]
            listed = [
                {"name": plural, "singularName": kind.lower(), "kind": kind,
                 "namespaced": namespaced, "verbs": verbs}
                for kind, (plural, namespaced) in kinds.items()
            ]  # fmt: skip
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
                    "resources": listed}  # fmt: skip
    return None


def patches(
    version: str, kinds: dict[str, tuple[str, bool]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """That patches of these kinds are validated by the server, which kubectl asks for."""
    group, _, number = version.rpartition("/")
    for kind, (plural, _) in kinds.items():
        yield f"/{version}/{plural}/{{name}}", {
            "patch": {
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": {
                    "group": group, "version": number, "kind": kind,
                },
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "responses": {},
            }
        }  # fmt: skip


@contextmanager
def served(cluster: Cluster) -> Iterator[str]:
    """The address of a cluster's API."""
    handler = type("OfCluster", (Handler,), {"cluster": cluster})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
