"""Find the dbt project that is adopted, and copy its files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect_flows.core import git
from prefect_flows.core.documents import DocumentError, parse_yaml, read_text
from prefect_flows.core.errors import ConfigurationError

PROJECT_FILE = "dbt_project.yml"
PROFILES_FILE = "profiles.yml"
# What dbt and Python make, where no git says what belongs to the project.
MADE = frozenset({"target", "logs", "dbt_packages", "__pycache__", "node_modules", "venv"})
_URL = re.compile(r"[a-z+]+://|[\w.-]+@[\w.-]+:")


@dataclass(frozen=True)
class ForeignProject:
    """The dbt project that is adopted.

    Attributes:
        origin: what the user gave: a path or a URL.
        folder: the folder of its dbt_project.yml.
        files: its files, relative to the folder; what git ignores is not among them.
        document: the content of its dbt_project.yml.
    """

    origin: str
    folder: Path
    files: tuple[Path, ...]
    document: dict[str, Any]

    @property
    def profile(self) -> str:
        """The name of its profile."""
        return str(self.document["profile"])

    def copy(self, folder: Path) -> None:
        """Copy its files into a folder."""
        for file in self.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.folder / file, folder / file, follow_symlinks=False)


def open_project(origin: str, subfolder: str | None, scratch: Path) -> ForeignProject:
    """Find the project; a repository is cloned into the scratch folder first.

    Raises:
        ConfigurationError: there is no dbt project, or its dbt_project.yml is not valid.
        GitError: the repository cannot be cloned.
    """
    folder = Path(origin).expanduser()
    if not folder.is_dir():
        if not _URL.match(origin):
            raise ConfigurationError(
                "There is no such folder, and it is not the URL of a git repository.",
                where=origin,
                fix="uv run millrace adopt PATH, or a URL such as https://… or git@host:team/repo",
            )
        git.refuse_password(origin)
        folder = scratch / "clone"
        git.clone(origin, folder)
    folder = (folder / (subfolder or "")).resolve()
    if not (folder / PROJECT_FILE).is_file():
        raise _no_project_error(origin, folder, subfolder)
    document = _read_project(folder / PROJECT_FILE)
    files = tuple(sorted(_list_files(folder)))
    return ForeignProject(origin, folder, files, document)


def _no_project_error(origin: str, folder: Path, subfolder: str | None) -> ConfigurationError:
    found = sorted(
        str(file.parent.relative_to(folder))
        for pattern in (f"*/{PROJECT_FILE}", f"*/*/{PROJECT_FILE}")
        for file in folder.glob(pattern)
        if not MADE & set(file.parts)
    )
    there = f" It has some in: {', '.join(found[:5])}." if found else ""
    example = found[0] if found else "FOLDER"
    place = origin if subfolder is None else f"{origin}, {subfolder}"
    return ConfigurationError(
        f"The folder has no {PROJECT_FILE}.{there}",
        where=place,
        fix=f"name the folder that has it: uv run millrace adopt {origin} --subfolder {example}",
    )


def _read_project(file: Path) -> dict[str, Any]:
    try:
        document = parse_yaml(read_text(file))
    except (OSError, DocumentError) as error:
        raise ConfigurationError(
            f"{PROJECT_FILE} cannot be read: {error}.", where=str(file), fix="correct it"
        ) from error
    if not isinstance(document, dict):
        document = {}
    for key in ("name", "profile"):
        if not isinstance(document.get(key), str):
            raise ConfigurationError(
                f"{PROJECT_FILE} has no `{key}`.",
                where=str(file),
                fix=f"give it a line `{key}: <name>`",
            )
    return document


def _list_files(folder: Path) -> Iterator[Path]:
    """Yield the files of the project, relative to its folder."""
    if git.is_worktree(folder):
        listed = git.run(
            folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "."
        )
        names = (Path(name) for name in listed.split("\0") if name)
        yield from (name for name in names if (folder / name).is_file())
        return
    for place, folders, found in os.walk(folder):
        folders[:] = [each for each in folders if each not in MADE and not each.startswith(".")]
        yield from (
            (Path(place) / name).relative_to(folder) for name in found if name != ".user.yml"
        )
