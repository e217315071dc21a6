"""Check a source's `prefect.yaml`: one deployment per target, work pool, secrets, schedule."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from infrastructure.ci.check_sources.code import find_flows, list_secret_parameters
from infrastructure.ci.check_sources.folder import Fault, Source
from infrastructure.prefect_resources.config_files import find_config_file
from infrastructure.prefect_resources.deployments import prefect_yaml
from infrastructure.prefect_resources.deployments.prefect_yaml import FILE, Deployment
from infrastructure.prefect_resources.work_pools.block_references import SECRET, find_references
from infrastructure.prefect_resources.work_pools.pools_file import POOLS_FILE
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.project_folder import shorten_path
from prefect_flows.ingest import source_registry

DEV, PROD, DEV_POOL = "dev", "prod", "default-pool"
# In these work pools, each run gets its own container, started from a versioned image.
CONTAINERS = ("docker", "kubernetes")
# Job variable of the Kubernetes work pool that names a Secret of the cluster.
CLUSTER_SECRET = "secretName"  # noqa: S105 (a name)
_NAMES_A_SECRET = re.compile(r"secret|_block$", re.IGNORECASE)
_NO_SCHEDULE = re.compile(r"^[ ]*schedules: *\[\](?P<behind> *#.*)?$")


def read_deployments(source: Source) -> list[Deployment] | None:
    """Return the deployments of the source, or None if the file is invalid."""
    try:
        return prefect_yaml.read_deployments(source.project / source.relative_path(FILE))
    except ConfigurationError:
        return None


def check_syntax(source: Source) -> Iterator[Fault]:
    """Check that `millrace deploy` accepts the file, and that `pull` is empty.

    Runs use the code that is installed in their environment, so there is nothing to pull.
    """
    file = source.relative_path(FILE)
    document = source.read_yaml(file)
    if document.get("pull") != []:
        yield Fault(file, "the code of a run is what is installed where it goes", "write pull: []")
    elif read_deployments(source) is None:
        try:
            prefect_yaml.read_deployments(source.project / file)
        except ConfigurationError as error:
            for line in error.what.splitlines()[1:] or [error.what]:
                yield Fault(file, line.removeprefix("  - "), error.fix)


def check_names(source: Source) -> Iterator[Fault]:
    """Check that names are `<owner>--<name>--<target>`, with one deployment per target."""
    file = source.relative_path(FILE)
    found = read_deployments(source)
    if found is None:
        return
    for each in found:
        expected = source_registry.deployment_name(source.name, each.target)
        if each.name != expected:
            yield Fault(file, f"a deployment is called {each.name}", f"write name: {expected}")
    targets = [each.target for each in found]
    for target in sorted({each for each in targets if targets.count(each) > 1}):
        yield Fault(file, f"there are several for the target {target}", "leave one of them")


def check_targets(project: Path, known: Sequence[Source]) -> Iterator[Fault]:
    """Yield one fault for each target that only some of the sources have a deployment for.

    A target for which no source has a deployment is fine: the pipeline loads every source.
    """
    found = {
        source.name: each for source in known if (each := read_deployments(source)) is not None
    }
    for target in _targets(project):
        names_without = [
            n for n, some in found.items() if target not in {each.target for each in some}
        ]
        if 0 < len(names_without) < len(found):
            missing = ", ".join(
                source_registry.deployment_name(name, target) for name in names_without
            )
            yield Fault(
                FILE,
                f"some sources have a deployment for the target {target}, and these have none: "
                f"{', '.join(names_without)}",
                f"add each to the {FILE} of its source: {missing}",
            )


def check_entrypoints(source: Source) -> Iterator[Fault]:
    """Check that the entrypoint of each deployment is the flow of this source."""
    expected = [
        f"{source_registry.PACKAGE}.{source.name}.flow.{name}" for name in find_flows(source)
    ]
    for each in read_deployments(source) or []:
        if expected and each.entrypoint not in expected:
            yield Fault(
                source.relative_path(FILE),
                f"{each.name} would run {each.entrypoint}",
                f"write entrypoint: {expected[0]}",
            )


def check_pools(source: Source) -> Iterator[Fault]:
    """Check that dev uses the process work pool, and every other target a container pool."""
    pools_file = find_config_file(source.settings, POOLS_FILE)
    pools_by_name: Mapping[str, Any] = yaml.safe_load(pools_file.read_text())["pools"]
    pools_path = shorten_path(pools_file, source.project)
    container = [name for name, pool in pools_by_name.items() if pool["kind"] in CONTAINERS]
    for each in read_deployments(source) or []:
        pool = each.work_pool.name
        allowed = [DEV_POOL] if each.target == DEV else container
        if pool not in allowed:
            known = "" if pool in pools_by_name else f", which {pools_path} does not have"
            yield Fault(
                source.relative_path(FILE),
                f"{each.name} goes to {pool}{known}",
                f"write {' or '.join(allowed)}",
            )


def check_secrets(source: Source) -> Iterator[Fault]:
    """Check that each target has its own secrets, and that none is in plain text."""
    file = source.relative_path(FILE)
    hidden = list_secret_parameters(source)
    targets = _targets(source.project)
    pools_file = find_config_file(source.settings, POOLS_FILE)
    pools_by_name: Mapping[str, Any] = yaml.safe_load(pools_file.read_text())["pools"]
    for each in read_deployments(source) or []:
        for name in sorted(hidden & set(each.parameters)):
            block = (
                f"{source_registry.dashed_name(source.name)}-{name.replace('_', '-')}-{each.target}"
            )
            yield Fault(
                file,
                f"{each.name} has the secret {name} among its parameters, for all to read",
                f"take it out; uv run millrace secret {block}",
            )
        job_variables = each.work_pool.job_variables.model_dump(exclude_unset=True)
        for path, value in _named_secrets(
            {"parameters": each.parameters, "job_variables": job_variables}
        ):
            if path.rpartition(".")[2] in hidden or _belongs_to_target(value, path, each.target):
                continue
            yield Fault(
                file,
                f"{each.name} names the secret {value} in {path}",
                f"name one of its own target: {_strip_target(value, targets)}-{each.target}",
            )
        pool = pools_by_name.get(each.work_pool.name, {})
        if CLUSTER_SECRET in pool.get("variables", {}) and each.target != PROD:
            prod_secret = pool["variables"][CLUSTER_SECRET]["default"]
            if CLUSTER_SECRET not in job_variables:
                yield Fault(
                    file,
                    f"{each.name} would get {prod_secret}, which is prod's",
                    f"write {CLUSTER_SECRET}: {prod_secret}-{each.target} under job_variables",
                )


def _strip_target(value: str, targets: list[str]) -> str:
    """Return a name without the target suffix."""
    for target in targets:
        value = value.removesuffix(f"-{target}")
    return value


def _belongs_to_target(value: str, path: str, target: str) -> bool:
    # For prod, the pool's default Secret is used, which has no target suffix.
    prods = target == PROD and path.endswith(f".{CLUSTER_SECRET}")
    return prods or value.endswith(f"-{target}")


def _named_secrets(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _named_secrets(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _named_secrets(each, path)
    elif isinstance(value, str):
        referred = list(find_references(value))
        if referred:
            yield from ((path, each.name) for each in referred if each.slug == SECRET)
        elif _NAMES_A_SECRET.search(path.rpartition(".")[2]):
            yield path, value


def check_schedules(source: Source) -> Iterator[Fault]:
    """Check that prod's deployment has a schedule, or a comment that says why not."""
    file = source.relative_path(FILE)
    if read_deployments(source) is None:
        return
    document = source.read_yaml(file)
    for each in document["deployments"]:
        if each["parameters"]["target"] != PROD:
            continue
        if "schedules" not in each:
            yield Fault(
                file,
                f"{each['name']} does not say when it runs",
                "write schedules: [{cron: 0 4 * * *, timezone: UTC}]; or, with a comment that says "
                "why, schedules: []",
            )
        elif not each["schedules"] and not _has_explanation(source.read_text(file)):
            yield Fault(
                file,
                f"{each['name']} has no schedule, and nothing says why",
                "write a comment over schedules: [] or behind it",
            )


def _has_explanation(text: str) -> bool:
    above = ""
    for line in text.splitlines():
        found = _NO_SCHEDULE.match(line)
        if found and not found["behind"] and not above.lstrip().startswith("#"):
            return False
        above = line
    return True


def _targets(project: Path) -> list[str]:
    """Return the targets that the pipeline has deployments for."""
    try:
        found = prefect_yaml.read_deployments(project / FILE)
    except ConfigurationError:  # `millrace deploy` reports this
        return []
    return list(dict.fromkeys(each.target for each in found))
