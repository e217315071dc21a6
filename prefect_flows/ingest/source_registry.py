"""Registry of the sources (folders `<owner>__<name>`): names, deployments, disabled sources.

It knows the names without importing the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect_flows.core.documents import DocumentError, parse_yaml, read_text
from prefect_flows.core.errors import ConfigurationError, did_you_mean
from prefect_flows.core.settings import load_settings

PACKAGE = "prefect_flows.sources"
# The parameter of a source function that can load single days again. It gets a `DateWindow` from
# the dates of the run, and cannot be given as an argument.
WINDOW = "window"


def get_sources_dir() -> Path:
    """Return the folder of the project's sources.

    Raises:
        ConfigurationError: there is no project here, or a setting is invalid.
    """
    return load_settings().sources_dir


def source_names() -> list[str]:
    """List the names of all sources, sorted: every folder with a `source.py`."""
    return sorted(file.parent.name for file in get_sources_dir().glob("*/source.py"))


def dashed_name(name: str) -> str:
    """Return a source's name without underscores: `nyc__flights` gives `nyc-flights`."""
    return name.replace("__", "-").replace("_", "-")


def deployment_name(name: str, target: str) -> str:
    """Return the name of a source's deployment for a target: `nyc--flights--dev`."""
    return f"{name.replace('__', '--').replace('_', '-')}--{target}"


def configured_arguments(name: str, target: str) -> dict[str, Any]:
    """Read the arguments of a source for a target from its deployment in `prefect.yaml`.

    The pipeline and the source's own flow both use these.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    file = get_sources_dir() / name / "prefect.yaml"
    document = _require_mapping(_read_yaml(file), file) if file.exists() else {}
    for deployment in document.get("deployments") or []:
        parameters = _require_mapping(
            _require_mapping(deployment, file).get("parameters") or {}, file
        )
        if parameters.get("target") == target:
            return {key: value for key, value in parameters.items() if key != "target"}
    return {}


def flow_command(name: str, target: str) -> str:
    """Return the command that loads a source into a target."""
    return f"uv run millrace ingest {name} --target {target}"


def require_source(name: str) -> None:
    """Refuse a name that does not belong to a source.

    Raises:
        ConfigurationError: the source does not exist.
    """
    names = source_names()
    if name not in names:
        raise ConfigurationError(
            f"Source {name!r} does not exist; there are: {', '.join(names) or 'none'}."
            f"{did_you_mean(name, names)}",
            where=str(get_sources_dir()),
            fix=f"name one of them, or add the folder {name} with a source.py",
        )


# Variable of the dbt project that lists the disabled sources.
DISABLED_VARIABLE = "disabled_sources"


def disabled_sources(dbt_project: Path, vars: Mapping[str, Any]) -> list[str]:
    """List the disabled sources, which are not configured; dbt leaves out their models.

    Args:
        dbt_project: path of dbt_project.yml, whose `vars` list them.
        vars: variables of the run, which override those of the project.

    Raises:
        ConfigurationError: a name does not belong to a source.
    """
    variables = vars
    if DISABLED_VARIABLE not in vars:
        document = _require_mapping(_read_yaml(dbt_project), dbt_project)
        variables = _require_mapping(document.get("vars") or {}, dbt_project)
    names = variables.get(DISABLED_VARIABLE, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"The variable {DISABLED_VARIABLE} is not a list of names.",
            where=f"the variables of the run, or {dbt_project}",
            fix=f"write {DISABLED_VARIABLE}: [], or name sources in it: "
            f"{', '.join(source_names())}",
        )
    for name in names:
        require_source(name)
    return list(names)


def _read_yaml(file: Path) -> Any:
    try:
        return parse_yaml(read_text(file))
    except (OSError, DocumentError) as error:
        raise ConfigurationError(
            f"{file.name} cannot be read: {error}.",
            where=str(file),
            fix=f"correct {file.name}, or get it back from git",
        ) from error


def _require_mapping(value: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{file.name}, or a value in it, is not a mapping.",
            where=str(file),
            fix=f"write `name: value` lines; `git diff {file.name}` shows what changed",
        )
    return value
