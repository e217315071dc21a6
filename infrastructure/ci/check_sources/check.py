"""Run every check on one source, and the checks across sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infrastructure.ci.check_sources import code, deployments, layout, models
from infrastructure.ci.check_sources.folder import (
    PACKAGE,
    Fault,
    Source,
    Unreadable,
    all_sources,
    switched_off,
)

Check = Callable[[Source], Iterator[Fault]]

CHECKS: tuple[Check, ...] = (
    layout.name,
    layout.files,
    layout.package,
    layout.image,
    layout.readme,
    code.dlt_source,
    code.flow,
    code.imports,
    code.environment,
    deployments.understood,
    deployments.names,
    deployments.entrypoints,
    deployments.pools,
    deployments.secrets,
    deployments.schedule,
    models.declaration,
    models.described,
    models.switch,
)


@dataclass(frozen=True)
class Result:
    """The faults of a source, or a summary of its contents if it has none."""

    name: str
    faults: Sequence[Fault]
    summary: str = ""


def check(source: Source) -> Result:
    """Run every check on a source and return each fault once."""
    found: dict[Fault, None] = {}
    for each in CHECKS:
        found.update(dict.fromkeys(_faults(each, source)))
    if found:
        return Result(source.name, list(found))
    counts = {
        "deployment": len(deployments.read(source) or []),
        "table": len(models.tables(source)),
        "staging model": len(models.staging(source)),
    }
    summary = ", ".join(f"{n} {what}{'s' * (n != 1)}" for what, n in counts.items())
    return Result(source.name, [], summary + (", off" if source.is_off else ""))


def _faults(check: Check, source: Source) -> Iterator[Fault]:
    try:
        yield from check(source)
    except Unreadable as error:
        # The `files` check already reports a missing file.
        if (source.project / error.fault.file).is_file():
            yield error.fault


def between(project: Path) -> Iterator[Fault]:
    """Yield the faults that span sources: duplicate packages, unknown switches, missing targets."""
    known = all_sources(project)
    yield from models.unknown_switches(switched_off(project), [s.name for s in known])
    yield from deployments.without_target(project, known)
    by_package: dict[str, str] = {}
    for source in known:
        other = by_package.setdefault(source.package, source.name)
        if other != source.name:
            yield Fault(
                source.place(PACKAGE),
                f"package, image and secrets of {source.name} are called like those of {other}: "
                f"{source.package}",
                "rename one of the folders",
            )
