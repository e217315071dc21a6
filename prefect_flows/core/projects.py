"""The projects that a clone belongs to, by which it knows its own targets (decision 13)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import Settings

# Field of a target's profile block with the id of the project that made it.
OWNER_FIELD = "project"


@dataclass(frozen=True)
class Projects:
    """The projects that this clone belongs to: none before its first setup.

    Attributes:
        file: file with the ids.
        ids: ids of the projects, the clone's own first.
        is_from_setting: whether the setting names the project; the file is then not written.
    """

    file: Path
    ids: Sequence[str] = ()
    is_from_setting: bool = False

    def belongs_to_another(self, mark: str | None) -> bool:
        """Return whether a marker is another project's. A clone without a project joins any."""
        return bool(mark and self.ids and mark not in self.ids)


def load_projects(settings: Settings) -> Projects:
    """Return the projects in the setting and the clone's file.

    Raises:
        ConfigurationError: the file is corrupt.
    """
    file = settings.local_dir / "projects"
    ids = read_project_ids(file)
    if settings.project is None:
        return Projects(file, ids)
    return Projects(file, [settings.project, *ids], is_from_setting=True)


def read_project_ids(file: Path) -> list[str]:
    """Read the ids in the clone's file; none if there is no file.

    Raises:
        ConfigurationError: the file is corrupt, so it is not known which targets are the clone's.
    """
    ids = file.read_bytes().decode(errors="replace").split() if file.exists() else []
    if any(re.fullmatch(r"[\w.-]+", each) is None for each in ids):
        raise ConfigurationError(
            "The file that names this clone's projects is damaged.",
            where=str(file),
            fix=f"move it away (mv {file} {file}.damaged) and run setup again: it joins the "
            "project of the targets that it finds at the same place; or name it: MILLRACE_PROJECT",
        )
    return ids
