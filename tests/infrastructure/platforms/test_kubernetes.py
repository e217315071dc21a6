"""The manifests: their schema, what they refer to, and the `restricted` standard of pods.

Policies, budgets, roles and admission need a cluster, and none is here; `.ci/kubernetes` runs the
server and its database with podman.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.project import REPOSITORY

KUBERNETES = REPOSITORY / "infrastructure" / "platforms" / "kubernetes"
OVERLAYS = {"base": "millrace", "overlays/staging": "millrace-staging"}
# Pods of flow runs come from the work pool's template, and carry this label.
FLOW_RUN = {"prefect.io/flow-run-id": "any"}

Manifest = dict[str, Any]

kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="SKIPPED: kubectl is not on this machine, so the kustomizations are not built",
)


def documents(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def built(overlay: str) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / overlay)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return documents(done.stdout)


@pytest.fixture(params=OVERLAYS, scope="module")
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def manifests(overlay: str) -> list[Manifest]:
    if shutil.which("kubectl"):
        return built(overlay)
    if overlay != "base":
        pytest.skip("SKIPPED: kubectl is not on this machine, so the overlay is not built")
    kustomization = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    files = [KUBERNETES / "base" / name for name in kustomization["resources"]]
    return [document for file in files for document in documents(file.read_text())]


def validated(manifest: Manifest, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "manifest.yaml"
    file.write_text(yaml.safe_dump(manifest))
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_manifest_is_of_its_schema(manifests: list[Manifest], tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" passed for resource ") == len(manifests) > 20


def test_the_examples_of_secrets_are_too_and_hold_none(tmp_path: Path) -> None:
    for secret in documents((KUBERNETES / "base" / "secrets.example.yaml").read_text()):
        assert validated(secret, tmp_path).returncode == 0
        assert set(secret["stringData"].values()) == {""}


def test_a_key_that_does_not_exist_is_refused(manifests: list[Manifest], tmp_path: Path) -> None:
    server = json.loads(json.dumps(find(manifests, "Deployment", "prefect-server")))
    assert validated(server, tmp_path).returncode == 0
    server["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    done = validated(server, tmp_path)
    assert done.returncode == 1
    assert "livenesProbe" in done.stdout + done.stderr


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return found


def named(manifests: list[Manifest], kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in manifests if one["kind"] == kind}


def workloads(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pod templates, by name."""
    kinds = {"Deployment", "StatefulSet", "Job"}
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in manifests
        if one["kind"] in kinds
    }


def test_everything_is_in_its_namespace(manifests: list[Manifest], overlay: str) -> None:
    namespace = OVERLAYS[overlay]
    assert named(manifests, "Namespace") == {namespace}
    places = {one["metadata"].get("namespace") for one in manifests if one["kind"] != "Namespace"}
    assert places == {namespace}
    binding = find(manifests, "RoleBinding", "prefect-worker")
    assert [subject["namespace"] for subject in binding["subjects"]] == [namespace]


