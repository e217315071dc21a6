"""Evaluate the API's responses: server, work pools, workers and deployments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC
from typing import Any

from packaging.version import Version

from infrastructure.operate.health_check.check_result import USERINFO, Check, Status
from infrastructure.operate.health_check.facts import (
    ApiState,
    DeploymentState,
    Pool,
    Server,
    Target,
)
from prefect_flows.core.formatting import format_duration

PREFECT = "uv run prefect"
WORKER_COMMAND = "uv run millrace worker"
POOLS_COMMAND = "uv run millrace pools"
DEPLOY_COMMAND = "uv run millrace deploy"
# Prefect's own rule: a worker that missed this many heartbeats is offline.
MISSED_HEARTBEATS = 3
USUAL_HEARTBEAT_SECONDS = 30
# The scheduler schedules the runs of a new deployment within a minute.
SCHEDULING_SECONDS = 120
# Names with such an ending contain a secret; `secretName` and `TOKEN_FILE` only refer to one.
SECRET_NAME = re.compile(
    r"(password|passwd|passphrase|secret|token|api_?key|(private|access|secret|account)_?key|"
    r"auth_?string)$",
    re.IGNORECASE,
)
# A reference that is resolved when a run starts: block, Prefect variable, environment variable.
REFERENCE_PATTERN = re.compile(r".*\{\{.*\}\}.*|\$\w+|\$\{\w+\}|\*+")


def evaluate_server(server: Server) -> Check:
    """Check that the client is not newer than the server, and both have one major version."""
    seen = f"{server.url} answers, Prefect {server.version}, client {server.client_version}"
    if server.is_cloud:
        return Check("api", "", Status.OK, f"{server.url} answers, Prefect Cloud")
    theirs, ours = Version(server.version), Version(server.client_version)
    if theirs.major != ours.major:
        status = Status.FAILED
    elif theirs < ours:
        status = Status.WARNING
    else:
        return Check("api", "", Status.OK, seen)
    return Check(
        "api", "", status, f"{seen}: the {'client' if theirs > ours else 'server'} is too old",
        fix=f"give both one version: prefect=={max(theirs, ours)} (pyproject.toml, or the image)",
    )  # fmt: skip


def evaluate_pool(pool: Pool, facts: ApiState) -> Iterator[Check]:
    """Check that a work pool exists, is not paused, and has an online worker."""
    if pool.pool is None:
        command = f"{POOLS_COMMAND} --pool {pool.name}"
        yield Check("pool", pool.name, Status.FAILED, "does not exist", command)
        return
    if pool.pool.is_paused:
        yield Check(
            "pool", pool.name, Status.WARNING, "is paused: no run of it begins",
            f"{PREFECT} work-pool resume {pool.name}",
        )  # fmt: skip
    else:
        status = (pool.pool.status or "unknown").lower().replace("_", " ")
        yield Check("pool", pool.name, Status.OK, f"type {pool.pool.type}, {status}")
    yield _evaluate_queues(pool, facts)
    yield _evaluate_workers(pool, facts)


def _evaluate_queues(pool: Pool, facts: ApiState) -> Check:
    used = {
        deployed.deployment.work_queue_name or "default"
        for target in facts.targets
        for deployed in target.deployments
        if deployed.deployment.work_pool_name == pool.name
    }
    known = {queue.name: queue for queue in pool.queues}
    missing = sorted(used - known.keys())
    paused = sorted(name for name in used & known.keys() if known[name].is_paused)
    if missing:
        seen = f"queue {', '.join(missing)} does not exist"
        return Check(
            "queues", pool.name, Status.FAILED, seen, f"{POOLS_COMMAND} --pool {pool.name}"
        )
    if paused:
        return Check(
            "queues", pool.name, Status.WARNING, f"{', '.join(paused)} paused: no run of it begins",
            f"{PREFECT} work-queue resume {paused[0]} --pool {pool.name}",
        )  # fmt: skip
    return Check("queues", pool.name, Status.OK, ", ".join(sorted(used)))


def _evaluate_workers(pool: Pool, facts: ApiState) -> Check:
    assert pool.pool is not None  # noqa: S101 # judged only when there is one
    if pool.pool.is_push_pool or pool.pool.is_managed_pool:
        return Check(
            "worker", pool.name, Status.SKIPPED, f"a pool of type {pool.pool.type} has none"
        )
    beats = {
        worker.name: (
            facts.age(worker.last_heartbeat_time),
            worker.heartbeat_interval_seconds or USUAL_HEARTBEAT_SECONDS,
            worker.status == "ONLINE",
        )
        for worker in pool.workers
        if worker.last_heartbeat_time is not None
    }
    alive = {
        name: age
        for name, (age, interval, online) in beats.items()
        if online and age <= MISSED_HEARTBEATS * interval
    }
    if alive:
        seen = ", ".join(
            f"{name} {format_duration(age)} ago" for name, age in sorted(alive.items())
        )
        return Check("worker", pool.name, Status.OK, f"{len(alive)} online; last heartbeat: {seen}")
    fix = f"start one: {WORKER_COMMAND} --pool {pool.name}; or restart its container or unit"
    if not beats:
        return Check("worker", pool.name, Status.FAILED, "no worker ever asked this pool", fix)
    name, (age, *_) = min(beats.items(), key=lambda beat: beat[1][0])
    seen = f"none online; the last heartbeat, of {name}, came {format_duration(age)} ago"
    return Check("worker", pool.name, Status.FAILED, seen, fix)


def evaluate_deployments(target: Target, facts: ApiState) -> Iterator[Check]:
    """Check that the target has a deployment of the pipeline, and that its deployments can run."""
    if not any(deployed.is_pipeline for deployed in target.deployments):
        seen = "no deployment of the pipeline"
        fix = f"{DEPLOY_COMMAND} {target.name}"
        yield Check("deployment", target.name, Status.WARNING, seen, fix)
    for deployed in target.deployments:
        yield _evaluate_deployment(deployed, target, facts)
        yield _evaluate_secrets(deployed, target)


def _evaluate_deployment(deployed: DeploymentState, target: Target, facts: ApiState) -> Check:
    deployment, name = deployed.deployment, deployed.name
    if deployment.work_pool_name is None:
        return Check(
            "deployment", name, Status.FAILED, "its work pool is gone: no run of it begins",
            f"{POOLS_COMMAND}, then {DEPLOY_COMMAND} {target.name}",
        )  # fmt: skip
    if deployment.paused:
        return Check(
            "deployment", name, Status.WARNING, "is paused",
            f"{PREFECT} api POST /deployments/{deployment.id}/resume_deployment",
        )  # fmt: skip
    seen, fix = _describe_schedule(deployed, facts)
    if deployment.version:
        seen = f"version {deployment.version}, {seen}"
    return Check("deployment", name, Status.WARNING if fix else Status.OK, seen, fix)


def _describe_schedule(deployed: DeploymentState, facts: ApiState) -> tuple[str, str | None]:
    """Describe the schedule of a deployment; return a fix if it will not run."""
    deployment = deployed.deployment
    inactive = [schedule for schedule in deployment.schedules if not schedule.active]
    if inactive:
        fix = f"{PREFECT} deployment schedule resume {deployed.name} {inactive[0].id}"
        return "a schedule of it is inactive", fix
    if not deployment.schedules:
        return "no schedule", None
    if deployed.next_run is not None:
        return f"next run {deployed.next_run.astimezone(UTC):%Y-%m-%d %H:%M} UTC", None
    changed = deployment.updated or deployment.created
    if changed is not None and facts.age(changed) < SCHEDULING_SECONDS:
        return "its runs are being scheduled", None
    return (
        "has a schedule, but no run is scheduled",
        "see that the server's scheduler runs: it is part of prefect server start, "
        "except with --no-services",
    )


def _evaluate_secrets(deployed: DeploymentState, target: Target) -> Check:
    paths = [
        *find_plaintext_secrets(deployed.deployment.job_variables, "job_variables"),
        *find_plaintext_secrets(deployed.deployment.pull_steps, "pull_steps"),
        *find_plaintext_secrets(deployed.deployment.parameters, "parameters"),
    ]
    if not paths:
        return Check("secrets", deployed.name, Status.OK, "none in clear in the deployment")
    return Check(
        "secrets", deployed.name, Status.FAILED, f"in clear, for every reader: {', '.join(paths)}",
        # `prefect deploy` replaces the reference with the block's content.
        f"change that secret, and deploy what keeps the reference: {DEPLOY_COMMAND} {target.name}",
    )  # fmt: skip


def find_plaintext_secrets(value: Any, path: str) -> Iterator[str]:
    """Yield the paths of values whose name means a secret, or that are URLs with a password."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from find_plaintext_secrets(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from find_plaintext_secrets(inner, f"{path}[{index}]")
    elif isinstance(value, str) and value and not REFERENCE_PATTERN.fullmatch(value.strip()):
        found = USERINFO.search(value)
        in_url = found is not None and ":" in found.group() and "{{" not in found.group()
        if SECRET_NAME.search(path) or in_url:
            yield path
