"""Run every check on one source, and the checks across sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from infrastructure.ci.check_sources import code, deployments, layout, models
from infrastructure.ci.check_sources.folder import (
    PACKAGE,
    Fault,
    Source,
    UnreadableFileError,
    list_disabled_sources,
    list_sources,
)
from prefect_flows.core.settings import Settings

Check = Callable[[Source], Iterator[Fault]]

CHECKS: tuple[Check, ...] = (
    layout.check_name,
    layout.check_files,
    layout.check_package,
    layout.check_image,
    layout.check_readme,
    code.check_dlt_source,
    code.check_flow,
    code.check_imports,
    code.check_environment,
    deployments.check_syntax,
    deployments.check_names,
    deployments.check_entrypoints,
    deployments.check_pools,
    deployments.check_secrets,
    deployments.check_schedules,
    models.check_declaration,
    models.check_descriptions,
    models.check_switch,
)


@dataclass(frozen=True)
class CheckResult:
    """The faults of a source, or a summary of its contents if it has none."""

    name: str
    faults: Sequence[Fault]
    summary: str = ""


def check_source(source: Source) -> CheckResult:
    """Run every check on a source and return each fault once."""
    found: dict[Fault, None] = {}
    for each in CHECKS:
        found.update(dict.fromkeys(_faults(each, source)))
    if found:
        return CheckResult(source.name, list(found))
    counts = {
        "deployment": len(deployments.read_deployments(source) or []),
        "table": len(models.list_tables(source)),
        "staging model": len(models.list_staging_models(source)),
    }
    summary = ", ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items())
    return CheckResult(source.name, [], summary + (", off" if source.is_disabled else ""))


def _faults(check: Check, source: Source) -> Iterator[Fault]:
    try:
        yield from check(source)
    except UnreadableFileError as error:
        # The `files` check already reports a missing file.
        if (source.project / error.fault.file).is_file():
            yield error.fault


def check_across_sources(settings: Settings) -> Iterator[Fault]:
    """Yield the faults that span sources: duplicate packages, unknown switches, missing targets."""
    known = list_sources(settings)
    yield from models.check_unknown_switches(
        settings, list_disabled_sources(settings), [s.name for s in known]
    )
    yield from deployments.check_targets(settings.project_dir, known)
    by_package: dict[str, str] = {}
    for source in known:
        other = by_package.setdefault(source.package, source.name)
        if other != source.name:
            yield Fault(
                source.relative_path(PACKAGE),
                f"package, image and secrets of {source.name} are called like those of {other}: "
                f"{source.package}",
                "rename one of the folders",
            )
