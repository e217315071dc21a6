"""The sources, a folder `<owner>__<name>` each; their names are known without importing them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect_flows.core.documents import Unreadable, parse_yaml, read_text
from prefect_flows.core.errors import ConfigurationError, did_you_mean

PACKAGE = "prefect_flows.sources"
FOLDER = Path(__file__).parents[1] / "sources"


def source_names() -> list[str]:
    """The names of all sources, sorted: every folder with a `source.py`."""
    return sorted(file.parent.name for file in FOLDER.glob("*/source.py"))


def dashed_name(name: str) -> str:
    """A source's name where underscores cannot stand: `nyc__flights` gives `nyc-flights`."""
    return name.replace("__", "-").replace("_", "-")


def deployment_name(name: str, target: str) -> str:
    """The deployment of a source for a target: `nyc--flights--dev`."""
    return f"{name.replace('__', '--').replace('_', '-')}--{target}"


def configured_arguments(name: str, target: str) -> dict[str, Any]:
    """The arguments of a source for a target: those of its deployment in its `prefect.yaml`.

    The pipeline, the source's own flow and people read them there.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    file = FOLDER / name / "prefect.yaml"
    document = _mapping(_document(file), file) if file.exists() else {}
    for deployment in document.get("deployments") or []:
        parameters = _mapping(_mapping(deployment, file).get("parameters") or {}, file)
        if parameters.get("target") == target:
            return {key: value for key, value in parameters.items() if key != "target"}
    return {}


def flow_command(name: str, target: str) -> str:
    """The command that loads a source into a target."""
    return f"uv run millrace ingest {name} --target {target}"


def require_source(name: str) -> None:
    """Refuse a name that is no source's.

    Raises:
        ConfigurationError: there is no such source.
    """
    if name not in source_names():
        raise ConfigurationError(
            f"Source {name!r} does not exist; there are: {', '.join(source_names())}."
            f"{did_you_mean(name, source_names())}",
            where=str(FOLDER),
            fix=f"name one of them, or add the folder {name} with a source.py",
        )


# The variable of the dbt project that names the sources which are off.
DISABLED_VARIABLE = "disabled_sources"


def disabled_sources(dbt_project: Path, vars: Mapping[str, Any]) -> list[str]:
    """Sources that nobody has given what they need; their models are left out of dbt's graph.

    Args:
        dbt_project: dbt_project.yml, whose `vars` say it.
        vars: variables of a run, which go before.

    Raises:
        ConfigurationError: a name is no source's.
    """
    given = vars
    if DISABLED_VARIABLE not in vars:
        document = _mapping(_document(dbt_project), dbt_project)
        given = _mapping(document.get("vars") or {}, dbt_project)
    named = given.get(DISABLED_VARIABLE, [])
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ConfigurationError(
            f"The variable {DISABLED_VARIABLE} is no list of names.",
            where=f"the variables of the run, or {dbt_project}",
            fix=f"write {DISABLED_VARIABLE}: [], or name sources in it: "
            f"{', '.join(source_names())}",
        )
    for name in named:
        require_source(name)
    return list(named)


def _document(file: Path) -> Any:
    try:
        return parse_yaml(read_text(file))
    except (OSError, Unreadable) as error:
        raise ConfigurationError(
            f"{file.name} cannot be read: {error}.",
            where=str(file),
            fix=f"correct {file.name}, or get it back from git",
        ) from error


def _mapping(value: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{file.name} has something else where names with values belong.",
            where=str(file),
            fix=f"write `name: value` lines; `git diff {file.name}` shows what changed",
        )
    return value