def test_the_namespace_refuses_pods_that_ask_for_more(manifests: list[Manifest]) -> None:
    (namespace,) = (one for one in manifests if one["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@kubectl
def test_one_line_names_the_image() -> None:
    server = workloads(built("base"))["prefect-server"]["spec"]["containers"][0]
    assert server["image"] == "registry.example.com/millrace:0.1.0"


# What the manifests refer to


def values(node: Any, key: str) -> Iterator[Any]:
    """Everything that stands under a key, however deep."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from values(item, key)


def secrets_in_example() -> dict[str, set[str]]:
    found = documents((KUBERNETES / "base" / "secrets.example.yaml").read_text())
    return {secret["metadata"]["name"]: set(secret["stringData"]) for secret in found}


def test_every_account_and_secret_referred_to_exists(manifests: list[Manifest]) -> None:
    accounts = named(manifests, "ServiceAccount")
    assert {pod["spec"]["serviceAccountName"] for pod in workloads(manifests).values()} <= accounts
    assert "prefect-job" in accounts

    secrets = secrets_in_example()
    for reference in values(manifests, "secretKeyRef"):
        assert reference["key"] in secrets[reference["name"]]
    mounted = set(values(manifests, "secretName"))
    assert mounted == {"prefect-database", "prefect-api-auth"} <= set(secrets)
    # The worker hands these on to its Jobs.
    given = {
        entry["name"]: entry.get("value")
        for entry in workloads(manifests)["prefect-worker"]["spec"]["containers"][0]["env"]
    }
    name = given["PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME"]
    key = given["PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_KEY"]
    assert key in secrets[name]


def test_every_file_read_is_a_key_of_a_mounted_secret(manifests: list[Manifest]) -> None:
    secrets, read = secrets_in_example(), 0
    for pod in workloads(manifests).values():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) <= set(volumes) | {"data"}
            for entry in container["env"]:
                if entry["name"].endswith("_FILE"):
                    place = Path(entry["value"])
                    secret = volumes[mounts[str(place.parent)]]["secret"]["secretName"]
                    assert place.name in secrets[secret]
                    read += 1
    assert read == 3


def test_no_variable_holds_a_secret(manifests: list[Manifest]) -> None:
    for pod in workloads(manifests).values():
        for container in pod["spec"]["containers"]:
            for entry in container["env"]:
                if entry["name"].endswith(("PASSWORD", "AUTH_STRING", "API_KEY")):
                    assert "value" not in entry


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Kubernetes' own rule, for the operators used here."""
    exist = [rule["key"] for rule in selector.get("matchExpressions", [])]
    assert all(rule["operator"] == "Exists" for rule in selector.get("matchExpressions", []))
    return all(key in labels for key in exist) and all(
        labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()
    )


def test_selectors_find_their_pods(manifests: list[Manifest]) -> None:
    pods = {name: pod["metadata"]["labels"] for name, pod in workloads(manifests).items()}

    def found(selector: Manifest) -> list[str]:
        return [name for name, labels in pods.items() if selects(selector, labels)]

    for one in manifests:
        name = one["metadata"]["name"]
        if one["kind"] in {"Deployment", "StatefulSet"}:
            assert found(one["spec"]["selector"]) == [name]
        if one["kind"] == "Service":
            assert found({"matchLabels": one["spec"]["selector"]}) == [name]
            ports = [
                port["name"]
                for port in values(workloads(manifests)[name], "ports")
                for port in port
            ]
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= set(ports)


def test_every_pod_has_a_budget(manifests: list[Manifest]) -> None:
    pods = [pod["metadata"]["labels"] for pod in workloads(manifests).values()] + [FLOW_RUN]
    budgets = [one for one in manifests if one["kind"] == "PodDisruptionBudget"]
    for labels in pods:
        assert len([one for one in budgets if selects(one["spec"]["selector"], labels)]) == 1
    assert len(budgets) == len(pods)


def allowed(
    manifests: list[Manifest], way: str, here: dict[str, str], there: dict[str, str]
) -> set[int]:
    """Ports that the policies of `here` leave open to or from pods of `there`."""
    peers = {"Ingress": ("ingress", "from"), "Egress": ("egress", "to")}
    rules, direction = peers[way]
    ports: set[int] = set()
    for policy in (one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"):
        if way not in policy["policyTypes"] or not selects(policy["podSelector"], here):
            continue
        for rule in policy.get(rules, []):
            named_peers = rule.get(direction, [{"podSelector": {}}])
            if any(
                "podSelector" in peer
                and "namespaceSelector" not in peer
                and selects(peer["podSelector"], there)
                for peer in named_peers
            ):
                ports |= {port["port"] for port in rule["ports"]}
    return ports


def test_who_may_talk_to_whom(manifests: list[Manifest]) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in workloads(manifests).items()}
    server, database = labels["prefect-server"], labels["prefect-database"]
    worker = labels["prefect-worker"]

    def open_between(here: dict[str, str], there: dict[str, str]) -> set[int]:
        out = allowed(manifests, "Egress", here, there)
        return out & allowed(manifests, "Ingress", there, here)

    assert open_between(worker, server) == {4200}
    assert open_between(FLOW_RUN, server) == {4200}
    assert open_between(server, database) == {5432}
    assert open_between(worker, database) == set()
    assert open_between(FLOW_RUN, database) == set()
    assert open_between(server, worker) == set()
    everybody = find(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert everybody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("name", ["prefect-server", "flow-runs"])
def test_receivers_of_notices_are_reached(manifests: list[Manifest], name: str) -> None:
    """By runs, and by the server when an automation fires; a node's metadata by neither."""
    policy = find(manifests, "NetworkPolicy", name)["spec"]
    (rule,) = (
        one
        for one in policy["egress"]
        if any(peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" for peer in one["to"])
    )
    assert rule["to"][0]["ipBlock"]["except"] == ["169.254.0.0/16"]
    assert [port["port"] for port in rule["ports"]] == [443, 465, 587]


def test_the_worker_may_make_jobs_and_read_their_pods(manifests: list[Manifest]) -> None:
    rules = find(manifests, "Role", "prefect-worker")["rules"]
    granted = {
        (resource, verb)
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {
        ("jobs", "create"),
        ("jobs", "delete"),
        ("pods", "list"),
        ("pods/log", "get"),
    } <= granted
    writing = {resource for resource, verb in granted if verb not in {"get", "list", "watch"}}
    assert writing == {"jobs"}
    assert not {resource for resource, _ in granted} & {"secrets", "*", "pods/exec"}
    bound = [one["subjects"] for one in manifests if one["kind"] == "RoleBinding"]
    assert [subject["name"] for (subject,) in bound] == ["prefect-worker"]


# The `restricted` standard, as the admission controller of a cluster checks it


def breaches(spec: Manifest) -> list[str]:
    """What of a pod the standard refuses; restricted, Kubernetes 1.32."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    pod = spec.get("securityContext", {})
    kinds = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
             "projected", "secret"}  # fmt: skip
    for volume in spec.get("volumes", []):
        found += [f"volume {kind}" for kind in set(volume) - {"name"} - kinds]
    for container in spec.get("initContainers", []) + spec["containers"]:
        name, own = container["name"], container.get("securityContext", {})
        merged = pod | own
        if own.get("privileged"):
            found.append(f"{name}: privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: allowPrivilegeEscalation")
        if merged.get("runAsNonRoot") is not True or merged.get("runAsUser") == 0:
            found.append(f"{name}: runAsNonRoot")
        if merged.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
            found.append(f"{name}: seccompProfile")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []):
            found.append(f"{name}: capabilities.drop")
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append(f"{name}: capabilities.add")
        found += [f"{name}: hostPort" for port in container.get("ports", []) if "hostPort" in port]
    return found


def beyond_the_standard(spec: Manifest) -> list[str]:
    """What we ask for on top: nothing writable but named volumes, limits, all three probes."""
    found = []
    for container in spec["containers"]:
        own = container["securityContext"]
        if own.get("readOnlyRootFilesystem") is not True:
            found.append("readOnlyRootFilesystem")
        found += [
            probe
            for probe in ("startupProbe", "readinessProbe", "livenessProbe")
            if probe not in container
        ]
        for kind in ("requests", "limits"):
            if set(container["resources"][kind]) != {"cpu", "memory", "ephemeral-storage"}:
                found.append(f"resources.{kind}")
        tag = container["image"].rpartition(":")[2]
        if "/" in tag or tag == "latest":
            found.append("a tag that stays")
    return found


def test_pods_keep_to_the_restricted_standard(manifests: list[Manifest]) -> None:
    for pod in workloads(manifests).values():
        assert breaches(pod["spec"]) == []
        assert beyond_the_standard(pod["spec"]) == []


def test_only_the_worker_is_given_a_token(manifests: list[Manifest]) -> None:
    pods = workloads(manifests)
    given = {name for name, pod in pods.items() if pod["spec"]["automountServiceAccountToken"]}
    assert given == {"prefect-worker"}
    accounts = [one for one in manifests if one["kind"] == "ServiceAccount"]
    assert not [one for one in accounts if one["automountServiceAccountToken"]]


def spoil_user(spec: Manifest) -> None:
    spec["securityContext"]["runAsUser"] = 0


def spoil_capabilities(spec: Manifest) -> None:
    del spec["containers"][0]["securityContext"]["capabilities"]


def spoil_volume(spec: Manifest) -> None:
    spec["volumes"].append({"name": "socket", "hostPath": {"path": "/var/run/docker.sock"}})


@pytest.mark.parametrize(
    ("spoil", "breach"),
    [
        (spoil_user, "server: runAsNonRoot"),
        (spoil_capabilities, "server: capabilities.drop"),
        (spoil_volume, "volume hostPath"),
    ],
)
def test_a_pod_that_breaks_the_standard_is_found(
    manifests: list[Manifest], spoil: Callable[[Manifest], None], breach: str
) -> None:
    spec = json.loads(json.dumps(workloads(manifests)["prefect-server"]["spec"]))
    spoil(spec)
    assert breaches(spec) == [breach]


# Prefect's charts


def chart_values(chart: str) -> Manifest:
    return dict(yaml.safe_load((KUBERNETES / "helm" / f"{chart}-values.yaml").read_text()))


def test_the_charts_are_given_the_names_of_the_manifests() -> None:
    server, worker = chart_values("prefect-server"), chart_values("prefect-worker")
    secrets = secrets_in_example()
    # The chart reads this key of it.
    assert "auth-string" in secrets[server["server"]["basicAuth"]["existingSecret"]]
    assert server["externalDatabase"]["passwordSecretKey"] in secrets["prefect-database"]
    (ui,) = (each for each in server["server"]["env"] if each["name"] == "PREFECT_UI_URL")
    ours = workloads(documents((KUBERNETES / "base" / "server.yaml").read_text()))
    assert ui in ours["prefect-server"]["spec"]["containers"][0]["env"]
    image = worker["worker"]["image"]
    base = documents((KUBERNETES / "base" / "worker.yaml").read_text())
    container = workloads(base)["prefect-worker"]["spec"]["containers"][0]
    assert container["image"] == f"{image['repository']}:{image['prefectTag']}"
    assert f"--pool={worker['worker']['config']['workPool']}" in container["args"]


def unknown_keys(given: Any, known: Any, place: str = "") -> list[str]:
    """Keys that the chart's own values do not have; what is empty there takes any."""
    if not (isinstance(given, dict) and isinstance(known, dict) and known):
        return []
    return [f"{place}{key}" for key in given if key not in known] + [
        fault
        for key in given
        # The schema is strict about resources, and knows more of them than the values show.
        if key in known and key != "resources"
        for fault in unknown_keys(given[key], known[key], f"{place}{key}.")
    ]


@pytest.mark.skipif(
    "PREFECT_HELM_CHARTS" not in os.environ,
    reason="SKIPPED: PREFECT_HELM_CHARTS names no folder `charts` of a clone of prefect-helm, so"
    " the values are not held against its charts",
)
@pytest.mark.parametrize("chart", ["prefect-server", "prefect-worker"])
def test_the_charts_take_the_values(chart: str) -> None:
    folder, given = Path(os.environ["PREFECT_HELM_CHARTS"]) / chart, chart_values(chart)
    schema = json.loads((folder / "values.schema.json").read_text())
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(given)] == []
    # The schema leaves many objects open.
    assert unknown_keys(given, yaml.safe_load((folder / "values.yaml").read_text())) == []
    part = chart.removeprefix("prefect-")
    assert list(jsonschema.Draft7Validator(schema).iter_errors({part: {"replicaCuont": 1}}))


# YAML


def yamllint(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "yamllint",
            "--strict",
            "--config-file",
            ".yamllint.yaml",
            *arguments,
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_yaml_of_infrastructure_is_tidy(tmp_path: Path) -> None:
    done = yamllint("infrastructure")
    assert done.returncode == 0, done.stdout
    untidy = tmp_path / "untidy.yaml"
    untidy.write_text("a: 1\na: 2\n")
    assert 'duplication of key "a"' in yamllint(str(untidy)).stdout
