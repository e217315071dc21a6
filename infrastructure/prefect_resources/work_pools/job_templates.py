"""Build base job templates: Prefect's own of the installed version, with our overrides."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

from jsonschema import Draft202012Validator

from infrastructure.prefect_resources.work_pools.block_references import REFERENCE
from infrastructure.prefect_resources.work_pools.pools_file import POOLS_FILE, Kind, Pool
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.project_folder import get_install_command

# Kind → module and class of its worker, and the extra that installs it.
WORKERS = {
    "process": ("prefect.workers.process", "ProcessWorker", None),
    "docker": ("prefect_docker.worker", "DockerWorker", None),
    "kubernetes": ("prefect_kubernetes.worker", "KubernetesWorker", "kubernetes"),
}
# pools.yaml sets this job variable under `env`, where secrets are checked for.
ENV = "env"
# Keys under which a template stores the schemas of blocks.
DEFINITIONS = ("$defs", "definitions")


def get_default_template(kind: Kind) -> dict[str, Any]:
    """Return Prefect's base job template for a kind of work pool.

    Raises:
        ConfigurationError: the package of the kind's worker is not installed.
    """
    module, name, extra = WORKERS[kind]
    try:
        worker = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Prefect's template for {kind} pools comes with {module.split('.')[0]}, which is not "
            "installed.",
            where=f"kind {kind} in {POOLS_FILE}",
            fix=f"{get_install_command(extra) if extra else 'uv sync'}; or leave the pools of that "
            "kind out: --pool default-pool",
        ) from error
    return deepcopy(cast("dict[str, Any]", worker.get_default_base_job_template()))


def build_template(name: str, pool: Pool) -> dict[str, Any]:
    """Build the base job template of a work pool.

    Raises:
        ConfigurationError: the pool sets a job variable that the template does not have, or an
            invalid value.
    """
    template = get_default_template(pool.kind)
    properties = template["variables"]["properties"]
    properties |= deepcopy(dict(pool.variables))
    for each in properties.values():
        _accept_reference(each)
    faults = []
    for key, value in pool.defaults.items():
        if key not in properties or key == ENV:
            known = ", ".join(sorted(set(properties) - {ENV}))
            faults.append(
                f"defaults.{key}: no job variable of {pool.kind} pools; they have {known}"
            )
            continue
        schema = {
            **{name: template["variables"].get(name, {}) for name in DEFINITIONS},
            **properties[key],
        }
        faults += [
            f"defaults.{key}: {error.message}"
            for error in Draft202012Validator(schema).iter_errors(value)
        ]
        properties[key] = properties[key] | {"default": value}
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise ConfigurationError(
            f"{len(faults)} fault(s) in the work pool {name!r}:\n{listed}",
            where=f"{POOLS_FILE}: pools.{name}",
            fix="correct them; prefect work-pool get-default-base-job-template "
            f"--type {pool.kind} shows all that a template has",
        )
    properties[ENV] = properties[ENV] | {"default": dict(pool.env)}
    template["job_configuration"] = merge(template["job_configuration"], pool.job_configuration)
    return template


def _accept_reference(variable: dict[str, Any]) -> None:
    """Accept a reference where the schema asks for a block.

    Prefect's server validates a deployment's job variables against the schema before the worker
    resolves references. Otherwise a deployment could only contain the block's id or plain fields.
    """
    if any("$ref" in each for each in variable.get("anyOf", [])):
        variable["anyOf"].append({"type": "string", "pattern": REFERENCE})


def merge(below: Any, above: Any) -> Any:
    """Return `below` merged with `above`, recursively, with lists merged item by item.

    A null in a mapping removes the key.
    """
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        merged = {**below, **{k: merge(below.get(k), v) for k, v in above.items()}}
        return {k: v for k, v in merged.items() if not (k in above and above[k] is None)}
    if isinstance(below, list) and isinstance(above, list):
        both = [merge(b, a) for b, a in zip(below, above, strict=False)]
        return both + deepcopy(above[len(below) :]) + deepcopy(below[len(above) :])
    return deepcopy(above)
