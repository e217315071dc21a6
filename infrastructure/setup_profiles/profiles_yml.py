"""Write `dbt/profiles.yml`, for running dbt by hand; every secret is an `env_var`.

Setup changes only a file that it wrote, and in it only the targets that it wrote, which the second
line of the file lists. Profiles and targets that users added stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from prefect_flows.core.documents import DocumentError, parse_yaml, read_text
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.files import write_file
from prefect_flows.core.names import SETUP_COMMAND
from prefect_flows.core.profiles import Profile

HEADER = f"# Written by `{SETUP_COMMAND}` from Terraform's outputs.\n"
DEFAULT_TARGET = "dev"
_TARGETS = "# Targets that setup replaces (others stay as they are, comments do not): "


def render(file: Path, profiles: Iterable[Profile], *, has_all_targets: bool) -> str:
    """Render the new content of the file.

    Args:
        file: the current file, if any.
        profiles: one profile per target.
        has_all_targets: whether these are all targets; otherwise setup's other targets stay in
            the file.

    Raises:
        ConfigurationError: setup did not write the file, the file cannot be read, or it has a
            target of the same name that a user added.
    """
    profiles = list(profiles)
    name = profiles[0].name
    document, before = _read_existing(file, name)
    outputs = dict(document.get(name, {}).get("outputs", {}))
    new = {profile.target: profile.dbt_output() for profile in profiles}
    if before is not None:
        changed = {target for target in new if outputs.get(target, new[target]) != new[target]}
        _refuse_added(file, changed - before)
    kept = (before or set()) - set(new)
    if has_all_targets:
        outputs = {target: output for target, output in outputs.items() if target not in kept}
        kept = set()
    outputs |= new
    usual = DEFAULT_TARGET if DEFAULT_TARGET in outputs else next(iter(outputs))
    document[name] = {"target": usual, "outputs": outputs}
    written_targets = ", ".join(target for target in outputs if target in new or target in kept)
    return f"{HEADER}{_TARGETS}{written_targets}\n{yaml.safe_dump(document, sort_keys=False)}"


def _read_existing(file: Path, name: str) -> tuple[dict[str, Any], set[str] | None]:
    """Return the content of the file, and the targets that setup wrote, or None if unknown."""
    if not file.exists():
        return {}, None
    try:
        text = read_text(file)
    except (OSError, DocumentError) as error:
        raise _corrupt_file_error(file, str(error)) from error
    if not text.startswith(HEADER):
        raise ConfigurationError(
            f"Setup did not write {file.name}, and does not change it.",
            where=str(file),
            fix=f"keep the file and make only the blocks: {SETUP_COMMAND} --blocks-only; or move "
            f"it away (mv {file} {file}.own), run setup again, and add the profiles and targets "
            "that you need to the new file: setup keeps them",
        )
    try:
        document = parse_yaml(text)
    except DocumentError as error:
        raise _corrupt_file_error(file, str(error)) from error
    found = document.get(name, {"outputs": {}}) if isinstance(document, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("outputs"), dict):
        raise _corrupt_file_error(file, f"profile {name!r} has no outputs")
    listed = re.search(f"^{re.escape(_TARGETS)}(.*)$", text, re.MULTILINE)
    return document, set(listed[1].split(", ")) if listed else None


def _corrupt_file_error(file: Path, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{file.name} cannot be read: {what}.",
        where=str(file),
        fix=f"correct it, or move it away: mv {file} {file}.damaged; then run setup again",
    )


def _refuse_added(file: Path, added: set[str]) -> None:
    if added:
        names = ", ".join(sorted(added))
        raise ConfigurationError(
            f"{file.name} has {names} already, and setup did not write that target.",
            where=str(file),
            fix=f"take {names} out of the file, or give it another name; then run setup again",
        )


def write(file: Path, text: str) -> None:
    """Write the file atomically, readable only by its owner.

    Raises:
        ConfigurationError: the disk is full, or permissions are missing.
    """
    try:
        write_file(file, text.encode(), 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{file.name} cannot be written: {error.strerror}.",
            where=str(file),
            fix=f"give yourself write permission there, then: {SETUP_COMMAND} --profiles-only",
        ) from error
