"""`millrace deploy`: create the deployments of every `prefect.yaml` in one version."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from infrastructure.prefect_resources.deployments import prefect_yaml, preflight, releases
from infrastructure.prefect_resources.deployments.deployment_resources import (
    SLASH,
    DeploymentKind,
    build_desired,
)
from infrastructure.prefect_resources.deployments.flow_schema import load_schemas
from infrastructure.prefect_resources.deployments.prefect_yaml import Deployment
from infrastructure.prefect_resources.deployments.releases import Release
from infrastructure.prefect_resources.reconcile import plan_table
from infrastructure.prefect_resources.reconcile.plan import Action, Step, apply, plan
from infrastructure.prefect_resources.reconcile.resources import Desired
from prefect_flows.core.code_version import get_version
from prefect_flows.core.command_line import EXIT_FAILED, exits_with_expected_errors
from prefect_flows.core.errors import ConfigurationError, did_you_mean
from prefect_flows.core.prefect_api import api_changes, prefect_client
from prefect_flows.core.project_folder import shorten_path
from prefect_flows.core.projects import load_projects
from prefect_flows.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

app = typer.Typer(add_completion=False)


@dataclass
class DeployPlan:
    """Deployments to write, and failures so far.

    Attributes:
        declared: valid deployments of the files.
        desired: name of a deployment, without its flow → its desired state.
        failures: name of a deployment or file → its faults, one line each.
        unknown_targets: targets of invalid deployments; contains None if a target is unknown.
    """

    declared: list[Deployment] = field(default_factory=list)
    desired: dict[str, Desired] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    unknown_targets: set[str | None] = field(default_factory=set)

    @property
    def targets(self) -> list[str]:
        """Targets of the declared deployments, without duplicates."""
        return list(dict.fromkeys(each.target for each in self.declared))


@app.command()
@exits_with_expected_errors
def deploy(
    target: Annotated[
        list[str] | None, typer.Argument(help="Only these targets. All by default.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Image of the runs. MILLRACE_IMAGE by default.")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Another work pool than the files name.")] = None,
    dry_run: plan_table.DryRun = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove deployments that no file has any more.")
    ] = False,
) -> None:
    """Deploy the pipeline and every source, in the version of this folder."""
    console = Console()
    settings = load_settings()
    version = get_version(settings)
    image = image or settings.image
    work = _read(settings, target or [])
    with prefect_client() as client:
        available = preflight.load_existing_resources(client)
        projects = load_projects(settings)
        others = {
            name for name, mark in available.targets.items() if projects.belongs_to_another(mark)
        }
        without = sorted(set(available.targets) - set(work.targets) - others)
        for name in without if not target else []:
            console.print(
                f"Target {name}: setup has made it, and no deployment is for it "
                f"({prefect_yaml.FILE})", highlight=False, soft_wrap=True,
            )  # fmt: skip
        _check(client, settings, work, available, version=version, pool=pool, image=image)
        steps = _plan(client, work, target or [], others)
        console.print(plan_table.format_table(steps, prune=prune))
        if not dry_run:
            with api_changes(client):
                _write(client, work, steps, prune=prune)
                _record(client, work, steps, Release("", version, image, releases.DEPLOYED, []))
    console.print(_results(work, steps, version, dry_run=dry_run, prune=prune))
    if work.failures:
        for name, faults in work.failures.items():
            for each in faults:
                console.print(f"{name}: {each}", markup=False, highlight=False, soft_wrap=True)
        console.print(f"Failed: {', '.join(work.failures)}.", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def _read(settings: Settings, targets: Sequence[str]) -> DeployPlan:
    """Read every file; faults in one file do not keep the others from being deployed.

    Raises:
        ConfigurationError: no file has a deployment for a given target.
    """
    work = DeployPlan()
    known: set[str] = set()
    for file in prefect_yaml.list_deployment_files(settings):
        try:
            valid, invalid = prefect_yaml.read_valid_and_invalid(file)
        except ConfigurationError as error:
            work.failures[str(shorten_path(file, settings.project_dir))] = [str(error)]
            work.unknown_targets.add(None)
            continue
        known |= {each.target for each in valid}
        work.declared += prefect_yaml.filter_by_target(valid, targets)
        for each in invalid:
            if not targets or each.target is None or each.target in targets:
                work.failures[each.name] = [f"{fault}; correct {file}" for fault in each.faults]
                work.unknown_targets.add(each.target)
    without = [name for name in targets if name not in work.targets]
    if without and not work.failures:
        raise ConfigurationError(
            f"No deployment is for the target {', '.join(map(repr, without))}."
            f"{did_you_mean(without[0], known)}",
            where=str(settings.project_dir / prefect_yaml.FILE),
            fix="add one there, or name a target that has one",
        )
    return work


def _check(
    client: SyncPrefectClient,
    settings: Settings,
    work: DeployPlan,
    available: preflight.ExistingResources,
    *,
    version: str,
    pool: str | None,
    image: str | None,
) -> None:
    """Add the desired state of each deployment, or its faults, to `work`."""
    projects = load_projects(settings)
    schemas = load_schemas({each.entrypoint for each in work.declared}, settings)
    for each in work.declared:
        found = list(
            preflight.find_faults(
                client, available, each, projects=projects, pool=pool, image=image
            )
        )
        schema = schemas[each.entrypoint]
        if isinstance(schema, ConfigurationError):
            found.append(str(schema))
        if found or isinstance(schema, ConfigurationError):
            work.failures[each.name] = found
            continue
        known = available.pools[pool or each.work_pool.name]
        work.desired[each.name] = build_desired(
            each, schema, version=version, pool=pool, image=image, variables=known.variables
        )


def _plan(
    client: SyncPrefectClient, work: DeployPlan, targets: Sequence[str], others: Collection[str]
) -> list[Step]:
    """Plan the deployments; nothing is orphaned while a file cannot be read.

    Args:
        client: client of the Prefect API.
        work: the deployments.
        targets: targets to deploy; all if empty.
        others: targets of other projects, whose deployments are never orphaned.
    """
    readable = all(name in {each.name for each in work.declared} for name in work.failures)
    steps = plan(
        client,
        [DeploymentKind(targets, others)],
        work.desired.values(),
        all_desired=work.desired.values() if readable else None,
    )
    return [
        step
        for step in steps
        if step.action is not Action.ORPHANED or _name_without_flow(step) not in work.failures
    ]


def _write(
    client: SyncPrefectClient, work: DeployPlan, steps: Sequence[Step], *, prune: bool
) -> None:
    """Apply each step by itself, so that an error of the API does not stop the others."""
    from prefect.exceptions import PrefectHTTPStatusError

    for step in steps:
        try:
            apply(client, [step], prune=prune)
        except PrefectHTTPStatusError as error:
            work.failures[_name_without_flow(step)] = [
                f"the Prefect API refuses it: {error.response.status_code} "
                f"{error.response.text}; correct {prefect_yaml.FILE}, or the pool's template"
            ]


def _record(
    client: SyncPrefectClient, work: DeployPlan, steps: Sequence[Step], like: Release
) -> None:
    """Record a release for each target that changed and has no failure."""
    for target in work.targets:
        names = [each.name for each in work.declared if each.target == target]
        changed = {_name_without_flow(s) for s in steps if s.action is not Action.UNCHANGED} & set(
            names
        )
        complete = not {None, target} & work.unknown_targets and not set(names) & set(work.failures)
        if changed and complete:
            deployments = [work.desired[name] for name in names]
            releases.record_release(
                client, Release(target, like.version, like.image, like.why, deployments)
            )


def _results(
    work: DeployPlan, steps: Sequence[Step], version: str, *, dry_run: bool, prune: bool
) -> Table:
    labels = {
        Action.CREATE: "created",
        Action.UPDATE: "updated",
        Action.UNCHANGED: "unchanged",
        Action.ORPHANED: "removed" if prune else "orphaned",
    }
    result = Table("deployment", "work pool", "result", title=f"Version {version}")
    result.title_justify = "left"
    for step in steps:
        pool = str(step.desired.data["work_pool_name"]) if step.desired is not None else ""
        failed = _name_without_flow(step) in work.failures
        done = "failed" if failed else "would be " * dry_run + labels[step.action]
        result.add_row(step.name, pool, done)
    planned = {_name_without_flow(step) for step in steps}
    for name in work.failures:
        if name not in planned:
            result.add_row(name, "", "failed")
    return result


def _name_without_flow(step: Step) -> str:
    return step.name.split(SLASH, maxsplit=1)[1]
