"""The sources, a folder `<owner>__<name>` each; their names are known without importing them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from prefect_flows.errors import ConfigurationError, did_you_mean

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all sources, sorted: every folder with a `source.py`."""
    return sorted(file.parent.name for file in FOLDER.glob("*/source.py"))


def dashed(name: str) -> str:
    """A source's name where underscores cannot stand: `nyc__flights` gives `nyc-flights`."""
    return name.replace("__", "-").replace("_", "-")


def deployment_name(name: str, target: str) -> str:
    """The deployment of a source for a target: `nyc--flights--dev`."""
    return f"{name.replace('__', '--').replace('_', '-')}--{target}"


def configured(name: str, target: str) -> dict[str, Any]:
    """The arguments of a source for a target: those of its deployment in its `prefect.yaml`.

    The pipeline, the source's own flow and people read them there.
    """
    file = FOLDER / name / "prefect.yaml"
    document = yaml.safe_load(file.read_text()) if file.exists() else {}
    for deployment in document.get("deployments") or []:
        parameters = deployment.get("parameters") or {}
        if parameters.get("target") == target:
            return {key: value for key, value in parameters.items() if key != "target"}
    return {}


def flow_command(name: str, target: str) -> str:
    """The command that loads a source into a target."""
    return f"uv run python -m {__name__}.{name}.flow --target {target}"


def require(name: str) -> None:
    """Refuse a name that is no source's.

    Raises:
        ConfigurationError: there is no such source.
    """
    if name not in names():
        raise ConfigurationError(
            f"Source {name!r} does not exist; there are: {', '.join(names())}."
            f"{did_you_mean(name, names())}",
            where=str(FOLDER),
            mend=f"name one of them, or add the folder {name} with a source.py",
        )


# The variable of the dbt project that names the sources which are off.
OFF = "sources_off"


def off(dbt_project: Path, vars: Mapping[str, Any]) -> list[str]:
    """Sources that nobody has given what they need; their models are left out of dbt's graph.

    Args:
        dbt_project: dbt_project.yml, whose `vars` say it.
        vars: variables of a run, which go before.

    Raises:
        ConfigurationError: a name is no source's.
    """
    document = yaml.safe_load(dbt_project.read_text()) if OFF not in vars else {"vars": vars}
    named = (document.get("vars") or {}).get(OFF, [])
    for name in named:
        require(name)
    return list(named)
