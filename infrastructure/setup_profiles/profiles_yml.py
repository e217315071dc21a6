"""`dbt/profiles.yml`, for whoever calls dbt by hand: every target, every secret an `env_var`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from prefect_flows.errors import ConfigurationError
from prefect_flows.targets import SETUP_COMMAND, Profile

HEADER = f"# Written by `{SETUP_COMMAND}` from Terraform's outputs.\n"
USUAL_TARGET = "dev"


def profile_name(dbt_dir: Path) -> str:
    """The profile's name, as `dbt_project.yml` gives it.

    Raises:
        ConfigurationError: the file, or the name in it, is missing.
    """
    file = dbt_dir / "dbt_project.yml"
    try:
        document = yaml.safe_load(file.read_text())
        return str(document["profile"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"The name of the dbt profile cannot be read: {type(error).__name__}: {error}.",
            where=str(file),
            mend="give it a line `profile: <name>`",
        ) from error


def rendered(file: Path, profiles: Iterable[Profile], *, whole: bool) -> str:
    """The text that the file should have.

    Args:
        profiles: one for each target.
        whole: whether these are all targets; else the file's other targets stay as they are.
    """
    profiles = list(profiles)
    name = profiles[0].name
    outputs = {}
    if not whole and file.exists():
        outputs = yaml.safe_load(file.read_text())[name]["outputs"]
    outputs |= {profile.target: profile.dbt_output() for profile in profiles}
    usual = USUAL_TARGET if USUAL_TARGET in outputs else next(iter(outputs))
    document = {name: {"target": usual, "outputs": outputs}}
    return HEADER + yaml.safe_dump(document, sort_keys=False)


def write(file: Path, text: str) -> None:
    """Replace the file in one step, readable by its owner only.

    Raises:
        ConfigurationError: the disk, or the folder's permissions, do not allow it.
    """
    draft = file.with_suffix(".tmp")
    try:
        draft.touch(mode=0o600)
        draft.chmod(0o600)
        draft.write_text(text)
        draft.replace(file)
    except OSError as error:
        raise ConfigurationError(
            f"{file.name} cannot be written: {error.strerror}.",
            where=str(file),
            mend=f"give yourself write permission there, then: {SETUP_COMMAND} --profiles-only",
        ) from error
